"""All request bodies of collect-feedback are valid by the types in the providers' own Python packages (run.py).

The packages are installed into a virtual environment under ~/.cache/ares-sdk. If that fails (no network, no venv), the tests are
skipped with the reason.
"""

import subprocess
import sys
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from harness import environment


class Requests(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        files = [HERE.parent / "reference" / "requirements-sdk.txt", HERE / "requirements.txt"]
        cls.python, reason = environment("sdk", *files)
        if cls.python is None:
            raise unittest.SkipTest(f"no Python with the providers' packages: {reason}")

    def run_python(self, *words):
        done = subprocess.run([str(word) for word in (self.python, *words)], capture_output=True, text=True, timeout=300)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_the_check_itself(self):
        self.run_python(HERE.parent / "reference" / "test_check_requests.py")

    def test_request_bodies_are_valid(self):
        self.run_python(HERE / "run.py")


if __name__ == "__main__":
    unittest.main()
