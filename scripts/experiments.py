#!/usr/bin/env python3
"""Does it learn, and from what? Variants of the demo over several seeds, as Markdown tables (docs/experiments.md).

Each seed has its own base student, rollouts and scores, shared by its variants, so that variants differ only in what
they are named after. Every completed variant leaves a result file; a second run continues after the last of them. Scores are those of the embedded Teacher for greedy rationales of the 300 test problems.
"""

import argparse
import json
import os
import random
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

# The demo's settings, with four samples per problem. All other settings are the defaults.
SETTINGS = {
    "student": {"max_source_tokens": 192, "use_caption": "false", "decode_batch": 64},
    "rollout": {"samples": 4, "max_new_tokens": 48},
    "rl": {"passes": 20, "minibatch": 32, "accumulation": 2, "learning_rate": 1e-4, "value_learning_rate": 1e-3},
    "sft": {"epochs": 12, "batch": 16, "learning_rate": 1e-3},
    "answer": {"epochs": 5, "learning_rate": 2e-3, "max_new_tokens": 12, "lora_rank": 32, "lora_alpha": 64.0},
}
# The paper's choices that are not the defaults; its rates and batch sizes are for a model of another size.
PAPER = {"rl.baseline": "sampled", "rl.value_init": "random", "rl.value_loss": "true", "rl.gae_unit": "token",
         "rl.whiten_over": "minibatch", "rl.kl_penalty": 0.0, "rl.max_kl": 0.0, "rl.max_grad_norm": 0.0,
         "rl.schedule": "constant", "rl.penalize_empty": "false", "rl.logprobs": "full"}
# Two-sided 95 % points of Student's t by degrees of freedom.
T95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
RESAMPLES = 10_000


class Round:
    """A round: with or without RL, with or without corrections, and settings of its own."""

    def __init__(self, sft=True, rl=True, **changes):
        self.sft, self.changes = sft, {key.replace("__", "."): value for key, value in changes.items()}
        if not rl:
            self.changes["rl.passes"] = 0


class Variant:
    """Rounds with some settings changed; `own` says what it cannot share with the others of its seed."""

    def __init__(self, label, *rounds, own=None, changes=None, **more):
        self.label, self.rounds, self.own = label, rounds, own
        self.changes = {**(changes or {}), **{key.replace("__", "."): value for key, value in more.items()}}


def rl_alone(label, **more):
    return Variant(label, Round(sft=False), **more)


VARIANTS = {
    # Does RL help, and what does it add to corrections?
    "rl": rl_alone("RL alone"),
    "rl-6": Variant("six rounds of RL", *(Round(sft=False) for _ in range(6))),
    "four": Variant("four rounds", *(Round() for _ in range(4))),
    "sft-4": Variant("four rounds of corrections and SFT, no RL", *(Round(rl=False) for _ in range(4))),
    "sft-2-rl-2": Variant("two rounds of SFT, then two of RL", *(Round(rl=False) for _ in range(2)),
                          *(Round(sft=False) for _ in range(2))),
    "sft-rl": Variant("SFT on corrections, then RL", Round(rl=False), Round(sft=False)),
    "rl-3-sft": Variant("three rounds of RL, then corrections", *(Round(sft=False) for _ in range(2)), Round()),
    "tenth": Variant("RL, then corrections for a tenth of the problems", Round(), sft__corrections_share=0.1),
    # A LoRA adapter instead of all weights, at four times the rates; and the same round with all weights, for short runs.
    "one": Variant("one round", Round()),
    "lora": Variant("one round, LoRA of rank 16", Round(), student__lora_rank=16, rl__learning_rate=4e-4,
                    sft__learning_rate=4e-3),
    "blind": Variant("no pictures", own="base", student__vision="none", rollout__samples=1),
    # Objectives and rewards.
    "grpo": rl_alone("grpo", rl__algorithm="grpo"),
    "grpo-group": rl_alone("grpo, scaled by group", rl__algorithm="grpo", rl__grpo_scale="group"),
    "grpo-none": rl_alone("grpo, not scaled", rl__algorithm="grpo", rl__grpo_scale="none"),
    "dpo": rl_alone("dpo", rl__algorithm="dpo"),
    "answer-sum": rl_alone("scores plus the right answer", rl__answer_weight=1.0),
    "answer-product": rl_alone("scores times the right answer", rl__answer_weight=1.0, rl__answer_reward="product"),
    "answer-alone": rl_alone("the right answer alone", rl__answer_weight=1.0, rl__answer_reward="alone"),
    "rationale": rl_alone("one score a rationale", rl__reward="rationale"),
    # Each default alone, set back to what the paper does; and all of them.
    "model": rl_alone("a value model, trained first, in two folds", rl__baseline="model"),
    "model-1": rl_alone("a value model fitted to its own rollouts", rl__baseline="model", rl__value_folds=1),
    "untrained": rl_alone("an untrained value model", own="rollouts", rl__baseline="sampled", rl__value_init="random"),
    "by-token": rl_alone("lambda by token", rl__gae_unit="token"),
    "lambda-1": rl_alone("lambda 1", rl__lambda=1.0),
    "whiten-minibatch": rl_alone("normalized in each minibatch", rl__whiten_over="minibatch"),
    "no-whitening": rl_alone("not normalized", rl__whiten="false"),
    "no-penalty": rl_alone("no KL penalty", rl__kl_penalty=0.0),
    "no-bound": rl_alone("no KL bound", rl__max_kl=0.0),
    "no-clip": rl_alone("gradients not clipped", rl__max_grad_norm=0.0),
    "constant": rl_alone("constant learning rate", rl__schedule="constant"),
    "paper": rl_alone("all as in the paper", own="rollouts", changes=PAPER),
    # How far one set of rollouts carries, on the way that six rounds go with fresh ones.
    "passes-1": rl_alone("1 pass", rl__passes=1),
    "passes-4": rl_alone("4 passes", rl__passes=4),
    "passes-10": rl_alone("10 passes", rl__passes=10),
    "passes-120": rl_alone("120 passes, as many as six rounds have", rl__passes=120),
    "k-2": rl_alone("k = 2", own="rollouts", rollout__samples=2),
    "k-8": rl_alone("k = 8", own="rollouts", rollout__samples=8),
    "lr-2e-5": rl_alone("learning rate 2e-5", rl__learning_rate=2e-5),
    "lr-3e-4": rl_alone("learning rate 3e-4", rl__learning_rate=3e-4),
}
SMALL = ["rl", "sft-4", "four", "paper"]

