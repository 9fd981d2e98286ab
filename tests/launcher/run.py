"""A round of two ranks under torchrun; in every stage, one rank is killed once, and torchrun starts both again.

    python run.py        # in an environment with tests/export/requirements.txt

Exit status: 0 the round ends as an undisturbed one, 1 it does not.
"""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow.parquet as parquet

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from harness import COMMANDS, ROOT, call, rows

SETTINGS = """
[student]
checkpoints = "checkpoints"
device = "cpu"
threads = 1
max_source_tokens = 96
save_every_secs = 0
shard_optimizer = true
[rollout]
samples = 2
max_new_tokens = 8
[rl]
passes = 1
minibatch = 16
accumulation = 1
[sft]
epochs = 1
batch = 16
[answer]
epochs = 1
"""

# More train problems than a part of rollouts holds.
PROBLEMS = 330

# What a stage has written when a rank is killed in it, and the rank.
KILLS = {
    "rollout": [("data/rollouts/*/part-sampled-00000.parquet", 1)],
    "rl": [("checkpoints/round-1/.rl-step.safetensors", 0)],
    "sft": [("checkpoints/round-1/.sft-step.safetensors", 1), ("checkpoints/round-1/sft/config.json", 0)],
    "answer": [("checkpoints/round-1/.answer-step.safetensors", 1)],
}


def prepare(place):
    """The first problems of the sample set, and a random student."""
    sample = ROOT / "datasets" / "sample"
    (place / "data").mkdir(parents=True)
    problems = parquet.read_table(sample / "problems.parquet")
    parquet.write_table(problems.slice(0, PROBLEMS), place / "data" / "problems.parquet")
    shutil.copy(sample / "dataset.toml", place / "data")
    shutil.copytree(sample / "images", place / "data" / "images")
    (place / "ares.toml").write_text(SETTINGS)
    tokenizer, base = sample / "tokenizer", place / "checkpoints" / "base"
    call("train", "init", "--tokenizer", tokenizer, "--shape", "tiny", "--dropout", 0, "--out", base, "--data", place / "data")


def processes(launcher):
    """The ranks that torchrun started, by number."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            variables = (folder / "environ").read_bytes().split(b"\0")
        except (OSError, ValueError):
            continue
        ranks = [int(variable[5:]) for variable in variables if variable.startswith(b"RANK=")]
        if parent == launcher and ranks:
            found[ranks[0]] = int(folder.name)
    return found


def stage(place, name, file=None, victim=None):
    """Runs a stage; kills the victim when the file is there. Whether it was killed."""
    line = [sys.executable, HERE / "torchrun.py", "--standalone", "--nproc-per-node=2", "--max-restarts=2", "--no-python"]
    line += [COMMANDS / "train", "--round", 1, "--stage", name, "--data", "data"]
    log = place / f"{name}.log"
    killed = False
    with open(log, "w") as output:
        running = subprocess.Popen([str(word) for word in line], cwd=place, stdout=output, stderr=output)
        while running.poll() is None and file and not killed:
            if any(place.glob(file)) and victim in (found := processes(running.pid)):
                os.kill(found[victim], signal.SIGKILL)
                killed = True
            time.sleep(0.001)
        status = running.wait(300)
    if status:
        raise AssertionError(f"{name}: torchrun ended with status {status}\n{log.read_text()[-3000:]}")
    return killed


def left(place):
    """What a round has left: hashes of weights, rows of tables, hidden files."""
    weights = {
        str(path.relative_to(place)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in place.glob("checkpoints/**/*.safetensors")
    }
    tables = {name: rows(place / "data", name) for name in ("rollouts", "rationales", "answers")}
    return weights, tables


def main():
    with tempfile.TemporaryDirectory() as folder:
        calm = Path(folder) / "calm"
        prepare(calm)
        for name, kills in KILLS.items():
            prepared = Path(folder) / f"before-{name}"
            shutil.copytree(calm, prepared)
            stage(calm, name)
            expected = left(calm)
            for file, victim in kills:
                place = Path(folder) / "disturbed"
                for _ in range(10):  # again where it had ended before the file was seen
                    shutil.rmtree(place, ignore_errors=True)
                    shutil.copytree(prepared, place)
                    if stage(place, name, file, victim):
                        break
                else:
                    raise AssertionError(f"{name}: no kill at {file}")
                if left(place) != expected:
                    raise AssertionError(f"{name}: killed at {file}, it ended otherwise than undisturbed")
                print(f"{name}: rank {victim} killed at {file}: ended as undisturbed", flush=True)
            if name in ("rollout", "rl"):
                call("collect-feedback", "--round", 1, "--data", calm / "data")


if __name__ == "__main__":
    main()
