"""Building one crate of the workspace recompiles no third-party crate: each has the same features as in the whole
workspace, because of build/workspace-features."""

import shutil
import subprocess
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MEMBERS = ["schemas", "feedback-pipeline", "trainer", "workspace-tests", "sample-generator"]


def features(*arguments):
    """Sets of features by package, as resolved by cargo."""
    command = ["cargo", "tree", "--edges", "normal,build,dev", "--prefix", "none", "--format", "{p}|{f}", *arguments]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found = {}
    for line in ran.stdout.splitlines():
        package, _, names = line.replace(" (*)", "").replace(" (proc-macro)", "").partition("|")
        if package and str(ROOT) not in package:
            found.setdefault(package.strip(), set()).add(names.strip())
    return found


@unittest.skipUnless(shutil.which("cargo"), "there is no cargo")
class Features(unittest.TestCase):
    def test_each_crate_builds_with_the_features_of_the_workspace(self):
        whole = features("--workspace")
        self.assertGreater(len(whole), 300)
        missing = []
        for member in MEMBERS:
            for package, sets in features("--package", member).items():
                for names in sets - whole.get(package, set()):
                    missing.append(f"{member}: {package} has [{names}], in the workspace {sorted(whole.get(package, []))}")
        self.assertEqual(missing, [], "add the features to build/workspace-features/Cargo.toml")


if __name__ == "__main__":
    unittest.main()
