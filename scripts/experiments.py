#!/usr/bin/env python3
"""Runs variants of the demo over several seeds to measure what the student learns from; prints the Markdown tables of docs/experiments.md.

Each seed has its own base student, rollouts and scores, shared by its variants, so that variants differ only in what
they are named after. Every completed variant leaves a result file; a second run continues after the last of them. Scores are those of the embedded Teacher for greedy rationales of the 300 test problems.
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(os.environ.get("ARES_BIN", Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"))
TRAIN, COLLECT = str(BIN / "train"), str(BIN / "collect-feedback")

# The demo's settings, with four samples per problem.
SETTINGS = {
    "student": {"max_source_tokens": 192, "use_caption": "false", "decode_batch": 64},
    "rollout": {"samples": 4, "max_new_tokens": 48},
    "rl": {"passes": 4, "minibatch": 32, "accumulation": 2, "learning_rate": 1e-4,
           "value_passes": 5, "value_learning_rate": 3e-4},
    "sft": {"epochs": 12, "batch": 16, "learning_rate": 1e-3},
    "answer": {"epochs": 5, "learning_rate": 2e-3, "max_new_tokens": 12, "lora_rank": 32, "lora_alpha": 64.0},
}
# Two-sided 95 % points of Student's t by degrees of freedom.
T95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}


class Variant:
    """A variant of the settings. `sft` is false if training ends after RL; `own` names the first stage that it cannot share."""

    def __init__(self, label, rounds=1, sft=True, own=None, **changes):
        self.label, self.rounds, self.sft, self.own = label, rounds, sft, own
        self.changes = {key.replace("__", "."): value for key, value in changes.items()}


VARIANTS = {
    "two": Variant("two rounds", rounds=2),
    "sft-two": Variant("two rounds of corrections and SFT, no RL", rounds=2, rl__passes=0, rl__value_passes=0),
    "cold": Variant("values not learned first, as in the paper", sft=False, rl__value_passes=0),
    "grpo": Variant("grpo", sft=False, rl__algorithm="grpo"),
    "blind": Variant("no pictures", rounds=0, own="base", student__vision="none", rollout__samples=1),
    "rationale": Variant("one score a rationale", sft=False, rl__reward="rationale"),
    "k-1": Variant("k = 1", sft=False, own="rollouts", rollout__samples=1),
    "k-2": Variant("k = 2", sft=False, own="rollouts", rollout__samples=2),
    "passes-1": Variant("1 pass", sft=False, rl__passes=1),
    "passes-3": Variant("3 passes", sft=False, rl__passes=3),
    "passes-5": Variant("5 passes", sft=False, rl__passes=5),
    "passes-10": Variant("10 passes", sft=False, rl__passes=10),
    "lr-2e-5": Variant("learning rate 2e-5", rl__learning_rate=2e-5),
    "lr-3e-4": Variant("learning rate 3e-4", rl__learning_rate=3e-4),
    "lr-1e-3": Variant("learning rate 1e-3, ten times too high", rl__learning_rate=1e-3),
}

BASE, RL1, SFT1, RL2, SFT2 = "base student", *(f"round {n}, after {of}" for n in (1, 2) for of in ("RL", "SFT"))
# Comparisons within each seed: a policy of a variant, and the policy that it is compared with.
PAIRS = [
    ("RL alone, against base", ("two", RL1), ("two", BASE)),
    ("SFT on corrections alone, against base", ("sft-two", SFT1), ("two", BASE)),
    ("one round (RL, then SFT), against base", ("two", SFT1), ("two", BASE)),
    ("one round, against RL alone", ("two", SFT1), ("two", RL1)),
    ("one round, against SFT alone", ("two", SFT1), ("sft-two", SFT1)),
    ("two rounds, against one", ("two", SFT2), ("two", SFT1)),
    ("two rounds, against two rounds of SFT alone", ("two", SFT2), ("sft-two", SFT2)),
    ("base without pictures, against base", ("blind", BASE), ("two", BASE)),
    *((f"RL alone, {VARIANTS[name].label}, against base", (name, RL1), ("two", BASE))
      for name in VARIANTS if name not in ("two", "sft-two", "blind")),
    *((f"one round, {VARIANTS[name].label}, against base", (name, SFT1), ("two", BASE))
      for name in VARIANTS if name.startswith("lr-")),
    *((f"one round, {VARIANTS[name].label}, against SFT alone", (name, SFT1), ("sft-two", SFT1))
      for name in VARIANTS if name.startswith("lr-")),
    *((f"RL alone, {VARIANTS[name].label}, against the usual RL", (name, RL1), ("two", RL1))
      for name in VARIANTS if name not in ("two", "sft-two", "blind")),
]


def settings(seed, points, changes):
    """ares.toml with some settings changed."""
    tables = {name: dict(keys) for name, keys in SETTINGS.items()}
    tables["rollout"]["seed"] = seed
    tables["student"]["checkpoints"] = str(points)
    for path, value in changes.items():
        section, key = path.split(".")
        tables[section][key] = value
    lines = []
    for name, keys in tables.items():
        lines.append(f"[{name}]")
        for key, value in keys.items():
            quoted = isinstance(value, str) and value not in ("true", "false")
            lines.append(f'{key} = "{value}"' if quoted else f"{key} = {value}")
    return "\n".join(lines) + "\n"


class Place:
    """A dataset with its checkpoints and settings."""

    def __init__(self, folder, seed, changes):
        self.folder, self.data, self.points = folder, folder / "data", folder / "points"
        self.config = folder / "ares.toml"
        folder.mkdir(parents=True, exist_ok=True)
        self.config.write_text(settings(seed, self.points, changes))

    def run(self, program, *arguments):
        command = [program, *map(str, arguments), "--data", str(self.data), "--config", str(self.config)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        with open(self.folder / "log", "a") as log:
            log.write(f"$ {' '.join(command)}\n{done.stdout}{done.stderr}")
        if done.returncode != 0:
            raise SystemExit(f"{' '.join(command)}: exit {done.returncode}\n{done.stderr[-2000:]}")
        return done.stdout

    def base(self):
        shutil.copytree(ROOT / "datasets" / "sample" / "images", self.data / "images")
        for name in ("dataset.toml", "problems.parquet"):
            shutil.copy(ROOT / "datasets" / "sample" / name, self.data)
        self.run(TRAIN, "features")
        tokenizer = ROOT / "datasets" / "sample" / "tokenizer"
        init = self.points / "init"
        self.run(TRAIN, "init", "--tokenizer", tokenizer, "--shape", "tiny", "--image-feature-width", 128,
                 "--dropout", 0, "--out", init)
        self.run(TRAIN, "pretrain", "--from", init, "--out", self.points / "base", "--share", 0.35,
                 "--epochs", 20, "--sft-learning-rate", 2e-3)
        return self.run(TRAIN, "eval", "--round", 0, "--checkpoint", "base")

    def copy_to(self, other):
        shutil.copytree(self.data, other.data, dirs_exist_ok=True)
        # Checkpoints are never changed in place.
        shutil.copytree(self.points, other.points, copy_function=os.link, dirs_exist_ok=True)


def stages(place, round_number, said):
    """The report's figures for each policy, and the accuracy on problems with a picture."""
    text = place.run(COLLECT, "report", "--round", round_number)
    found = {}
    for line in text.splitlines():
        cells = re.split(r"\s{2,}", line.strip())
        if len(cells) == 10 and (cells[0] == "base student" or cells[0].startswith("round ")):
            number = lambda cell: None if cell == "–" else float(cell.removesuffix(" %"))
            names = ("score", "none_wrong", "repeated", "truncated", "accuracy")
            places = (4, 5, 6, 7, 9)
            found[cells[0]] = {name: number(cells[at]) for name, at in zip(names, places)}
    for round_of, stage, img in re.findall(r"round (\d+): answers after (\w+):.*?IMG ([\d.]+)", said):
        name = "base student" if stage == "base" else f"round {round_of}, after {stage.upper()}"
        if name in found:
            found[name]["with_picture"] = float(img)
    return found


