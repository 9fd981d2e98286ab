"""Checks that everything the container files copy exists. The images are not built, since that needs a container engine."""

import re
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "containers").glob("*.Dockerfile"))


def instructions(file):
    """Pairs of an instruction and its arguments, with continued lines joined."""
    text = re.sub(r"(?m)^\s*#.*\n", "", file.read_text())
    lines = re.sub(r"\\\n", " ", text).splitlines()
    return [tuple(line.split(None, 1)) for line in lines if line.strip()]


def in_context():
    """The tracked files that .dockerignore keeps: its patterns are those of git, except that they are anchored at the root."""
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    patterns = (ROOT / ".dockerignore").read_text().splitlines()
    anchored = [re.sub(r"^(!?)(?!\*\*)", r"\1/", line) for line in patterns if line and not line.startswith("#")]
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["git", "init", "--quiet", folder], check=True)
        (Path(folder) / ".gitignore").write_text("\n".join(anchored) + "\n")
        ignored = subprocess.run(
            ["git", "check-ignore", "--stdin", "--no-index"],
            cwd=folder,
            input="\n".join(tracked),
            capture_output=True,
            text=True,
        )
    return set(tracked) - set(ignored.stdout.splitlines())


@unittest.skipUnless((ROOT / ".git").exists() and shutil.which("git"), "no git checkout")
class Containers(unittest.TestCase):
    def test_what_is_copied_from_the_repository_is_there(self):
        self.assertEqual([file.name for file in FILES], ["cpu.Dockerfile", "cuda.Dockerfile"])
        context = in_context()
        for file in FILES:
            copied = [words.split() for name, words in instructions(file) if name == "COPY" and "--from=" not in words]
            self.assertTrue(copied)
            for *sources, _ in copied:
                for source in sources:
                    found = [path for path in context if source == "." or path == source or path.startswith(source + "/")]
                    self.assertTrue(found, f"{file.name}: COPY {source}: nothing of that name in the build context")

    def test_the_context_holds_the_whole_workspace(self):
        context = in_context()
        manifest = (ROOT / "Cargo.toml").read_text()
        members = re.findall(r'"([^"]+)"', re.search(r"(?m)^members = \[(.*)\]$", manifest)[1])
        self.assertGreater(len(members), 4)
        needed = [f"{member}/Cargo.toml" for member in members]
        needed += ["Cargo.toml", "Cargo.lock", ".cargo/config.toml", "build/outside.rs", "scripts/setup_libtorch.py"]
        needed += ["feedback-pipeline/models.toml"]
        for path in needed:
            self.assertIn(path, context)
        for folder in (".git", ".libtorch", "target", "docs", "datasets/sample"):
            self.assertFalse([path for path in context if path.startswith(f"{folder}/")])

    def test_nothing_runs_as_root(self):
        for file in FILES:
            last = [words for name, words in instructions(file) if name in ("FROM", "USER")][-1]
            self.assertTrue(last.isdigit() and int(last) > 0, f"{file.name}: {last}")


if __name__ == "__main__":
    unittest.main()
