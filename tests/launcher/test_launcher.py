"""A round under torchrun, which restarts ranks that were killed (run.py). Part of `make test`.

torch is in the virtual environment of tests/export. If it cannot be created, the test is skipped with the reason.
"""

import subprocess
import sys
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from harness import environment


class Launcher(unittest.TestCase):
    def test_killed_ranks_are_restarted(self):
        if sys.platform != "linux":
            self.skipTest("finds its processes in /proc")
        python, reason = environment("export", HERE.parent / "export" / "requirements.txt", options=["--no-deps"])
        if python is None:
            self.skipTest(f"no Python with torch: {reason}")
        done = subprocess.run([str(python), str(HERE / "run.py")], capture_output=True, text=True, timeout=1800)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)


if __name__ == "__main__":
    unittest.main()