def one_seed(work, seed, wanted):
    home = work / f"seed-{seed}"
    shared = Place(home / "shared", seed, {})
    if not (shared.folder / "ready").exists():
        shutil.rmtree(shared.folder)
        shared = Place(home / "shared", seed, {})
        (shared.folder / "said").write_text(shared.base())
        # Rollouts and scores of round 1 are the same for all variants with the same sampling.
        bare = Place(home / "bare", seed, {})
        shutil.rmtree(bare.folder)
        bare.folder.mkdir()
        shared.copy_to(bare)
        shared.run(TRAIN, "--round", 1)
        shared.run(COLLECT, "--round", 1)
        (shared.folder / "ready").touch()
    base_said = (shared.folder / "said").read_text()
    for name in wanted:
        variant, folder = VARIANTS[name], home / name
        if (folder / "result.json").exists():
            continue
        shutil.rmtree(folder, ignore_errors=True)
        place = Place(folder, seed, variant.changes)
        said = base_said
        if variant.own == "base":
            said = place.base()
        elif variant.own == "rollouts":
            bare = Place(home / "bare", seed, {})
            bare.copy_to(place)
        else:
            shared.copy_to(place)
        for number in range(1, variant.rounds + 1):
            place.run(TRAIN, "--round", number, "--stage", "rollout")
            place.run(COLLECT, "--round", number, "--stage", "scores")
            place.run(TRAIN, "--round", number, "--stage", "rl")
            if variant.sft:
                place.run(COLLECT, "--round", number, "--stage", "corrections")
                said += place.run(TRAIN, "--round", number)
            said += place.run(TRAIN, "eval", "--round", number, "--checkpoint", "rl")
        if variant.rounds == 0:
            place.run(TRAIN, "--round", 1, "--stage", "rollout")  # a report needs a round
        result = stages(place, max(variant.rounds, 1), said)
        shutil.rmtree(place.data)
        shutil.rmtree(place.points)
        (folder / "result.json").write_text(json.dumps(result, indent=1))
        print(f"seed {seed}: {name} done", file=sys.stderr, flush=True)


