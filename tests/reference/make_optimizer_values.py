"""Writes values/optimizer.json: steps of torch.optim.AdamW with clipped gradients, and rates of torch's schedulers."""

import json
from pathlib import Path

import torch

PEAK, DECAY, CLIP, STEPS = 1e-2, 0.1, 1.0, 7
# Norms and everything with "bias" in its name do not decay, as in the public code.
SHAPES = {
    "shared.weight": [6, 4],
    "encoder.block.0.layer.0.layer_norm.weight": [4],
    "encoder.image_dense.bias": [4],
    "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": [4, 2],
    "decoder.block.0.layer.0.SelfAttention.q.weight": [3, 4],
    "decoder.final_layer_norm.weight": [4],
}
FREE = {name for name in SHAPES if "layer_norm" in name or "bias" in name}


def flat(tensors):
    return {name: tensor.detach().flatten().tolist() for name, tensor in tensors.items()}


def schedule(optimizer, total, warmup):
    """A linear rise over the first steps, then a linear fall that reaches 0 after the last one."""
    scheduler = torch.optim.lr_scheduler
    fall = scheduler.LinearLR(optimizer, start_factor=1.0, end_factor=0.0, total_iters=total - warmup)
    if warmup == 0:
        return fall
    if warmup == 1:
        return scheduler.SequentialLR(optimizer, [scheduler.ConstantLR(optimizer, 1.0), fall], [1])
    rise = scheduler.LinearLR(optimizer, start_factor=1 / warmup, end_factor=1.0, total_iters=warmup - 1)
    return scheduler.SequentialLR(optimizer, [rise, fall], [warmup])


def rates(peak, total, warmup):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=peak)
    scheduled = schedule(optimizer, total, warmup)
    found = []
    for _ in range(total):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduled.step()
    return found


def main():
    torch.manual_seed(5)
    weights = {name: torch.nn.Parameter(torch.randn(shape)) for name, shape in SHAPES.items()}
    groups = [
        {"params": [weight for name, weight in weights.items() if name not in FREE], "weight_decay": DECAY},
        {"params": [weight for name, weight in weights.items() if name in FREE], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=PEAK, betas=(0.9, 0.999), eps=1e-8, foreach=False)
    values = {"weight_decay": DECAY, "max_grad_norm": CLIP, "shapes": SHAPES, "start": flat(weights), "steps": []}
    for step in range(STEPS):
        # Above the clip and below it by turns; some gradients so small that epsilon counts.
        scale = [1.0, 0.05, 2.0, 1e-7, 0.5, 0.02, 3.0][step]
        for weight in weights.values():
            weight.grad = torch.randn_like(weight) * scale
        gradients = {name: weight.grad.clone() for name, weight in weights.items()}
        rate = PEAK * (1.0 - step / STEPS)
        for group in optimizer.param_groups:
            group["lr"] = rate
        norm = torch.nn.utils.clip_grad_norm_(list(weights.values()), CLIP)
        optimizer.step()
        values["steps"].append(
            {"learning_rate": rate, "gradients": flat(gradients), "norm": norm.item(), "weights": flat(weights)}
        )
    values["schedules"] = [
        {"learning_rate": peak, "warmup": warmup / total, "rates": rates(peak, total, warmup)}
        for peak, total, warmup in [(8e-5, 10, 0), (1e-3, 8, 2), (1.0, 5, 4), (2e-5, 4, 1)]
    ]
    path = Path(__file__).parent / "values" / "optimizer.json"
    path.write_text(json.dumps(values, indent=1) + "\n")


main()
