"""Writes values/lora_step: one step of fine-tuning a given adapter in PEFT, and the adapter merged into its base."""

import torch
from peft import PeftModel
from safetensors.torch import save_file

from make_t5_values import PATCHES, VALUES, WIDTH, fresh
from student import load

RATE, DECAY, CLIP = 1e-2, 0.01, 1.0
SOURCES, TARGETS = (23, 5, 40), (30, 12, 7)
# Layers whose merged weights are stored; one of them has no adapter.
MERGED = (
    "encoder.block.1.layer.0.SelfAttention.q.weight",
    "decoder.block.0.layer.2.DenseReluDense.wo.weight",
    "encoder.gate_dense.weight",
    "encoder.mha_layer.out_proj.weight",
    "lm_head.weight",
)


def open_adapter():
    base = load(VALUES / "student_gated_untied")
    return PeftModel.from_pretrained(base, str(VALUES / "adapter_gated_untied"), is_trainable=True).eval()


def padded(lengths, pad):
    rows = torch.full((len(lengths), max(lengths)), pad)
    for row, length in enumerate(lengths):
        rows[row, :length] = torch.randint(2, 128, (length,))
    return rows


def inputs():
    torch.manual_seed(11)
    ids, labels = padded(SOURCES, 0), padded(TARGETS, 0)
    # Features are stored in half precision; the last problem has no picture.
    pictures = torch.randn(3, PATCHES, WIDTH).half().float()
    pictures[2] = 0
    return ids, labels, pictures


def forward(model, ids, labels, pictures):
    mask = (ids != 0).long()
    shifted = torch.cat([torch.zeros_like(labels[:, :1]), labels[:, :-1]], dim=1)
    return model.logits(ids, mask, shifted, pictures)


def loss_of(logits, labels):
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=0)


def plain(name):
    return name.replace(".default.", ".")


def main():
    ids, labels, pictures = inputs()
    model = open_adapter()
    student = model.base_model.model
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    assert all(".lora_" in name for name in trained)
    logits = forward(student, ids, labels, pictures)
    loss = loss_of(logits, labels)
    loss.backward()
    values = {"ids": ids, "labels": labels, "pictures": pictures[:2].half(), "logits": logits.detach()}
    values["loss"] = loss.detach().reshape(1)
    values |= {f"gradient.{plain(name)}": weight.grad.clone() for name, weight in trained.items()}
    values["norm"] = torch.nn.utils.clip_grad_norm_(list(trained.values()), CLIP).reshape(1)
    torch.optim.AdamW(trained.values(), lr=RATE, weight_decay=DECAY, eps=1e-8, foreach=False).step()
    values |= {f"after.{plain(name)}": weight.detach().clone() for name, weight in trained.items()}
    with torch.no_grad():
        values["logits_after"] = forward(student, ids, labels, pictures)
        merged = model.merge_and_unload()
        values["logits_merged"] = forward(merged, ids, labels, pictures)
    state = merged.state_dict()
    values |= {f"merged.{name}": state[name].clone() for name in MERGED}
    save_file(values, fresh("lora_step") / "expected.safetensors")


if __name__ == "__main__":
    main()
