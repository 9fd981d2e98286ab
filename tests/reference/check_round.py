"""Decodes a round's rationales and answers again in Python, and compares them with the tables that `train` wrote.

python check_round.py --data DATASET --checkpoints CHECKPOINTS [--round 1] [--sample 20] [--no-caption]

The fine-tuned checkpoint runs in transformers with `student.py`, the answer model's adapter in PEFT. Sources are made here
anew from the problems. Exit status 1 where a text differs.
"""

import argparse
import re
import sys
from pathlib import Path

import polars
import torch
from tokenizers import Tokenizer

from check_adapter import load_adapter
from check_checkpoint import features_of
from student import load


def fold(text):
    return re.sub(r"\s+", " ", text).strip()


def question(problem, caption):
    """MM-CoT's QCM: question, context, options."""
    context = [problem["hint"], problem["caption"] if caption else ""]
    context = fold(" ".join(text for text in context if text.strip())) or "N/A"
    options = " ".join(f"({chr(65 + place)}) {choice}" for place, choice in enumerate(problem["choices"]))
    return fold(f"Question: {problem['question']} Context: {context} Options: {options}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--checkpoints", type=Path, required=True)
    parser.add_argument("--round", type=int, default=1)
    parser.add_argument("--sample", type=int, default=20, help="test problems to compare")
    parser.add_argument("--no-caption", action="store_true")
    parser.add_argument("--max-source-tokens", type=int, default=512)
    parser.add_argument("--max-new-tokens", type=int, default=512)
    options = parser.parse_args()

    folder = options.checkpoints / f"round-{options.round}"
    tokenizer = Tokenizer.from_file(str(folder / "sft" / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    table = polars.read_parquet(options.data / "problems.parquet")
    problems = {row["problem_id"]: row for row in table.iter_rows(named=True)}
    of_round = lambda name: polars.read_parquet(
        str(options.data / name / f"round-{options.round}" / "*.parquet"), hive_partitioning=False
    ).filter(polars.col("stage") == "sft", polars.col("split") == "test")
    rationales = of_round("rationales").sort("problem_id").head(options.sample)
    answers = {row["problem_id"]: row["text"] for row in of_round("answers").iter_rows(named=True)}
    vision = options.data / "vision" / "vit.safetensors"
    vision = vision if vision.is_file() else None

    def say(model, problem_id, text, most):
        ids = tokenizer.encode(text, add_special_tokens=False).ids[: options.max_source_tokens - 1]
        ids.append(model.config.eos_token_id)
        image = features_of(vision, problem_id) if vision else None
        tokens = model.greedy(torch.tensor([ids]), None, image, most)[0]
        return tokenizer.decode(tokens, skip_special_tokens=True).strip()

    differences, compared = [], {"rationales": 0, "answers": 0}

    def compare(kind, problem_id, found, expected):
        compared[kind] += 1
        if found != expected.strip():
            differences.append(f"{kind}, {problem_id}: Python says {found!r}, the table {expected!r}")

    policy = load(folder / "sft")
    for row in rationales.iter_rows(named=True):
        source = question(problems[row["problem_id"]], not options.no_caption) + " Solution:"
        found = say(policy, row["problem_id"], source, options.max_new_tokens)
        compare("rationales", row["problem_id"], found, row["rationale"])
    model, _ = load_adapter(folder / "answer", folder / "sft")
    for row in rationales.iter_rows(named=True):
        source = question(problems[row["problem_id"]], not options.no_caption)
        source = fold(f"{source} Solution: {row['deduplicated'].lstrip().removeprefix('Solution:')} Answer:")
        found = say(model.base_model.model, row["problem_id"], source, 64)
        compare("answers", row["problem_id"], found, answers[row["problem_id"]])

    print("\n".join(differences))
    same = ", ".join(f"{count} {kind}" for kind, count in compared.items())
    print(f"compared {same}: {len(differences)} differ")
    return 1 if differences or not compared["rationales"] else 0


if __name__ == "__main__":
    sys.exit(main())
