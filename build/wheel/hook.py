"""Puts the built commands into the wheel and sets the wheel's platform tag. Run by hatchling."""

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerNeedSection
from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Commands(BuildHookInterface):
    def initialize(self, version, build_data):
        if not sys.platform.startswith("linux"):
            sys.exit(f"make wheel works on Linux only, found {sys.platform}; next: make build, and use the binaries")
        release = Path(os.environ.get("CARGO_TARGET_DIR", "target"))
        release = Path(self.root) / release / "release"
        self.folder = tempfile.TemporaryDirectory()
        collect, train = (self.copy(release / name) for name in ("collect-feedback", "train"))
        # The libtorch path of the build machine is meaningless elsewhere; ares_rust locates libtorch instead.
        subprocess.run(["patchelf", "--remove-rpath", train], check=True)
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform_tag(collect, train)}"
        build_data["shared_scripts"][str(collect)] = collect.name
        build_data["force_include"][str(train)] = "ares_rust/train"

    def copy(self, binary):
        if not binary.is_file():
            sys.exit(f"{binary}: expected a built command, found none; next: make wheel, which builds it")
        stripped = Path(self.folder.name) / binary.name
        shutil.copy(binary, stripped)
        subprocess.run(["strip", stripped], check=True)
        return stripped

    def finalize(self, version, build_data, artifact_path):
        self.folder.cleanup()


def platform_tag(*binaries):
    """The platform tag, such as `manylinux_2_28_x86_64`: the oldest glibc with all the symbols that the binaries use."""
    needed = [0]
    for binary in binaries:
        with open(binary, "rb") as file:
            for section in ELFFile(file).iter_sections():
                if isinstance(section, GNUVerNeedSection):
                    names = [version.name for _, versions in section.iter_versions() for version in versions]
                    needed += [int(found[1]) for name in names if (found := re.fullmatch(r"GLIBC_2\.(\d+)[\d.]*", name))]
    return f"manylinux_2_{max(needed)}_{platform.machine()}"
