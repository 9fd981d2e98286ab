"""Starts `train` with the libtorch of the installed torch."""

import importlib.metadata
import importlib.util
import os
import sys
from pathlib import Path


def train():
    """Becomes the `train` binary; torch is located, not imported. Exit status 1: there is no torch of the right version."""
    binary = Path(__file__).with_name("train")
    [wanted] = [line for line in importlib.metadata.requires("ares-rust") if line.startswith("torch==")]
    libraries = folder_of_libtorch(wanted)
    # Takes precedence over any other libtorch in the variable.
    paths = [str(libraries), os.environ.get("LD_LIBRARY_PATH")]
    os.environ["LD_LIBRARY_PATH"] = os.pathsep.join(filter(None, paths))
    try:
        os.execv(binary, ["train", *sys.argv[1:]])
    except OSError as error:
        sys.exit(f"error: cannot start {binary}: {error}")


def folder_of_libtorch(wanted):
    """The folder of the libraries in the installed torch, which must be the `wanted` one, such as `torch==2.11.0`."""
    hint = f"hint: pip install {wanted}"
    try:
        found = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        sys.exit(f"error: expected {wanted}, found no torch in {sys.prefix}\n{hint}")
    if found.split("+")[0] != wanted.removeprefix("torch=="):
        sys.exit(f"error: expected {wanted}, found torch {found} in {sys.prefix}\n{hint}")
    torch = importlib.util.find_spec("torch")
    for folder in torch.submodule_search_locations or [] if torch else []:
        libraries = Path(folder) / "lib"
        if (libraries / "libtorch_cpu.so").is_file():
            return libraries
    sys.exit(f"error: torch {found} in {sys.prefix} has no lib/libtorch_cpu.so\n{hint}")
