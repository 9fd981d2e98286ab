#!/usr/bin/env python3
"""Installs libtorch where the build looks for it: `.libtorch/current`. Run by `make setup`.

libtorch is taken from the first of these that has it:

1. the folder named by LIBTORCH,
2. a Python torch of the right version that is installed for this Python or the active VIRTUAL_ENV,
3. the torch wheel of the Python package index, unpacked with the nvidia libraries that it needs.

Each source becomes a tree of one shape:

    torch/  nvidia/        the libraries and headers, or links to where they are installed
    link/build-version     the version, which torch-sys checks
    link/include           -> ../torch/include
    link/lib/              a link per library; libtorch.so is libtorch_cpu.so, libtorch_cuda.so is excluded
    link/cuda              -> ../torch/lib, only where libtorch_cuda.so is there

`.libtorch/current` links to a tree's `link` folder. torch-sys links CUDA unconditionally if it finds libtorch_cuda.so
next to libtorch_cpu.so. `link/lib` hides it, so that one binary runs with and without CUDA and opens
`link/cuda/libtorch_cuda.so` itself. The libraries look for CUDA in `$ORIGIN/../../nvidia`; from `link/lib` and from
`link/cuda` that is the tree's own `nvidia`.

ARES_LIBTORCH_CACHE=DIR keeps the unpacked wheels in DIR, so that several checkouts share one download.
"""

import argparse
import contextlib
import ctypes
import fcntl
import importlib.metadata
import os
import platform
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import zipfile
import zlib
from pathlib import Path

VERSION = "2.11.0"
# The wheel may be for another Python version than the one running this: only its C++ part is used.
WHEEL_PYTHON = ("3.12", "cp312")
SUFFIX = ".dylib" if sys.platform == "darwin" else ".so"
CORE = ("libtorch_cpu" + SUFFIX, "libc10" + SUFFIX)
CUDA = "libtorch_cuda.so"

# Libraries left out of link/lib: torch-sys would link CUDA if it found it, and libtorch_python needs Python.
KEPT_OUT_OF_LINK = {
    "libtorch.so",
    CUDA,
    "libtorch_cuda_cu.so",
    "libtorch_cuda_cpp.so",
    "libtorch_hip.so",
    "libtorch_python" + SUFFIX,
}
# Libraries that nothing loads on a machine without an NVIDIA GPU. They are half of the wheel.
ONLY_WITH_CUDA = re.compile(r"lib(torch_cuda|c10_cuda|caffe2_nvrtc|torch_nvshmem|torch_global_deps|shm)")
NEVER_NEEDED = re.compile(r"libtorch_python")
# The package of NVIDIA's toolkit that contains each library loaded by libtorch_cpu.so itself.
TOOLKIT_PART = {"libcudart": "cudart", "libcupti": "cupti"}

AGAIN = "run make setup again, or set LIBTORCH to a libtorch " + VERSION
OTHER = f"point LIBTORCH at a libtorch {VERSION}, or unset it and run make setup"
GIB = 1 << 30


class SetupError(Exception):
    """What went wrong, and the next step."""

    def __init__(self, what, hint=AGAIN):
        super().__init__(what)
        self.hint = hint


def say(text):
    print("libtorch: " + text, flush=True)


def main():
    parser = argparse.ArgumentParser(description="Puts libtorch " + VERSION + " at .libtorch/current.")
    parser.add_argument("--check", action="store_true", help="only check that libtorch is in place and loads")
    parser.add_argument("--cuda", choices=["auto", "yes", "no"], default="auto", help="auto: where a GPU is present")
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parent.parent, help="the project folder")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    home = args.root / ".libtorch"
    try:
        if args.check:
            check(home)
        else:
            install(home, args.cuda == "yes" or (args.cuda == "auto" and gpu_present()))
    except SetupError as error:
        print(f"libtorch: error: {error}\nlibtorch: next: {error.hint}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"libtorch: error: {error}\nlibtorch: next: {AGAIN}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"libtorch: interrupted; no partial files are left\nlibtorch: next: {AGAIN}", file=sys.stderr)
        return 130
    return 0


def check(home):
    current = home / "current"
    if not usable(current):
        raise SetupError(f"{current} has no libtorch {VERSION}", "make setup")
    load(current, "make clean-libtorch setup")
    cuda = "with CUDA" if has_cuda(current) else "without CUDA"
    say(f"{VERSION} {cuda} loads from {core_library(current).parent}")