def interval(values):
    """Mean over seeds, and half the width of its 95 % interval."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, float("nan")
    return mean, T95[len(values) - 1] * statistics.stdev(values) / len(values) ** 0.5


def show(values, digits):
    mean, half = interval(values)
    return f"{mean:.{digits}f} ± {half:.{digits}f}"


def table(work, seeds):
    """Every policy with its difference to the base student of its own seed."""
    rows = []
    for name, variant in VARIANTS.items():
        found = {}
        for seed in seeds:
            path = work / f"seed-{seed}" / name / "result.json"
            if path.exists():
                found[seed] = json.loads(path.read_text())
        if not found:
            continue
        labels = [label for label in next(iter(found.values())) if label != "base student" or name in ("two", "blind")]
        for label in labels:
            if variant.changes.get("rl.passes") == 0 and label.endswith("after RL"):
                continue  # the policy is unchanged
            if all(label in result for result in found.values()):
                rows.append((name, variant.label, label, found))
    lines = [
        "| variant | policy | score | change | no wrong sentence, % | accuracy, % | change | with picture, % | repeated, % | seeds |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for _, title, label, found in rows:
        of = lambda key, label=label: [result[label][key] for result in found.values() if result[label].get(key) is not None]
        cells = [title, label]
        for key, digits in (("score", 3), ("none_wrong", 1), ("accuracy", 1)):
            values, base = of(key), of(key, "base student")
            cells.append(show(values, digits) if values else "–")
            if key != "none_wrong":
                changes = [value - start for value, start in zip(values, base)]
                cells.append(show(changes, digits) if values and label != "base student" else "–")
        pictures = of("with_picture")
        cells.append(show(pictures, 1) if len(pictures) == len(found) else "–")
        cells.append(f"{statistics.fmean(of('repeated')):.1f}" if of("repeated") else "–")
        cells.append(str(len(found)))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def differences(work, seeds):
    """Differences between policies of the same seed: base students differ a lot, so these are more informative than the means."""
    def result(seed, name):
        path = work / f"seed-{seed}" / name / "result.json"
        return json.loads(path.read_text()) if path.exists() else {}

    lines = [
        "| difference | score | no wrong sentence, points | accuracy, points | score, by seed |",
        "| --- | --- | --- | --- | --- |",
    ]
    for label, (name, policy), (other, against) in PAIRS:
        pairs = [(result(seed, name).get(policy), result(seed, other).get(against)) for seed in seeds]
        pairs = [(ours, theirs) for ours, theirs in pairs if ours and theirs]
        if not pairs:
            continue
        cells = [label]
        for key, digits in (("score", 3), ("none_wrong", 1), ("accuracy", 1)):
            both = [(ours[key], theirs[key]) for ours, theirs in pairs if None not in (ours[key], theirs[key])]
            mean, half = interval([ours - theirs for ours, theirs in both]) if both else (float("nan"),) * 2
            cells.append(f"{mean:+.{digits}f} ± {half:.{digits}f}")
        cells.append(", ".join(f"{ours['score'] - theirs['score']:+.3f}" for ours, theirs in pairs))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="1,2,3", help="seeds, separated by commas")
    parser.add_argument("--only", default=",".join(VARIANTS), help="variants, separated by commas")
    parser.add_argument("--work", type=Path, default=ROOT / "target" / "experiments", help="folder of the runs")
    parser.add_argument("--jobs", type=int, default=2, help="seeds to run in parallel")
    parser.add_argument("--table", action="store_true", help="only print the tables of existing results")
    arguments = parser.parse_args()
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    wanted = arguments.only.split(",")
    if unknown := [name for name in wanted if name not in VARIANTS]:
        parser.error(f"--only: expected some of {', '.join(VARIANTS)}, found {', '.join(unknown)}")
    work = arguments.work.resolve()
    if not arguments.table:
        with ThreadPoolExecutor(arguments.jobs) as pool:
            for done in [pool.submit(one_seed, work, seed, wanted) for seed in seeds]:
                done.result()
    print(table(work, seeds), differences(work, seeds), sep="\n\n")


if __name__ == "__main__":
    main()
