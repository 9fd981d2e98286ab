"""Loads a LoRA adapter that the trainer wrote in PEFT, strictly; decodes greedily where asked.

python check_adapter.py ADAPTER [BASE] [--merged FOLDER] [--ids … | --text …] [--features FILE --problem ID]

BASE is the checkpoint that the adapter was trained on; a student's adapter names it. FOLDER is what `train merge` wrote.
"""

import argparse
import json
from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import load_file

from check_checkpoint import add_decoding, decode
from student import load


def options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("adapter", type=Path)
    parser.add_argument("base", type=Path, nargs="?")
    parser.add_argument("--merged", type=Path)
    add_decoding(parser)
    return parser.parse_args()


def load_adapter(adapter, base):
    """The PEFT model and the number of matrices, all of them taken from the file and none left over."""
    model = PeftModel.from_pretrained(load(base), str(adapter)).eval()
    loaded = {
        name.replace(".default.", "."): tensor for name, tensor in model.state_dict().items() if ".lora_" in name
    }
    found = load_file(adapter / "adapter_model.safetensors")
    matrices = {name: tensor for name, tensor in found.items() if ".lora_" in name}
    problems = [f"missing: {name}" for name in loaded.keys() - matrices.keys()]
    problems += [f"not expected: {name}" for name in matrices.keys() - loaded.keys()]
    for name in loaded.keys() & matrices.keys():
        if not torch.equal(loaded[name], matrices[name]):
            problems.append(f"{name}: not loaded")
    if problems:
        raise SystemExit(f"{adapter}: does not fit\n  " + "\n  ".join(sorted(problems)))
    return model, len(matrices)


def compare_merged(model, folder):
    """PEFT's own merge against the checkpoint in `folder`, which may differ by rounding."""
    found = load(folder).stored()
    merged = model.merge_and_unload().stored()
    if found.keys() != merged.keys():
        raise SystemExit(f"{folder}: other weights: {sorted(found.keys() ^ merged.keys())}")
    off = max((found[name] - merged[name]).abs().max().item() for name in merged)
    print(f"{folder}: off by {off:g}")
    if off > 1e-5:
        raise SystemExit(f"{folder}: not what PEFT merges")


def main():
    arguments = options()
    named = json.loads((arguments.adapter / "adapter_config.json").read_text())["base_model_name_or_path"]
    base = arguments.base or Path(named)
    model, count = load_adapter(arguments.adapter, base)
    lora = model.peft_config["default"]
    print(f"{arguments.adapter}: {count} matrices, rank {lora.r}, alpha {lora.lora_alpha:g}, on {base}")
    decode(model.base_model.model, base, arguments)
    if arguments.merged:
        compare_merged(model, arguments.merged)


if __name__ == "__main__":
    main()