def install(home, cuda):
    current = home / "current"
    chosen = chosen_by_user(home)
    if chosen:
        refuse_unless_right(chosen)
    if up_to_date(current, chosen, cuda):
        say(f"{VERSION} is in place at {current}; nothing to do")
        return
    home.mkdir(parents=True, exist_ok=True)
    store = Path(os.environ.get("ARES_LIBTORCH_CACHE") or home).absolute()
    store.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as locks:
        for folder in dict.fromkeys([home.resolve(), store.resolve()]):
            locks.enter_context(locked(folder))
            # Nobody else writes here while we hold the lock, so these are leftovers of an interrupted run.
            for leftover in folder.glob("tmp-*"):
                shutil.rmtree(leftover, ignore_errors=True)
        if up_to_date(current, chosen, cuda):
            say(f"{VERSION} was put in place by another run")
            return
        if chosen:
            tree = link_to(home, chosen)
            if cuda and not has_cuda(tree / "link"):
                say("there is a GPU, but the libtorch in LIBTORCH has no CUDA support: it will run on the CPU")
        else:
            tree = link_to_installed(home, cuda) or unpacked_wheel(store, cuda)
        point(current, tree / "link")
        remove_replaced(home, tree)
    say(f"{VERSION} {'with' if has_cuda(current) else 'without'} CUDA is ready at {current}")


def up_to_date(current, chosen, cuda):
    if not usable(current):
        return False
    if chosen:
        return core_library(current) == core_library(chosen)
    return has_cuda(current) or not cuda


# What a folder holds


def usable(folder):
    return is_libtorch(folder) and version_of(folder) == VERSION


def is_libtorch(folder):
    return (folder / "include").is_dir() and all((folder / "lib" / name).is_file() for name in CORE)


def has_cuda(folder):
    return any((folder / place / CUDA).is_file() for place in ("cuda", "lib"))


def core_library(folder):
    return (folder / "lib" / CORE[0]).resolve()


def version_of(folder):
    """The version without a `+cpu` or `+cu130` tail, or None if the folder does not say."""
    with contextlib.suppress(OSError):
        return (folder / "build-version").read_text().strip().split("+")[0]
    for header in ("headeronly/version.h", "version.h", "csrc/api/include/torch/version.h"):
        with contextlib.suppress(OSError):
            text = (folder / "include" / "torch" / header).read_text()
            parts = [re.search(rf"#define TORCH_VERSION_{part} (\d+)", text) for part in ("MAJOR", "MINOR", "PATCH")]
            if all(parts):
                return ".".join(part.group(1) for part in parts)
    return None


def gpu_present():
    if Path("/dev/nvidia0").exists():
        return True
    try:
        answer = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return answer.returncode == 0 and "GPU " in answer.stdout


def load(link, hint):
    """Loads the libraries in a new process, as a binary of the project does."""
    names = [link / "lib" / name for name in reversed(CORE)]
    names += [link / "cuda" / CUDA] if has_cuda(link) else []
    program = "import ctypes, sys\nfor name in sys.argv[1:]: ctypes.CDLL(name)"
    environment = {key: value for key, value in os.environ.items() if key not in ("LD_LIBRARY_PATH", "LD_PRELOAD")}
    answer = subprocess.run(
        [sys.executable, "-c", program, *map(str, names)], capture_output=True, text=True, env=environment
    )
    if answer.returncode != 0:
        reason = (answer.stderr.strip().splitlines() or [f"exit status {answer.returncode}"])[-1]
        raise SetupError(f"libtorch at {link} does not load: {reason}", hint)


# Sources 1 and 2: a libtorch that is already on the machine


def chosen_by_user(home):
    """The folder in LIBTORCH. Cargo sets LIBTORCH to our own link for its child processes; that is ignored."""
    value = os.environ.get("LIBTORCH")
    if not value:
        return None
    folder = Path(value).absolute()
    ours = (home.resolve(), (home / "current").resolve())
    return None if any(path in ours for path in (folder.resolve(), *folder.resolve().parents)) else folder


def refuse_unless_right(folder):
    if not is_libtorch(folder):
        raise SetupError(f"LIBTORCH={folder} has no include and lib/{CORE[0]}", OTHER)
    found = version_of(folder)
    if found != VERSION:
        raise SetupError(f"LIBTORCH={folder}: expected libtorch {VERSION}, found {found or 'no version file'}", OTHER)


