"""Makes a small dataset of two rounds with the built commands and runs datasets/inspect.ipynb on it from start to end.

    python3 -m venv /tmp/notebook && /tmp/notebook/bin/pip install -r tests/notebook/requirements.txt
    /tmp/notebook/bin/python tests/notebook/run.py [--bin target/release] [--data DATASET]

Exit status: 0 it ran, 1 it did not, 77 skipped because the packages are not installed.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

SKIPPED = 77
ROOT = Path(__file__).resolve().parents[2]
# What the notebook imports is asked for, too: without it, it cannot run.
NEEDED = ["duckdb", "ipykernel", "nbclient", "nbconvert", "polars"]


def arguments():
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bin", type=Path, default=target / "release", help="folder of the built commands")
    parser.add_argument("--data", type=Path, help="an existing dataset, in place of a small one")
    return parser.parse_args()


def make(folder, commands):
    """A dataset with scores of rounds 1 and 2 and corrections of round 1."""
    data = folder / "small"
    problems = 60
    call = lambda *words: subprocess.run([str(word) for word in words], check=True, stdout=subprocess.DEVNULL)
    call(commands / "make-small-dataset", data, problems, 2)
    call(commands / "collect-feedback", "--round", 1, "--data", data, "--teacher", "reference")
    said = {
        f"p{n}": f"The box holds {n % 7 + 2} red marbles. The box holds {n % 5 + 3} blue marbles. So most are {'red' if n % 3 else 'blue'}."
        for n in range(problems)
    }
    file = folder / "round-2.json"
    file.write_text(json.dumps(said))
    call(commands / "collect-feedback", "import", "rationales", "--from", file, "--data", data, "--round", 2)
    call(commands / "collect-feedback", "--round", 2, "--data", data, "--teacher", "reference")
    call(commands / "collect-feedback", "audit", "--round", 2, "--sample", 10, "--data", data, "--teacher", "reference")
    return data


def execute(data):
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    os.environ["ARES_DATA"] = str(data.resolve())
    notebook = nbformat.read(ROOT / "datasets" / "inspect.ipynb", as_version=4)
    client = NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(ROOT / "datasets")}})
    try:
        client.execute()
    except CellExecutionError as error:
        print(error)
        return 1
    cells = sum(cell.cell_type == "code" for cell in notebook.cells)
    print(f"datasets/inspect.ipynb: {cells} cells ran on {data}; polars and DuckDB agree")
    return 0


def main():
    options = arguments()
    missing = []
    for name in NEEDED:
        try:
            __import__(name)
        except ImportError:
            missing.append(name)
    if missing:
        print(f"SKIPPED: {', '.join(missing)} not installed, so the notebook did not run")
        return SKIPPED
    if options.data:
        return execute(options.data)
    with tempfile.TemporaryDirectory() as folder:
        return execute(make(Path(folder), options.bin))


if __name__ == "__main__":
    sys.exit(main())
