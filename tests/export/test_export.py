"""Loads exports with `datasets` and trains one step with each of TRL's trainers (run.py); runs docs/recipe.md (recipe.py). Part of
`make test`.

The packages go into a virtual environment under ~/.cache/ares-export: 0.7 GB to download, 2 GB on disk. If it cannot be
created, the tests are skipped with the reason.
"""

import subprocess
import sys
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from harness import environment


class Export(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.python, reason = environment("export", HERE / "requirements.txt", options=["--no-deps"])
        if cls.python is None:
            raise unittest.SkipTest(f"no Python with the readers' packages: {reason}")

    def call(self, script):
        done = subprocess.run([str(self.python), str(HERE / script)], capture_output=True, text=True, timeout=1800)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_every_format_is_loaded(self):
        self.call("run.py")

    def test_the_recipe_runs(self):
        self.call("recipe.py")


if __name__ == "__main__":
    unittest.main()
