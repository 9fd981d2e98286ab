"""Installs the wheel of `make wheel` into a new virtual environment and runs a whole round without cargo. Part of `make test`.

torch from the package index has more than two gigabytes with its NVIDIA packages. Here it is replaced by a package of the same
name and version with the libraries chosen by `make setup`; with ARES_WHEEL_TORCH=index (`make test-wheel`), pip installs the real
one. If a package that the build needs is not available, the tests are skipped with the reason.
"""

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import unittest
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from harness import COMMANDS, ROOT, environment

REAL_TORCH = os.environ.get("ARES_WHEEL_TORCH") == "index"
TORCH = "2.11.0"
# Folders without compilers and cargo.
PATH = "/usr/bin:/bin"


def run(line, **how):
    """Exit status and output of a command."""
    done = subprocess.run([str(word) for word in line], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **how)
    return done.returncode, done.stdout


def pip(python, *words):
    return run([python, "-m", "pip", "--disable-pip-version-check", *words], timeout=1800)


def torch_without_libraries(folder, version):
    """A wheel named torch that contains only its version."""
    name = f"torch-{version}"
    files = {
        "torch/__init__.py": f"raise ImportError('a stand-in for torch {version}')\n",
        f"{name}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n",
        f"{name}.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    digest = lambda text: base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
    record = "".join(f"{path},sha256={digest(text)},{len(text)}\n" for path, text in files.items())
    files[f"{name}.dist-info/RECORD"] = f"{record}{name}.dist-info/RECORD,,\n"
    with zipfile.ZipFile(folder / f"{name}-py3-none-any.whl", "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)


@unittest.skipUnless(sys.platform.startswith("linux"), "make wheel works on Linux only")
class Wheel(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.folder = Path(folder.name)
        cls.python = cls.folder / "venv" / "bin" / "python"
        status, said = run([sys.executable, "-m", "venv", cls.folder / "venv"])
        if status:
            raise unittest.SkipTest(f"no virtual environment: {said.strip()[-300:]}")
        # The build's packages come from a cached environment, so that later runs need no network.
        [needed] = [line for line in (ROOT / "pyproject.toml").read_text().splitlines() if line.startswith("requires = ")]
        requirements = cls.folder / "requirements.txt"
        requirements.write_text("\n".join(needed.split('"')[1::2]) + "\n")
        builder, reason = environment("wheel", requirements)
        if builder is None:
            raise unittest.SkipTest(f"cannot get what the build needs: {reason}")
        wheels = cls.folder / "wheels"
        how = {"CARGO_TARGET_DIR": str(COMMANDS.parent), "PATH": f"{builder.parent}:{PATH}"}
        status, said = run(
            [builder, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", wheels, ROOT],
            env=os.environ | how,
        )
        if status:
            raise AssertionError(said)
        [cls.wheel] = wheels.glob("*.whl")
        cls.install()

    @classmethod
    def install(cls):
        where = []
        if not REAL_TORCH:
            for version in (TORCH, "2.10.0"):
                torch_without_libraries(cls.folder, version)
            where = ["--no-index", "--find-links", cls.folder]
        status, said = pip(cls.python, "install", "--quiet", *where, cls.wheel)
        if status:
            raise AssertionError(said)
        if not REAL_TORCH:
            # Side by side as in the real package, so that libtorch finds its NVIDIA libraries.
            tree = (ROOT / ".libtorch" / "current").resolve().parent
            [torch] = (cls.folder / "venv").glob("lib/python3*/site-packages/torch")
            (torch / "lib").symlink_to(tree / "torch" / "lib")
            if (tree / "nvidia").exists():
                (torch.parent / "nvidia").symlink_to(tree / "nvidia")

    def call(self, command, *words, status=0):
        """Runs an installed command in the test's folder, without this machine's Rust, keys or libraries."""
        line = [self.python.parent / command, *words]
        clean = {"PATH": PATH, "HOME": str(self.folder), "LD_LIBRARY_PATH": os.environ.get("LD_LIBRARY_PATH", "")}
        found, said = run(line, env=clean, cwd=self.folder, timeout=300)
        self.assertEqual(found, status, f"{' '.join(map(str, line))}\n{said}")
        return said

    def test_a_round(self):
        self.assertIsNone(shutil.which("cargo", path=PATH))
        self.assertRegex(self.call("train", "--version"), r"^train \d")
        self.assertRegex(self.call("collect-feedback", "--version"), r"^collect-feedback \d")
        questions = self.folder / "questions.jsonl"
        problems = [
            {
                "problem_id": f"q{n}",
                "split": split,
                "question": f"What is {n} + 1?",
                "choices": [str(n + 1), str(n)],
                "answer_index": 0,
                "solution": f"{n} and 1 make {n + 1}. So the answer is {n + 1}.",
            }
            for n, split in enumerate(["train"] * 4 + ["val"] * 2 + ["test"] * 2)
        ]
        questions.write_text("".join(json.dumps(problem) + "\n" for problem in problems))
        self.call("collect-feedback", "import", "jsonl", "--from", questions, "--data", "datasets/questions")
        tokenizer = ROOT / "datasets" / "sample" / "tokenizer"
        self.call("train", "init", "--tokenizer", tokenizer, "--shape", "tiny", "--out", "checkpoints/questions/init")
        pretrain = ["pretrain", "--from", "checkpoints/questions/init", "--out", "checkpoints/questions/base", "--epochs", 1]
        self.call("train", *pretrain)
        for command in ("train", "collect-feedback") * 2:
            self.call(command, "--round", 1)
        self.assertIn("round 1: complete", self.call("train", "--round", 1))
        self.assertIn("corrections", self.call("collect-feedback", "status"))

    def test_torch_is_missing_or_another(self):
        if REAL_TORCH:
            self.skipTest("another torch would have to be downloaded")
        self.addCleanup(pip, self.python, "install", "--quiet", "--no-index", "--find-links", self.folder, f"torch=={TORCH}")
        pip(self.python, "install", "--quiet", "--no-index", "--find-links", self.folder, "torch==2.10.0")
        said = self.call("train", "--version", status=1)
        self.assertIn("expected torch==2.11.0, found torch 2.10.0", said)
        self.assertIn("pip install torch==2.11.0", said)
        pip(self.python, "uninstall", "--quiet", "--yes", "torch")
        self.assertIn("found no torch", self.call("train", "--version", status=1))
        self.call("collect-feedback", "--version")


if __name__ == "__main__":
    unittest.main()
