"""Small T5 folders with random weights, their inputs and logits, as PyTorch and transformers compute them."""

import json
import shutil
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import T5Config

from student import MultimodalT5

VALUES = Path(__file__).parent / "values"
PATCHES, WIDTH = 5, 16

RELU = {"feed_forward_proj": "relu"}
GATED = {
    "feed_forward_proj": "gated-gelu",
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 20,
    "tie_word_embeddings": False,
}


def build(seed, shape, tied, fusion):
    torch.manual_seed(seed)
    sizes = {"vocab_size": 128, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_heads": 2, "num_layers": 2}
    config = T5Config(**{**sizes, **shape}, decoder_start_token_id=0)
    model = MultimodalT5(config, WIDTH if fusion else None, tied).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("layer_norm.weight"):
                parameter.copy_(1 + 0.2 * torch.randn_like(parameter))
            elif parameter.dim() == 1:
                parameter.copy_(0.2 * torch.randn_like(parameter))
            elif "relative_attention_bias" in name:
                parameter.copy_(torch.randn_like(parameter))
    return model


def inputs(model):
    ids = torch.randint(2, 128, (3, 40))
    mask = torch.ones_like(ids)
    for row, length in ((1, 23), (2, 5)):
        ids[row, length:] = 0
        mask[row, length:] = 0
    decoder = torch.randint(2, 128, (3, 30))
    decoder[:, 0] = 0
    given = {"input_ids": ids, "attention_mask": mask, "decoder_input_ids": decoder}
    if model.has_fusion:
        given["image_features"] = torch.randn(3, PATCHES, WIDTH)
        given["image_features"][2] = 0  # a problem without a picture
    return given


@torch.no_grad()
def expect(model, run=None):
    given = inputs(model)
    return {**given, "logits": (run or model).logits(**given)}


def fresh(name):
    folder = VALUES / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def by_transformers(name, model, **saving):
    """Saved by `save_pretrained`: plain T5s as users bring them."""
    folder = fresh(name)
    model.save_pretrained(folder, **saving)
    save_file(expect(model), folder / "expected.safetensors")


def by_name(name, model, config):
    """Saved with a config as MM-CoT's and the hub's checkpoints carry it."""
    folder = fresh(name)
    save_file(model.stored(), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    save_file(expect(model), folder / "expected.safetensors")


def main():
    by_transformers("t5_relu_tied", build(1, RELU, tied=True, fusion=False))
    by_transformers("t5_gated_untied", build(2, GATED, tied=False, fusion=False))
    uneven = {**GATED, "num_layers": 1, "num_decoder_layers": 2}
    by_transformers("t5_gated_tied_shards", build(3, uneven, tied=True, fusion=False), max_shard_size="60KB")

    sizes = {"vocab_size": 128, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_heads": 2, "num_layers": 2}
    common = {"model_type": "t5", "decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1, **sizes}
    by_name("student_relu_tied", build(4, RELU, tied=True, fusion=True), {**common, **RELU})
    model = build(5, GATED, tied=False, fusion=True)
    by_name("student_gated_untied", model, {**common, **GATED})

    # The last one with a LoRA that PEFT made and saved.
    torch.manual_seed(6)
    targets = ["q", "k", "v", "o", "wi_0", "wi_1", "wo", "image_dense", "gate_dense", "lm_head"]
    by_peft("adapter_gated_untied", model, targets, save_embedding_layers=False)
    rank_stabilized()


def rank_stabilized():
    """Scaled by alpha / √r, and with a copy of the head's weight, which PEFT stores by default."""
    model = build(5, GATED, tied=False, fusion=True)
    torch.manual_seed(8)
    by_peft("adapter_rslora", model, ["SelfAttention.q", "gate_dense", "lm_head"], use_rslora=True)


def by_peft(name, model, targets, use_rslora=False, **saving):
    lora = LoraConfig(
        r=2,
        lora_alpha=4,
        lora_dropout=0.05,
        target_modules=targets,
        init_lora_weights=False,
        use_rslora=use_rslora,
    )
    adapted = get_peft_model(model, lora).eval()
    folder = fresh(name)
    adapted.save_pretrained(folder, **saving)
    (folder / "README.md").unlink(missing_ok=True)
    file = folder / "adapter_config.json"
    told = json.loads(file.read_text())
    told["target_modules"].sort()  # a set, in another order each time
    file.write_text(json.dumps(told, indent=2) + "\n")
    save_file(expect(model, adapted.base_model.model), folder / "expected.safetensors")


if __name__ == "__main__":
    main()
