"""Rewards, advantages, PPO loss and gradients, and fine-tuning gradients of two small students.

Written from the formulas, not from the trainer: advantages as sums over all later tokens, whitening in float64,
log-probabilities by torch's log_softmax over the whole vocabulary. The settings are chosen unequal, so that each of
them affects the results.
"""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import T5Config

from make_t5_values import GATED, RELU
from student import MultimodalT5

VALUES = Path(__file__).parent / "values"
SETTINGS = {
    "gamma": 0.9,
    "lambda": 0.8,
    "clip": 0.2,
    "kl_coefficient": 0.05,
    "neutral_score": 0.4,
    "value_coefficient": 0.7,
}
SIZES = {"vocab_size": 64, "d_model": 16, "d_kv": 4, "d_ff": 24, "num_heads": 3, "num_layers": 2}
SIZES = {**SIZES, "num_decoder_layers": 1}
# Token index of each sentence's end, with its score; the last rollout is cut off in the middle of a sentence.
SENTENCES = [[[2, 0.9], [7, 0.2]], [[3, 1.0]], [[1, 0.0], [5, 0.7], [11, 0.4]]]
LENGTHS = [9, 5, 12]


def build(seed, shape, tied, width):
    torch.manual_seed(seed)
    model = MultimodalT5(T5Config(**SIZES, **shape, decoder_start_token_id=0), width, tied).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("layer_norm.weight"):
                parameter.copy_(1 + 0.2 * torch.randn_like(parameter))
            elif parameter.dim() == 1:
                parameter.copy_(0.2 * torch.randn_like(parameter))
            elif "relative_attention_bias" in name:
                parameter.copy_(torch.randn_like(parameter))
    return model


def pad(rows):
    longest = max(len(row) for row in rows)
    return torch.tensor([list(row) + [0] * (longest - len(row)) for row in rows])


def batch(patches, width):
    """Sources, targets and pictures (float16, as the features files are; the last problem has none)."""
    sources = [torch.randint(2, 64, (length,)).tolist() + [1] for length in (10, 5, 16)]
    targets = [torch.randint(2, 64, (length,)).tolist() for length in LENGTHS]
    for target in targets[:2]:
        target[-1] = 1
    pictures = torch.randn(3, patches, width).half()
    pictures[2] = 0
    return sources, targets, pictures


def given_to(sources, targets, pictures):
    return {
        "input_ids": pad(sources),
        "attention_mask": pad([[1] * len(source) for source in sources]),
        "decoder_input_ids": pad([[0, *target[:-1]] for target in targets]),
        "image_features": pictures.float(),
    }


def logprobs(model, given, targets):
    table = model.logits(**given).log_softmax(-1)
    return table.gather(-1, pad(targets).unsqueeze(-1)).squeeze(-1)


