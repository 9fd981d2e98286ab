"""Runs the notebook on a dataset created by the built commands (run.py), opens every table with the libraries used in notebooks
(tables.py), and imports problem sets written by `datasets` (hub.py). Part of `make test`.

If this Python lacks the packages, they are installed into a virtual environment under ~/.cache/ares-notebook, outside the
checkout. If that fails (no network, no venv), the test is skipped with the reason.
"""

import subprocess
import sys
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from harness import environment


class Notebook(unittest.TestCase):
    def test_it_runs_from_start_to_end(self):
        self.runs("run.py")

    def test_every_table_opens_without_an_option(self):
        self.runs("tables.py")

    def test_sets_of_the_hub_are_imported_whole(self):
        self.runs("hub.py")

    def runs(self, script):
        python, reason = environment("notebook", HERE / "requirements.txt")
        if python is None:
            self.skipTest(f"no Python with the notebook's packages: {reason}")
        done = subprocess.run([str(python), str(HERE / script)], capture_output=True, text=True, timeout=900)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)


if __name__ == "__main__":
    unittest.main()
