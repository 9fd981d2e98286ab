"""Loads exports with the code of their target tools, and trains one step with each of TRL's trainers.

    python check.py FOLDER

FOLDER contains exports of one round: prm, preference, kto, sft, llamafactory, verl, hub, and those for text models in
preference-text, kto-text and sft-text.

Exit status: 0 all checks pass, 1 some fail.
"""

import copy
import json
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1", "WANDB_DISABLED": "true"}

import tiny
import torch
from datasets import Image, List, load_dataset
from transformers import set_seed
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, SFTConfig, SFTTrainer
from trl.experimental.prm import PRMConfig, PRMTrainer

LETTERS = ["(A)", "(B)"]
failures = []


def check(holds, what):
    print(("ok    " if holds else "FAULT ") + what, flush=True)
    if not holds:
        failures.append(what)


def train(name, trainer, config, folder, model, dataset, reader, **options):
    """Trains one step; the weights must change, and the loss must be a number."""
    start = time.monotonic()
    settings = config(
        output_dir=str(folder / "out"),
        max_steps=1,
        per_device_train_batch_size=4,
        learning_rate=0.1,
        report_to="none",
        logging_steps=1,
        save_strategy="no",
        use_cpu=True,
        bf16=False,
        **options,
    )
    before = {key: value.clone() for key, value in model.state_dict().items()}
    # Trainers with a reference model would look for the model's folder.
    compared = {"ref_model": copy.deepcopy(model)} if trainer in (DPOTrainer, KTOTrainer) else {}
    run = trainer(model=model, args=settings, train_dataset=dataset, processing_class=reader, **compared)
    loss = run.train().training_loss
    moved = sum(not torch.equal(value.cpu(), before[key]) for key, value in model.state_dict().items())
    check(loss == loss and moved > 0, f"{name}: one step, loss {loss:.3f}, {moved} tensors moved, {time.monotonic() - start:.1f} s")


def rows(folder, **how):
    return load_dataset(str(folder), **how)["train"]


def no_answer(name, texts, answers):
    """The prompts contain all options, and nothing that reveals the correct one."""
    told = [text for text in texts if "answer" in text.lower()]
    whole = all(letter in text for text in texts for letter in LETTERS)
    check(not told and whole and answers, f"{name}: {len(texts)} prompts hold the options and no answer")


def check_prm(folder, scratch, words):
    data = rows(folder / "prm")
    pairs = [(label, score) for row in data for label, score in zip(row["labels"], row["scores"], strict=True)]
    check(len({label for label, _ in pairs}) == 2, f"prm: {len(pairs)} sentences, good and bad")
    check(all(label == (score > 0.5) for label, score in pairs), "prm: labels follow the raw scores")
    check(all((folder / "prm" / image).is_file() for row in data for image in row["images"]), "prm: pictures are there")
    no_answer("prm", data["prompt"], len(data))
    train("PRM", PRMTrainer, PRMConfig, scratch, tiny.step_classifier(words), data, words, max_length=512)


def check_trl(folder, scratch, words):
    kinds = {
        "preference": (DPOTrainer, DPOConfig, {"max_length": 512}),
        "kto": (KTOTrainer, KTOConfig, {"max_length": 512}),
        "sft": (SFTTrainer, SFTConfig, {"max_length": 512}),
    }
    for name, (trainer, config, options) in kinds.items():
        data = rows(folder / name)
        check(data.features["images"] == List(Image()), f"{name}: images are pictures to datasets")
        shown = [row for row in data if row["images"]]
        check(0 < len(shown) < len(data), f"{name}: {len(shown)} of {len(data)} lines with a picture")
        no_answer(name, [row["prompt"][0]["content"] for row in data], len(data))
        check(all(row["ares"]["rows"] and row["ares"]["problem_id"] for row in data), f"{name}: lines name their rows")
        model, processor = tiny.vision_model(words)
        train(f"{name} with pictures", trainer, config, scratch, model, data, processor, remove_unused_columns=False, **options)
        text = rows(folder / f"{name}-text")
        check("images" not in text.column_names, f"{name}-text: no column of pictures")
        train(f"{name} of a text model", trainer, config, scratch, tiny.language_model(words), text, words, **options)


def check_verl(folder):
    data = load_dataset("parquet", data_files=str(folder / "verl" / "train.parquet"))["train"]
    expected = {"data_source", "prompt", "images", "ability", "reward_model", "extra_info"}
    check(set(data.column_names) == expected, "verl: the columns of its examples")
    for row in data:
        text = row["prompt"][0]["content"]
        if text.count("<image>") != len(row["images"]):
            check(False, f"verl: a placeholder for each picture: {text}")
        right = row["extra_info"]["choices"].index(row["extra_info"]["answer"])
        if row["reward_model"] != {"style": "rule", "ground_truth": "AB"[right]}:
            check(False, f"verl: the ground truth is the right option's letter: {row}")
    check(len(data) > 0, f"verl: {len(data)} prompts")


def check_hub(folder):
    card = (folder / "hub" / "README.md").read_text()
    counts = {}
    for table in ["problems", "rollouts", "scores", "rationales", "corrections"]:
        data = load_dataset(str(folder / "hub"), table)
        counts[table] = {split: len(part) for split, part in data.items()}
        check(set(data) == {"train", "test"}, f"hub: {table} has its splits: {counts[table]}")
        if table == "problems":
            check(data["train"].features["image"] == Image(), "hub: image is a picture to datasets")
            check(any(row["image"] for row in data["train"]), "hub: pictures are embedded")
    check(card.startswith("---\n") and "configs:" in card and "features:" in card, "hub: the card has configurations and features")


def check_llamafactory(folder):
    """The requirements of LLaMA-Factory's sharegpt reader (llamafactory/data/parser.py and converter.py, version 0.9.5)."""
    folder = folder / "llamafactory"
    info = json.loads((folder / "dataset_info.json").read_text())
    check(set(info) == {"ares_sft", "ares_preference", "ares_kto"}, f"llamafactory: {', '.join(info)}")
    known = {"file_name", "formatting", "ranking", "columns", "tags"}
    for name, about in info.items():
        columns, tags = about["columns"], about["tags"]
        role, content = tags["role_tag"], tags["content_tag"]
        data = load_dataset("json", data_files=str(folder / about["file_name"]))["train"]
        check(set(about) <= known and about["formatting"] == "sharegpt", f"{name}: known settings")
        for row in data:
            turns = [turn[role] for turn in row[columns["messages"]]]
            wanted = [tags["user_tag"]] if about.get("ranking") else [tags["user_tag"], tags["assistant_tag"]]
            texts = " ".join(turn[content] for turn in row[columns["messages"]])
            images = row[columns["images"]]
            holds = turns == wanted and texts.count("<image>") == len(images)
            holds &= all((folder / image).is_file() for image in images)
            if about.get("ranking"):
                holds &= all(row[columns[one]][role] == tags["assistant_tag"] for one in ("chosen", "rejected"))
            if "kto_tag" in columns:
                holds &= isinstance(row[columns["kto_tag"]], bool)
            if not holds:
                check(False, f"{name}: {row}")
        check(len(data) > 0, f"{name}: {len(data)} lines")


def main():
    folder = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["HF_DATASETS_CACHE"] = scratch
        set_seed(1)
        words = tiny.tokenizer()
        check_verl(folder)
        check_hub(folder)
        check_llamafactory(folder)
        check_prm(folder, Path(scratch), words)
        check_trl(folder, Path(scratch), words)
    print(f"{len(failures)} faults")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
