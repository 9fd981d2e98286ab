"""The notebook runs from start to end on a dataset that the built commands make (run.py), as part of `make test`.

Where this Python lacks the packages they go into a virtual environment under ~/.cache/ares-notebook, outside the checkout.
Where that cannot be made (no network, no venv) the test is skipped, and says why.
"""

import hashlib
import os
import subprocess
import sys
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parent
REQUIREMENTS = HERE / "requirements.txt"


def run(*words):
    return subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=900)


def environment():
    """A Python that has the packages, or the reason why there is none."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "ares-notebook"
    folder = cache / hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()[:12]
    python, ready = folder / "bin" / "python", folder / "ready"
    if ready.is_file():
        return python, None
    for step in (
        [sys.executable, "-m", "venv", "--clear", folder],
        [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", REQUIREMENTS],
    ):
        try:
            done = run(*step)
        except (OSError, subprocess.TimeoutExpired) as error:
            return None, str(error)
        if done.returncode:
            return None, (done.stderr or done.stdout).strip()[-500:]
    ready.touch()
    return python, None


class Notebook(unittest.TestCase):
    def test_it_runs_from_start_to_end(self):
        python, reason = environment()
        if python is None:
            self.skipTest(f"no Python with the notebook's packages: {reason}")
        done = run(python, HERE / "run.py")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)


if __name__ == "__main__":
    unittest.main()