BASE = "base student"


def after(number, stage):
    return f"round {number}, after {stage}"


# What is compared within each seed: a policy of a variant, and the policy that it is compared with.
PAIRS = [
    ("one round of RL, against base", ("rl", after(1, "RL")), ("rl", BASE)),
    ("six rounds of RL, against base", ("rl-6", after(6, "RL")), ("rl", BASE)),
    ("six rounds of RL, against 120 passes over one", ("rl-6", after(6, "RL")), ("passes-120", after(1, "RL"))),
    ("SFT on corrections, against base", ("sft-4", after(1, "SFT")), ("rl", BASE)),
    ("RL of round 1, against base", ("four", after(1, "RL")), ("four", BASE)),
    ("RL of round 2, against SFT of round 1", ("four", after(2, "RL")), ("four", after(1, "SFT"))),
    ("RL of round 3, against SFT of round 2", ("four", after(3, "RL")), ("four", after(2, "SFT"))),
    ("RL of round 4, against SFT of round 3", ("four", after(4, "RL")), ("four", after(3, "SFT"))),
    *((f"{count} (RL and SFT), against {against} of SFT alone", ("four", after(number, "SFT")), ("sft-4", after(other, "SFT")))
      for count, number, against, other in [
          ("one round", 1, "one", 1), ("one round", 1, "two", 2), ("two rounds", 2, "two", 2), ("two rounds", 2, "four", 4),
          ("three rounds", 3, "three", 3), ("four rounds", 4, "four", 4)]),
    ("SFT, then RL, against SFT alone", ("sft-rl", after(2, "RL")), ("sft-4", after(1, "SFT"))),
    ("SFT, then RL, against RL, then SFT", ("sft-rl", after(2, "RL")), ("four", after(1, "SFT"))),
    ("two rounds of SFT and two of RL, against two rounds of SFT alone", ("sft-2-rl-2", after(4, "RL")),
     ("sft-4", after(2, "SFT"))),
    ("two rounds of SFT and two of RL, against four rounds of SFT alone", ("sft-2-rl-2", after(4, "RL")),
     ("sft-4", after(4, "SFT"))),
    ("three rounds of RL and SFT, against four rounds of SFT alone", ("rl-3-sft", after(3, "SFT")),
     ("sft-4", after(4, "SFT"))),
    ("RL and corrections for a tenth, against corrections for all", ("tenth", after(1, "SFT")), ("four", after(1, "SFT"))),
    ("one round with LoRA, against all weights: RL", ("lora", after(1, "RL")), ("one", after(1, "RL"))),
    ("one round with LoRA, against all weights: SFT", ("lora", after(1, "SFT")), ("one", after(1, "SFT"))),
    ("base without pictures, against base", ("blind", BASE), ("rl", BASE)),
    *((f"RL alone, {variant.label}, against the usual RL", (name, after(1, "RL")), ("rl", after(1, "RL")))
      for name, variant in VARIANTS.items() if name != "rl" and len(variant.rounds) == 1 and not variant.rounds[0].sft),
]


