"""collect-feedback works through a gateway, LiteLLM's proxy, over both APIs with default settings (run.py).

The packages are installed into a virtual environment under ~/.cache/ares-gateway (about 1 GB). If that fails (no network, no
venv), the tests are skipped with the reason.
"""

import subprocess
import sys
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from harness import environment


class Gateway(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.python, reason = environment("gateway", HERE / "requirements.txt")
        if cls.python is None:
            raise unittest.SkipTest(f"no Python with the gateway's packages: {reason}")

    def collect(self, kind):
        line = [str(self.python), str(HERE / "run.py"), kind]
        done = subprocess.run(line, capture_output=True, text=True, timeout=300)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_gateway_with_fixed_replies(self):
        self.collect("fixed")

    def test_gateway_in_front_of_a_service(self):
        self.collect("passing")


if __name__ == "__main__":
    unittest.main()