def link_to_installed(home, cuda):
    for folder, version in installed_torches():
        if version.split("+")[0] != VERSION:
            say(f"the Python torch in {folder.parent} is {version}, not {VERSION}; not used")
        elif not usable(folder):
            say(f"the Python torch in {folder.parent} has no libraries or headers of its own; not used")
        elif cuda and not has_cuda(folder):
            say(f"there is a GPU, but the Python torch in {folder.parent} has no CUDA support; not used")
        else:
            try:
                return link_to(home, folder)
            except SetupError as error:
                say(f"{error}; not used")
    return None


def installed_torches():
    """(folder, version) of every torch on this Python's path and in the active virtual environment, without import."""
    places = list(sys.path)
    if os.environ.get("VIRTUAL_ENV"):
        places = [str(p) for p in Path(os.environ["VIRTUAL_ENV"]).glob("lib/python3*/site-packages")] + places
    seen = {}
    for found in importlib.metadata.distributions(name="torch", path=list(dict.fromkeys(places))):
        folder = Path(str(found.locate_file("torch"))).resolve()
        seen.setdefault(folder, str(found.version))
    return seen.items()


def link_to(home, folder):
    folder = folder.resolve()
    say(f"using {folder}")
    with building(home) as tree:
        (tree / "torch").symlink_to(folder)
        if (folder.parent / "nvidia").is_dir():
            (tree / "nvidia").symlink_to(folder.parent / "nvidia")
        make_link_folder(tree)
        load(tree / "link", OTHER)
        return replace(tree, home / "linked")


# Source 3: the wheel


def unpacked_wheel(store, cuda):
    name = f"torch-{VERSION}-{platform.system()}-{platform.machine()}-".lower()
    for kind in ["cuda"] if cuda else ["cpu", "cuda"]:
        if usable(store / (name + kind) / "link"):
            return store / (name + kind)
    platforms = wheel_platforms()
    need, free = (9 if cuda else 1.3) * GIB, shutil.disk_usage(store).free
    if free < need:
        raise SetupError(
            f"{store} has {free / GIB:.1f} GiB free; libtorch needs {need / GIB:.1f} GiB while it is unpacked",
            f"free some space or set ARES_LIBTORCH_CACHE to a folder on a larger disk, then {AGAIN}",
        )
    with building(store) as tree:
        wheels = tree / "wheels"
        pip = pip_command(tree)
        say(f"downloading torch {VERSION} from the Python package index (some 500 MB on Linux)")
        download(pip, [f"torch=={VERSION}"], wheels, platforms, "--no-deps")
        say("unpacking")
        unpack_torch(wheels, tree, cuda)
        nvidia = nvidia_requirements(tree, cuda)
        if nvidia:
            say("downloading " + ", ".join(nvidia))
            download(pip, nvidia, wheels, platforms)
            for wheel in sorted(wheels.glob("*.whl")):
                unpack(wheel, tree, re.compile(r"nvidia/.*/lib/[^/]*\.so[^/]*|[^/]*\.dist-info/.*licen[cs]e.*", re.I))
                wheel.unlink()
        if not cuda:
            remove_unneeded_nvidia(tree)
        shutil.rmtree(wheels)
        shutil.rmtree(tree / "venv", ignore_errors=True)
        make_link_folder(tree)
        load(tree / "link", AGAIN)
        # The files must reach the disk before the rename below. The libraries are synced one by one.
        os.sync()
        return replace(tree, store / (name + ("cuda" if cuda and has_cuda(tree / "link") else "cpu")))


def wheel_platforms():
    machine = platform.machine()
    if sys.platform == "darwin" and machine == "arm64":
        return ["macosx_11_0_arm64"]
    if sys.platform.startswith("linux") and machine in ("x86_64", "aarch64"):
        library, version = (platform.libc_ver() + ("",))[:2]
        if library == "glibc" and tuple(map(int, version.split(".")[:2])) >= (2, 28):
            # pip compares these names literally, so every older one must be listed as well.
            modern = [f"manylinux_2_{minor}_{machine}" for minor in range(28, 4, -1)]
            return modern + [f"{old}_{machine}" for old in ("manylinux2014", "manylinux2010", "manylinux1")]
        machine += f" with {library or 'a C library that is not glibc'} {version}".rstrip()
    raise SetupError(
        f"the package index has no torch {VERSION} for {platform.system()} {machine}",
        f"set LIBTORCH to a libtorch {VERSION} built for this machine, then run make setup",
    )