def settings(seed, points, changes):
    """ares.toml with some settings changed."""
    tables = {name: dict(keys) for name, keys in SETTINGS.items()}
    tables["rollout"]["seed"] = seed
    tables["student"]["checkpoints"] = str(points)
    for path, value in changes.items():
        section, key = path.split(".")
        tables.setdefault(section, {})[key] = value
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
    """What the report says of each policy, and the accuracy on problems with a picture."""
    text = place.run(COLLECT, "report", "--round", round_number)
    found = {}
    for line in text.splitlines():
        cells = re.split(r"\s{2,}", line.strip())
        if len(cells) == 11 and (cells[0] == "base student" or cells[0].startswith("round ")):
            number = lambda cell: None if cell == "–" else float(cell.removesuffix(" %"))
            names = ("score", "none_wrong", "repeated", "truncated", "accuracy")
            places = (5, 6, 7, 8, 10)
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
        for number, parts in enumerate(variant.rounds, 1):
            own = {"round.stages": "all" if parts.sft else "rl"}
            place.config.write_text(settings(seed, place.points, {**variant.changes, **parts.changes, **own}))
            place.run(TRAIN, "--round", number, "--stage", "rollout")
            place.run(COLLECT, "--round", number, "--stage", "scores")
            place.run(TRAIN, "--round", number, "--stage", "rl")
            if parts.sft:
                place.run(COLLECT, "--round", number, "--stage", "corrections")
                said += place.run(TRAIN, "--round", number)
            if parts.sft or number in (1, len(variant.rounds)):
                said += place.run(TRAIN, "eval", "--round", number, "--checkpoint", "rl")
        if not variant.rounds:
            place.run(TRAIN, "--round", 1, "--stage", "rollout")  # a report is on a round
        result = stages(place, max(len(variant.rounds), 1), said)
        shutil.rmtree(place.data)
        shutil.rmtree(place.points)
        (folder / "result.json").write_text(json.dumps(result, indent=1))
        print(f"seed {seed}: {name} done", file=sys.stderr, flush=True)


def interval(values):
    """Mean and half the width of its 95 % interval over seeds."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, float("nan")
    return mean, T95[len(values) - 1] * statistics.stdev(values) / len(values) ** 0.5


def bootstrap(values):
    """Bounds of the 95 % interval of the mean, by resampling seeds; the same each time."""
    if len(values) < 2:
        return float("nan"), float("nan")
    draw = random.Random(1)
    means = sorted(statistics.fmean(draw.choices(values, k=len(values))) for _ in range(RESAMPLES))
    return means[int(0.025 * RESAMPLES)], means[int(0.975 * RESAMPLES)]


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
        labels = [label for label in next(iter(found.values())) if label != BASE or name in ("rl", "blind")]
        for label in labels:
            rounds = re.match(r"round (\d+), after RL", label)
            if rounds and variant.rounds[int(rounds[1]) - 1].changes.get("rl.passes") == 0:
                continue  # that is the policy before it
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
    """Differences between policies of the same seed: base students differ much, so these say more than the means. After the
    interval of Student's t, that of the bootstrap over seeds."""
    def result(seed, name):
        path = work / f"seed-{seed}" / name / "result.json"
        return json.loads(path.read_text()) if path.exists() else {}

    lines = [
        "| difference | score | no wrong sentence, points | accuracy, points | score, by seed |",
        "| --- | --- | --- | --- | --- |",
    ]
    for label, (name, policy), (other, against) in PAIRS:
        pairs = [(result(seed, name).get(policy), result(seed, other).get(against)) for seed in seeds]
        # A policy whose rationales for test were not written has no score.
        pairs = [(ours, theirs) for ours, theirs in pairs if ours and theirs and None not in (ours["score"], theirs["score"])]
        if not pairs:
            continue
        cells = [label]
        for key, digits in (("score", 3), ("none_wrong", 1), ("accuracy", 1)):
            both = [(ours[key], theirs[key]) for ours, theirs in pairs if None not in (ours[key], theirs[key])]
            mean, half = interval([ours - theirs for ours, theirs in both]) if both else (float("nan"),) * 2
            low, high = bootstrap([ours - theirs for ours, theirs in both])
            cells.append(f"{mean:+.{digits}f} ± {half:.{digits}f} ({low:+.{digits}f} to {high:+.{digits}f})")
        cells.append(", ".join(f"{ours['score'] - theirs['score']:+.3f}" for ours, theirs in pairs))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", help="seeds, separated by commas [default: 1 to 8; with --small 1,2,3]")
    parser.add_argument("--only", help="variants, separated by commas [default: all]")
    parser.add_argument("--small", action="store_true", help=f"only {', '.join(SMALL)}: about an hour on two cores")
    parser.add_argument("--work", type=Path, default=ROOT / "target" / "experiments", help="folder of the runs")
    parser.add_argument("--jobs", type=int, default=2, help="seeds run in parallel")
    parser.add_argument("--table", action="store_true", help="only print the tables of completed runs")
    arguments = parser.parse_args()
    seeds = arguments.seeds or ("1,2,3" if arguments.small else "1,2,3,4,5,6,7,8")
    seeds = [int(seed) for seed in seeds.split(",")]
    wanted = arguments.only.split(",") if arguments.only else SMALL if arguments.small else list(VARIANTS)
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