def gradients(model, prefix):
    found = {f"{prefix}.{name}": p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def real(rows):
    """The rows of a padded batch without their padding, one after the other."""
    return torch.cat([row[:length] for row, length in zip(rows, LENGTHS)])


def fine_tuning(model, given, targets, prefix):
    loss = -real(logprobs(model, given, targets)).mean()
    loss.backward()
    return loss.item(), gradients(model, prefix)


def rewards(old, reference, ends):
    found = -SETTINGS["kl_coefficient"] * (old - reference)
    for token, score in ends:
        found[token] += score - SETTINGS["neutral_score"]
    return found


def advantages(reward, value):
    """A_t = the sum over l of (γλ)^l · δ_{t+l}, δ_t = r_t + γ·V_{t+1} − V_t, with V = 0 after the last token."""
    after = torch.cat([value[1:], value.new_zeros(1)])
    delta = (reward + SETTINGS["gamma"] * after - value).double()
    factor = SETTINGS["gamma"] * SETTINGS["lambda"]
    count = len(delta)
    sums = [sum(factor ** (later - t) * delta[later] for later in range(t, count)) for t in range(count)]
    return torch.stack(sums).float()


def value_model(policy, given, head):
    states = policy(
        encoder_outputs=policy.encode(given["input_ids"], given["attention_mask"], given["image_features"]),
        attention_mask=given["attention_mask"],
        decoder_input_ids=given["decoder_input_ids"],
        use_cache=False,
        output_hidden_states=True,
    )
    return head(states.decoder_hidden_states[-1]).squeeze(-1)


def reinforcement(policy, sources, targets, pictures, folder):
    given = given_to(sources, targets, pictures)
    d = policy.config.d_model
    head = nn.Sequential(nn.Linear(d, 2 * d), nn.ReLU(), nn.Linear(2 * d, 1))
    with torch.no_grad():
        now = logprobs(policy, given, targets)
        old = now + 0.3 * torch.randn_like(now)
        reference = old + 0.3 * torch.randn_like(now)
        value = 0.5 * torch.randn_like(now)
    rollouts = []
    for row, (target, ends) in enumerate(zip(targets, SENTENCES)):
        mine = {"old_logprobs": old, "ref_logprobs": reference, "values": value}
        mine = {name: numbers[row, : len(target)] for name, numbers in mine.items()}
        mine["rewards"] = rewards(mine["old_logprobs"], mine["ref_logprobs"], ends)
        mine["advantages"] = advantages(mine["rewards"], mine["values"])
        mine["returns"] = mine["advantages"] + mine["values"]
        rollouts.append(mine)
    joined = {name: torch.cat([rollout[name] for rollout in rollouts]) for name in rollouts[0]}
    raw = joined["advantages"].double()
    whitened = ((raw - raw.mean()) / (raw.var() + 1e-8).sqrt()).float()

    new = real(logprobs(policy, given, targets))
    ratio = (new - joined["old_logprobs"]).exp()
    low, high = 1 - SETTINGS["clip"], 1 + SETTINGS["clip"]
    plain, clipped = -whitened * ratio, -whitened * ratio.clamp(low, high)
    policy_loss = torch.maximum(plain, clipped).mean()
    policy_loss.backward()
    tensors = gradients(policy, "policy")
    value_loss = (real(value_model(policy, given, head)) - joined["returns"]).square().mean()
    (SETTINGS["value_coefficient"] * value_loss).backward()
    tensors |= gradients(policy, "value") | gradients(head, "value.v_head")
    tensors |= {f"v_head.{name}": tensor.detach() for name, tensor in head.state_dict().items()}

    losses = {
        "policy": policy_loss.item(),
        "value": value_loss.item(),
        "total": policy_loss.item() + SETTINGS["value_coefficient"] * value_loss.item(),
        "clip_fraction": (clipped > plain).float().mean().item(),
        "ratio": ratio.mean().item(),
        "kl": (ratio - 1 - ratio.log()).mean().item(),
    }
    rows = [
        {
            "source": sources[row],
            "tokens": targets[row],
            "sentence_ends": SENTENCES[row],
            **{name: numbers.tolist() for name, numbers in rollout.items()},
        }
        for row, rollout in enumerate(rollouts)
    ]
    told = {"settings": SETTINGS, "losses": losses, "whitened": whitened.tolist(), "rollouts": rows}
    return told, tensors


def main():
    for seed, name, shape, tied, patches, width in [
        (21, "rl_gated_untied", GATED, False, 7, 24),
        (22, "rl_relu_tied", RELU, True, 3, 40),
    ]:
        folder = VALUES / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        model = build(seed, shape, tied, width)
        sources, targets, pictures = batch(patches, width)
        loss, tensors = fine_tuning(model, given_to(sources, targets, pictures), targets, "sft")
        told, more = reinforcement(model, sources, targets, pictures, folder)
        told["sft_loss"] = loss
        save_file(model.stored(), folder / "model.safetensors", metadata={"format": "pt"})
        ids = {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}
        config = {"model_type": "t5", **ids, **SIZES, **shape}
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        (folder / "values.json").write_text(json.dumps(told) + "\n")
        save_file({**tensors, **more, "pictures": pictures.float()}, folder / "expected.safetensors")


if __name__ == "__main__":
    main()
