"""torch on the CPU without its NVIDIA packages.

The torch of the package index is built for CUDA and loads two gigabytes of NVIDIA libraries when it is imported, although nothing
calls them on a machine without a GPU. This module replaces them with empty libraries of the same names, so that a test downloads
half a gigabyte instead of three. Import it before torch.
"""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

# The libraries that torch 2.11 links, except cudart and cupti, which it also calls on the CPU.
NAMES = [
    "libcublas.so.13",
    "libcublasLt.so.13",
    "libcudnn.so.9",
    "libcufft.so.12",
    "libcufile.so.0",
    "libcurand.so.10",
    "libcusolver.so.12",
    "libcusparse.so.12",
    "libcusparseLt.so.0",
    "libnccl.so.2",
    "libnvshmem_host.so.3",
]


def load():
    """Loads the empty libraries, which are created once in the environment's folder."""
    if sys.platform != "linux":
        return  # a torch without CUDA
    folder = Path(sys.prefix) / "empty-libraries"
    folder.mkdir(exist_ok=True)
    for name in NAMES:
        library = folder / name
        if not library.is_file():
            line = ["cc", "-shared", "-x", "c", "/dev/null", f"-Wl,-soname,{name}", "-o", str(library)]
            subprocess.run(line, check=True)
        ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    # Functions are resolved when called, and none of these is called.
    sys.setdlopenflags(os.RTLD_LAZY | os.RTLD_GLOBAL)


load()