def pip_command(tree):
    own = [sys.executable, "-m", "pip"]
    if subprocess.run([*own, "--version"], capture_output=True).returncode == 0:
        return own
    # Debian and Ubuntu ship Python without pip. A virtual environment may still provide it.
    subprocess.run([sys.executable, "-m", "venv", str(tree / "venv")], capture_output=True)
    inner = [str(tree / "venv" / "bin" / "python"), "-m", "pip"]
    with contextlib.suppress(OSError):
        if subprocess.run([*inner, "--version"], capture_output=True).returncode == 0:
            return inner
    raise SetupError(
        f"{sys.executable} has no pip", "install it (Debian, Ubuntu: apt-get install python3-pip), then run make setup"
    )


def download(pip, requirements, into, platforms, *options):
    python, abi = WHEEL_PYTHON
    command = [*pip, "download", *options, "--only-binary=:all:", "--no-cache-dir", "--disable-pip-version-check"]
    command += ["--python-version", python, "--implementation", "cp", "--abi", abi, "--abi", "none"]
    for name in platforms:
        command += ["--platform", name]
    command += [] if sys.stdout.isatty() else ["--quiet"]
    answer = subprocess.run([*command, "--dest", str(into), *requirements], preexec_fn=die_with_parent)
    if answer.returncode != 0:
        raise SetupError(
            f"pip could not download {', '.join(requirements)}; no partial files are left",
            f"check the network and the disk, then {AGAIN}",
        )


def die_with_parent():
    """On Linux, ends pip together with its parent: it must not keep writing where the next run cleans up."""
    if sys.platform.startswith("linux"):
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)


def unpack_torch(wheels, tree, cuda):
    found = sorted(wheels.glob("torch-*.whl"))
    if len(found) != 1:
        raise SetupError(f"pip left {len(found)} torch wheels, expected 1")
    unpack(found[0], tree, re.compile(r"torch/include/.*|[^/]*\.dist-info/(METADATA|LICENSE|NOTICE|licenses/.*)"))
    skipped = NEVER_NEEDED.pattern if cuda else f"{NEVER_NEEDED.pattern}|{ONLY_WITH_CUDA.pattern}"
    unpack(found[0], tree, re.compile(rf"torch/lib/(?!{skipped})[^/]*(\.so|\.dylib)[^/]*"))
    found[0].unlink()
    if not is_libtorch(tree / "torch") or version_of(tree / "torch") != VERSION:
        raise SetupError(f"{found[0].name} contains no libtorch {VERSION}")


def unpack(wheel, into, wanted):
    try:
        with zipfile.ZipFile(wheel) as archive:
            for member in archive.infolist():
                if not member.is_dir() and wanted.fullmatch(member.filename):
                    written = archive.extract(member, into)
                    if SUFFIX in written:
                        with open(written, "rb") as file:
                            os.fsync(file.fileno())
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise SetupError(f"{wheel.name} is damaged ({error}); no partial files are left") from error


def nvidia_requirements(tree, cuda):
    """The packages to download so that libtorch_cpu.so loads or, with a GPU, everything works."""
    metadata = next(tree.glob("torch-*.dist-info/METADATA")).read_text(errors="replace")
    required = [line.split(";")[0].strip() for line in re.findall(r"(?m)^Requires-Dist: (.*)$", metadata)]
    toolkit = next((name for name in required if name.startswith("cuda-toolkit[")), None)
    everything = [name for name in required if name.startswith(("cuda-toolkit", "nvidia-"))]
    missing = missing_cuda_libraries(tree)
    if not cuda and not missing:
        return []
    parts = {TOOLKIT_PART.get(name.split(".so")[0]) for name in missing}
    if cuda or toolkit is None or None in parts:
        return everything
    return [re.sub(r"\[.*\]", f"[{','.join(sorted(parts))}]", toolkit)]


def missing_cuda_libraries(tree):
    return {name for name in walk_needed(tree)[1] if re.match(r"lib(cu|nv|nccl)", name)}


