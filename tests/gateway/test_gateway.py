"""collect-feedback gets its answers through a gateway, LiteLLM's proxy, by both APIs and without a setting (run.py).

The packages go into a virtual environment under ~/.cache/ares-gateway, outside the checkout. Where that cannot be made (no
network, no venv) the tests are skipped, and say why.
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

    def test_a_gateway_that_answers_by_itself(self):
        self.collect("fixed")

    def test_a_gateway_that_passes_requests_on(self):
        self.collect("passing")


if __name__ == "__main__":
    unittest.main()
