"""Small `pytorch_model.bin` files as `torch.save` writes them, and what they hold."""

import json
import shutil
from collections import OrderedDict
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

VALUES = Path(__file__).parent / "values"
FOLDER = VALUES / "pickles"


def main():
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    torch.manual_seed(31)
    table = torch.randn(6, 4)
    tensors = {
        "shared.weight": table,
        "encoder.embed_tokens.weight": table,  # one storage for both
        "turned": torch.randn(3, 5).t(),
        "slice": torch.randn(10)[2:7],
        "half": torch.randn(4).half(),
        "bfloat": torch.randn(4).bfloat16(),
        "double": torch.randn(4).double(),
        "nothing": torch.zeros(0, 3),
    }
    save_file({name: t.float().clone().contiguous() for name, t in tensors.items()}, FOLDER / "expected.safetensors")
    torch.save(tensors, FOLDER / "dict.bin")
    torch.save(OrderedDict(tensors), FOLDER / "ordered.bin")

    # What `torch.save(model.state_dict())` writes: parameters, and versions of the modules beside the dict.
    module = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2))
    torch.save(module.state_dict(), FOLDER / "state_dict.bin")
    torch.save({name: nn.Parameter(t) for name, t in module.state_dict().items()}, FOLDER / "parameters.bin")
    save_file(module.state_dict(), FOLDER / "expected_module.safetensors")

    # Before PyTorch 1.6 there was no zip around it.
    torch.save({"turned": tensors["turned"]}, FOLDER / "before_1_6.bin", _use_new_zipfile_serialization=False)
    torch.save({"model": tensors, "step": 3}, FOLDER / "nested.bin")
    torch.save(torch.randn(3), FOLDER / "one_tensor.bin")

    # Tensors of integers with a scale.
    turned = torch.quantize_per_tensor(tensors["turned"].contiguous(), 0.1, 0, torch.qint8)
    torch.save({"turned": turned}, FOLDER / "quantized.bin")

    # A whole student.
    folder = VALUES / "rl_relu_tied"
    weights = load_file(folder / "model.safetensors")
    copies = {f"{part}.embed_tokens.weight": weights["shared.weight"] for part in ("encoder", "decoder")}
    student = FOLDER / "student"
    student.mkdir()
    torch.save({**weights, **copies, "lm_head.weight": weights["shared.weight"]}, student / "pytorch_model.bin")
    shutil.copy(folder / "config.json", student)

    # The same in two files, as transformers splits large ones.
    shards = FOLDER / "student_shards"
    shards.mkdir()
    names = sorted(weights)
    parts = {"pytorch_model-00001-of-00002.bin": names[:20], "pytorch_model-00002-of-00002.bin": names[20:]}
    for file, part in parts.items():
        torch.save({name: weights[name] for name in part}, shards / file)
    index = {"metadata": {}, "weight_map": {name: file for file, part in parts.items() for name in part}}
    (shards / "pytorch_model.bin.index.json").write_text(json.dumps(index) + "\n")
    shutil.copy(folder / "config.json", shards)


if __name__ == "__main__":
    main()
