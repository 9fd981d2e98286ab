"""Loads a checkpoint that the trainer wrote into the Python student, strictly; decodes greedily where asked.

python check_checkpoint.py FOLDER [--ids 12,7,1 | --text "Question: …"] [--features FILE --problem ID]
"""

import argparse
from pathlib import Path

import torch
from safetensors import safe_open
from tokenizers import Tokenizer

from student import load


def options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    add_decoding(parser)
    return parser.parse_args()


def add_decoding(parser):
    parser.add_argument("--ids", help="source tokens with eos, separated by commas")
    parser.add_argument("--text", help="source text; eos is added")
    parser.add_argument("--features", type=Path, help="image features that `train features` wrote")
    parser.add_argument("--problem", help="problem id within the features")
    parser.add_argument("--max-new-tokens", type=int, default=64)


def features_of(path, problem):
    """Features [1, patches, width] of a problem; zeros where it has no picture."""
    with safe_open(path, framework="pt") as file:
        if problem in file.keys():
            return file.get_tensor(problem).float().unsqueeze(0)
        return torch.zeros_like(file.get_tensor(next(iter(file.keys())))).float().unsqueeze(0)


def decode(model, folder, arguments):
    """Prints the greedy text for the source that the arguments name, if any."""
    if not (arguments.ids or arguments.text):
        return
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    if arguments.ids:
        ids = [int(number) for number in arguments.ids.split(",")]
    else:
        ids = tokenizer.encode(arguments.text, add_special_tokens=False).ids + [model.config.eos_token_id]
    image = features_of(arguments.features, arguments.problem) if arguments.features else None
    tokens = model.greedy(torch.tensor([ids]), None, image, arguments.max_new_tokens)[0]
    print("tokens:", tokens)
    print("text:", tokenizer.decode(tokens, skip_special_tokens=True))


def main():
    arguments = options()
    model = load(arguments.folder)
    stored = model.stored()
    count = sum(tensor.numel() for tensor in stored.values())
    head = "tied" if model.head_is_tied else "its own"
    print(f"{arguments.folder}: {len(stored)} tensors, {count:,} parameters, head {head}, fusion {model.has_fusion}")
    decode(model, arguments.folder, arguments)


if __name__ == "__main__":
    main()
