"""Exports a round in every format, and checks the exports with check.py.

    python run.py        # in an environment with requirements.txt

Exits with the status of check.py.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from harness import call

EXPORTS = {
    "prm": [],
    "preference": [],
    "kto": [],
    "sft": [],
    "llamafactory": [],
    "verl": [],
    "hub": [],
    "preference-text": ["--no-images", "--from", "scores"],
    "kto-text": ["--no-images"],
    "sft-text": ["--no-images", "--from", "scores"],
}


def export(folder):
    """The exports of a small round answered by the embedded Teacher."""
    data = folder / "small"
    call("make-small-dataset", data, 20, 4)
    call("collect-feedback", "--round", 1, "--data", data)
    for name, options in EXPORTS.items():
        kind, _, _ = name.partition("-")
        call("collect-feedback", "export", "--round", 1, "--data", data, "--as", kind, "--to", folder / "out" / name, *options)
    return folder / "out"


def main():
    with tempfile.TemporaryDirectory() as folder:
        return subprocess.run([sys.executable, str(HERE / "check.py"), str(export(Path(folder)))]).returncode


if __name__ == "__main__":
    sys.exit(main())
