"""Shared by the Python tests: virtual environments, the built commands, a small dataset, child processes.

The tests themselves need only the standard library; whatever needs packages runs in a virtual environment as a child process.
"""

import contextlib
import hashlib
import os
import select
import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"


def environment(name, *requirements, options=()):
    """The Python of a virtual environment under ~/.cache with these packages, or the reason it could not be made.

    `options` are pip's."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / f"ares-{name}"
    wanted = b"".join(Path(file).read_bytes() for file in requirements)
    folder = cache / hashlib.sha256(wanted).hexdigest()[:12]
    python, ready = folder / "bin" / "python", folder / "ready"
    if ready.is_file():
        return python, None
    files = [word for file in requirements for word in ("-r", file)]
    for step in (
        [sys.executable, "-m", "venv", "--clear", folder],
        [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *options, *files],
    ):
        try:
            done = subprocess.run([str(word) for word in step], capture_output=True, text=True, timeout=900)
        except (OSError, subprocess.TimeoutExpired) as error:
            return None, str(error)
        if done.returncode:
            return None, (done.stderr or done.stdout).strip()[-500:]
    ready.touch()
    return python, None


def call(command, *words, keys=None):
    """Runs a built command and returns its output; if it fails, the output is in the error."""
    line = [str(word) for word in (COMMANDS / command, *words)]
    # Tests never see the keys of real accounts.
    clean = {name: value for name, value in os.environ.items() if name not in ("ANTHROPIC_API_KEY", "OPENAI_API_KEY")}
    done = subprocess.run(line, capture_output=True, text=True, timeout=120, env=clean | (keys or {}))
    if done.returncode:
        raise AssertionError(f"{' '.join(line)}\nexit status {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def small_dataset(folder, problems=8, samples=1):
    """A dataset that lacks scores, corrections and judgements of round 1. Needs pyarrow."""
    import pyarrow
    import pyarrow.parquet as parquet

    call("make-small-dataset", folder, problems, samples)
    [corrected] = Path(folder).glob("rationales/round*1/*.parquet")
    for number, stage, split in ((0, "base", "test"), (1, "sft", "test")):
        table = parquet.read_table(corrected, partitioning=None)
        ids = [f"{name}/{number}/{stage}" for name in table["problem_id"].to_pylist()]
        for column, values in {
            "rationale_id": ids,
            "round": [number] * len(table),
            "stage": [stage] * len(table),
            "split": [split] * len(table),
            "rationale": [f"{text} {stage.upper()}." for text in table["rationale"].to_pylist()],
        }.items():
            place = table.schema.get_field_index(column)
            field = table.schema.field(place)
            table = table.set_column(place, field, pyarrow.array(values, field.type))
        part = corrected.parents[1] / corrected.parent.name.replace("1", str(number)) / f"part-{stage}.parquet"
        part.parent.mkdir(exist_ok=True)
        parquet.write_table(table, part)
    return Path(folder)


def rows(dataset, name):
    """Rows of a table; empty if it does not exist."""
    import pyarrow.parquet as parquet

    parts = sorted((Path(dataset) / name).rglob("*.parquet"))
    return [row for part in parts for row in parquet.read_table(part, partitioning=None).to_pylist()]


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextlib.contextmanager
def process(line, **how):
    """A process that is terminated on exit."""
    with subprocess.Popen([str(word) for word in line], **how) as running:
        try:
            yield running
        finally:
            running.terminate()
            try:
                running.wait(10)
            except subprocess.TimeoutExpired:
                running.kill()


@contextlib.contextmanager
def simulated_teacher(dataset, *options):
    """The address of a simulated Teacher service for a dataset."""
    line = [COMMANDS / "simulated-teacher", "--data", dataset, "--latency-ms", "1", "--batch-latency-ms", "1", *options]
    with process(line, stdout=subprocess.PIPE, text=True) as running:
        told = select.select([running.stdout], [], [], 30)[0] and running.stdout.readline().strip()
        if not told:
            raise AssertionError("the simulated Teacher did not start")
        yield told


def wait_for(ready, running, seconds, log):
    """Waits until `ready()`; fails with the end of the log if the process exits or takes too long."""
    end = time.monotonic() + seconds
    while not ready():
        if running.poll() is not None or time.monotonic() > end:
            raise AssertionError(f"not ready, exit status {running.poll()}\n{Path(log).read_text()[-2000:]}")
        time.sleep(0.2)