def remove_unneeded_nvidia(tree):
    kept, _ = walk_needed(tree)
    for path in tree.glob("nvidia/**/*.so*"):
        if path not in kept:
            path.unlink()


def walk_needed(tree):
    """Follows DT_NEEDED from libtorch_cpu.so: (files in the tree, names of missing ones)."""
    if sys.platform == "darwin":
        return set(), set()
    here = {path.name: path for pattern in ("torch/lib/*.so*", "nvidia/**/*.so*") for path in tree.glob(pattern)}
    todo, kept, missing = list(CORE), set(), set()
    while todo:
        path = here.get(name := todo.pop())
        if path is None:
            missing.add(name)
        elif path not in kept:
            kept.add(path)
            todo += elf_needed(path)
    return kept, missing


def elf_needed(path):
    """The DT_NEEDED names of a 64-bit little-endian ELF file."""
    pt_load, pt_dynamic, dt_needed, dt_strtab = 1, 2, 1, 5
    with open(path, "rb") as file:

        def read(offset, size):
            file.seek(offset)
            return file.read(size)

        header = read(0, 64)
        if header[:6] != b"\x7fELF\x02\x01":
            raise SetupError(f"{path.name} is not a 64-bit library")
        table, entry_size, count = struct.unpack_from("<Q", header, 32) + struct.unpack_from("<HH", header, 54)
        segments = [struct.unpack("<IIQQQQ", read(table + i * entry_size, 40)) for i in range(count)]
        entries = []
        for kind, _, offset, _, _, size in segments:
            if kind == pt_dynamic:
                entries = list(struct.iter_unpack("<qQ", read(offset, size)))
        address = dict(entries).get(dt_strtab, 0)
        strings = next(
            (o + address - v for kind, _, o, v, _, size in segments if kind == pt_load and v <= address < v + size), 0
        )
        return [read(strings + at, 256).split(b"\0")[0].decode() for tag, at in entries if tag == dt_needed]


# Trees


def make_link_folder(tree):
    lib = tree / "link" / "lib"
    lib.mkdir(parents=True)
    (tree / "link" / "include").symlink_to("../torch/include")
    (tree / "link" / "build-version").write_text(VERSION + "\n")
    for library in sorted((tree / "torch" / "lib").iterdir()):
        if SUFFIX in library.name and library.name not in KEPT_OUT_OF_LINK:
            (lib / library.name).symlink_to(f"../../torch/lib/{library.name}")
    if SUFFIX == ".so":
        # The real libtorch.so of a CUDA build needs libtorch_cuda.so, and contains no code of its own.
        (lib / "libtorch.so").symlink_to(CORE[0])
        # torch-sys links gomp; it must load the copy included in libtorch.
        if (lib / "libgomp.so.1").exists() and not (lib / "libgomp.so").exists():
            (lib / "libgomp.so").symlink_to("libgomp.so.1")
        if has_cuda(tree / "torch"):
            (tree / "link" / "cuda").symlink_to("../torch/lib")


@contextlib.contextmanager
def building(store):
    """A new folder next to the final ones; removed unless it is moved into place."""
    tree = Path(tempfile.mkdtemp(prefix="tmp-", dir=store))
    tree.chmod(0o755)
    try:
        yield tree
    finally:
        shutil.rmtree(tree, ignore_errors=True)


def replace(tree, final):
    if final.exists():
        final.rename(Path(tempfile.mkdtemp(prefix="tmp-", dir=final.parent)) / "old")
    tree.rename(final)
    sync_folder(final.parent)
    for old in final.parent.glob("tmp-*"):
        shutil.rmtree(old, ignore_errors=True)
    return final


def point(current, link):
    """Replaces the link atomically: a build running at the same time sees the old libtorch or the new one."""
    target = os.path.relpath(link, current.parent) if link.parent.parent == current.parent else link
    fresh = current.with_name("tmp-current")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    fresh.replace(current)
    sync_folder(current.parent)


def sync_folder(folder):
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_replaced(home, tree):
    """Removes unpacked wheels that are no longer used, each half a gigabyte."""
    if tree.parent == home and tree.name.startswith("torch-"):
        for other in home.glob("torch-*"):
            if other != tree:
                shutil.rmtree(other, ignore_errors=True)


@contextlib.contextmanager
def locked(folder):
    with open(folder / "lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another set-up is running; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    sys.exit(main())
