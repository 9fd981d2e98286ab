"""Tests of scripts/setup_libtorch.py against tiny stand-ins for libtorch, for the wheels and for pip.

The stand-ins are real shared libraries of a few functions each, so that loading them is a real check. No test uses the
network: pip only sees a folder of wheels.
"""

import contextlib
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest
import zipfile
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "setup_libtorch.py"
COMPILER = next(filter(None, map(shutil.which, ["c++", "g++", "clang++"])), None)
MACHINE = platform.machine()

METADATA = """Metadata-Version: 2.1
Name: torch
Version: 2.11.0
Requires-Dist: filelock
Requires-Dist: cuda-toolkit[cublas,cudart,cupti]==13.0.2; platform_system == "Linux"
Requires-Dist: nvidia-cudnn-cu13==9.19.0.56; platform_system == "Linux"
Requires-Dist: pyyaml; extra == "pyyaml"
"""

TOOLKIT = """Metadata-Version: 2.1
Name: cuda-toolkit
Version: 13.0.2
Provides-Extra: cublas
Provides-Extra: cudart
Provides-Extra: cupti
Requires-Dist: nvidia-cublas==13.1; extra == "cublas"
Requires-Dist: nvidia-cuda-runtime==13.0; extra == "cudart"
Requires-Dist: nvidia-cuda-cupti==13.0; extra == "cupti"
"""


def make_library(path, needs=()):
    """A shared library that links the libraries at `needs` and finds CUDA's in the same place as the real one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    folders = [f"-Wl,-rpath-link,{library.parent}" for library in needs]
    rpath = r"-Wl,-rpath,$ORIGIN/../../nvidia/cu13/lib:$ORIGIN"
    command = [COMPILER, "-shared", "-fPIC", "-o", str(path), "-x", "c++", "-", "-x", "none", "-Wl,--no-as-needed"]
    command += [*map(str, needs), *folders, f"-Wl,-soname,{path.name}", rpath, "-Wl,--disable-new-dtags"]
    code = f'extern "C" int {path.name.split(".")[0]}() {{ return 1; }}'
    subprocess.run(command, input=code, text=True, check=True)


def make_torch(folder, version="2.11.0", cuda=True):
    """A torch folder as the wheel unpacks it, with `nvidia` beside it."""
    nvidia = folder.parent / "nvidia" / "cu13" / "lib"
    lib = folder / "lib"
    make_library(nvidia / "libcudart.so.13")
    make_library(nvidia / "libcupti.so.13")
    make_library(nvidia / "libcublas.so.13")
    make_library(nvidia / "libnvperf_host.so")
    make_library(lib / "libc10.so")
    make_library(lib / "libgomp.so.1")
    cpu_needs = [lib / "libc10.so", lib / "libgomp.so.1", nvidia / "libcudart.so.13", nvidia / "libcupti.so.13"]
    make_library(lib / "libtorch_cpu.so", cpu_needs)
    make_library(lib / "libtorch_python.so", [lib / "libtorch_cpu.so"])
    if cuda:
        make_library(lib / "libtorch_cuda.so", [lib / "libtorch_cpu.so", nvidia / "libcublas.so.13"])
        make_library(lib / "libtorch_cuda_linalg.so", [lib / "libtorch_cuda.so"])
        make_library(lib / "libtorch.so", [lib / "libtorch_cpu.so", lib / "libtorch_cuda.so"])
    header = folder / "include" / "torch" / "headeronly" / "version.h"
    header.parent.mkdir(parents=True)
    parts = zip(("MAJOR", "MINOR", "PATCH"), version.split("."))
    header.write_text("".join(f"#define TORCH_VERSION_{name} {number}\n" for name, number in parts))
    (folder / "version.py").write_text(f"__version__ = '{version}'\n")
    return folder


def make_wheel(into, name, version, metadata, files, tag=None):
    """A wheel that pip accepts, holding (path inside, file on disk) pairs."""
    tag = tag or f"py3-none-manylinux_2_17_{MACHINE}"
    into.mkdir(parents=True, exist_ok=True)
    wheel = into / f"{name.replace('-', '_')}-{version}-{tag}.whl"
    info = f"{name.replace('-', '_')}-{version}.dist-info"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for inside, file in files:
            archive.write(file, inside)
        archive.writestr(f"{info}/METADATA", metadata)
        archive.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: false\nTag: {tag}\n")
        archive.writestr(f"{info}/RECORD", "")
    return wheel


def make_index(wheels, built):
    """All wheels of a fake package index, from the torch folder `built` and the `nvidia` beside it."""

    def below(folder):
        return [(str(f.relative_to(built.parent)), f) for f in sorted(folder.rglob("*")) if f.is_file()]

    make_wheel(wheels, "torch", "2.11.0", METADATA, below(built), f"cp312-cp312-manylinux_2_28_{MACHINE}")
    make_wheel(wheels, "cuda-toolkit", "13.0.2", TOOLKIT, [], "py2.py3-none-any")
    lib = built.parent / "nvidia" / "cu13" / "lib"
    for name, version, libraries in [
        ("nvidia-cuda-runtime", "13.0", ["libcudart.so.13"]),
        ("nvidia-cuda-cupti", "13.0", ["libcupti.so.13", "libnvperf_host.so"]),
        ("nvidia-cublas", "13.1", ["libcublas.so.13"]),
        ("nvidia-cudnn-cu13", "9.19.0.56", []),
    ]:
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        make_wheel(wheels, name, version, metadata, [(f"nvidia/cu13/lib/{lib_}", lib / lib_) for lib_ in libraries])


@unittest.skipUnless(sys.platform.startswith("linux"), "the stand-ins are ELF libraries")
@unittest.skipUnless(COMPILER, "needs a C++ compiler")
class SetupLibtorch(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.shared = Path(tempfile.mkdtemp(prefix="setup-libtorch-"))
        cls.addClassCleanup(shutil.rmtree, cls.shared, ignore_errors=True)
        cls.torch = make_torch(cls.shared / "site" / "torch")
        make_index(cls.shared / "wheels", cls.torch)

    def setUp(self):
        self.tmp = Path(tempfile.mkdtemp(dir=self.shared)).resolve()
        self.root = self.tmp / "project"
        self.root.mkdir()
        self.home = self.root / ".libtorch"
        self.current = self.home / "current"

    def environment(self, **extra):
        # The machine's settings for pip, Python and libtorch must not affect the script.
        dropped = ("PIP_", "PYTHON", "LIBTORCH", "ARES_", "VIRTUAL_ENV", "LD_LIBRARY_PATH")
        clean = {key: value for key, value in os.environ.items() if not key.startswith(dropped)}
        clean.update(PIP_NO_INDEX="1", PIP_FIND_LINKS=str(self.shared / "wheels"), PIP_CONFIG_FILE=os.devnull)
        clean.update(PYTHONDONTWRITEBYTECODE="1")
        clean.update({key: str(value) for key, value in extra.items()})
        return clean

    def command(self, *args):
        # -S hides a torch that is installed on this machine; the pip that the script starts is not affected.
        return [sys.executable, "-S", str(SCRIPT), "--root", str(self.root), *args]

    def run_script(self, *args, **extra):
        args = args if "--cuda" in args or "--check" in args else ("--cuda", "no", *args)
        return subprocess.run(
            self.command(*args), env=self.environment(**extra), capture_output=True, text=True, timeout=120
        )

    def succeeds(self, *args, **extra):
        answer = self.run_script(*args, **extra)
        self.assertEqual(answer.returncode, 0, answer.stdout + answer.stderr)
        return answer.stdout

    def fails(self, *args, **extra):
        answer = self.run_script(*args, **extra)
        self.assertEqual(answer.returncode, 1, answer.stdout + answer.stderr)
        self.assertRegex(answer.stderr, r"(?m)^libtorch: error: .+\nlibtorch: next: .+$")
        self.assertNotIn("Traceback", answer.stderr)
        return answer.stderr

    def libraries(self):
        return {path.name for path in (self.current / "lib").iterdir()}

    def assert_nothing_half_made(self):
        left = {path.name for path in self.home.iterdir()} if self.home.exists() else set()
        self.assertLessEqual(left, {"lock"})

    def site(self, version, torch=None):
        """A site-packages folder that claims to contain torch `version`."""
        site = self.tmp / "installed"
        info = site / f"torch-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n")
        if torch:
            (site / "torch").symlink_to(torch)
        return site

    # LIBTORCH

    def test_libtorch_variable_is_taken(self):
        self.succeeds(LIBTORCH=self.torch)
        self.assertEqual((self.current / "lib" / "libtorch_cpu.so").resolve(), self.torch / "lib" / "libtorch_cpu.so")
        self.assertEqual((self.current / "build-version").read_text(), "2.11.0\n")
        self.assertTrue((self.current / "include" / "torch").is_dir())
        self.assertIn("loads from", self.succeeds("--check"))

    def test_torch_sys_does_not_see_cuda_and_the_binary_can_open_it(self):
        self.succeeds(LIBTORCH=self.torch)
        self.assertNotIn("libtorch_cuda.so", self.libraries())
        self.assertNotIn("libtorch_python.so", self.libraries())
        self.assertIn("libtorch_cuda_linalg.so", self.libraries())
        self.assertEqual(os.readlink(self.current / "lib" / "libtorch.so"), "libtorch_cpu.so")
        self.assertTrue((self.current / "cuda" / "libtorch_cuda.so").is_file())
        self.assertIn("with CUDA", self.succeeds("--check"))

    def test_libtorch_variable_of_another_version_is_refused_with_both_versions(self):
        other = make_torch(self.tmp / "other" / "torch", "2.5.1")
        message = self.fails(LIBTORCH=other)
        self.assertIn("expected libtorch 2.11.0, found 2.5.1", message)
        self.assertIn(str(other), message)
        self.assert_nothing_half_made()

    def test_build_version_file_is_read_and_its_tail_ignored(self):
        zip_layout = make_torch(self.tmp / "zip" / "libtorch", "0.0.0")
        (zip_layout / "build-version").write_text("2.11.0+cpu\n")
        self.succeeds(LIBTORCH=zip_layout)
        (zip_layout / "build-version").write_text("2.10.0+cpu\n")
        self.assertIn("found 2.10.0", self.fails(LIBTORCH=zip_layout))

    def test_libtorch_variable_without_version_or_libraries_is_refused(self):
        bare = make_torch(self.tmp / "bare" / "torch")
        shutil.rmtree(bare / "include" / "torch")
        self.assertIn("no version file", self.fails(LIBTORCH=bare))
        self.assertIn("has no include and lib/libtorch_cpu.so", self.fails(LIBTORCH=self.tmp / "nowhere"))

    def test_libtorch_that_does_not_load_is_refused(self):
        broken = make_torch(self.tmp / "broken" / "torch")
        (broken.parent / "nvidia" / "cu13" / "lib" / "libcupti.so.13").unlink()
        message = self.fails(LIBTORCH=broken)
        self.assertIn("does not load", message)
        self.assertIn("libcupti.so.13", message)
        self.assert_nothing_half_made()

    def test_another_libtorch_variable_moves_the_link(self):
        self.succeeds(LIBTORCH=self.torch)
        second = make_torch(self.tmp / "second" / "torch")
        self.succeeds(LIBTORCH=second)
        self.assertEqual((self.current / "lib" / "libc10.so").resolve(), second / "lib" / "libc10.so")

    def test_our_own_link_in_the_variable_is_no_choice(self):
        self.succeeds(LIBTORCH=self.torch)
        self.assertIn("nothing to do", self.succeeds(LIBTORCH=self.current))

    # An installed Python torch

    def test_installed_torch_is_taken(self):
        site = self.site("2.11.0+cu130", self.torch)
        self.assertIn(f"using {self.torch}", self.succeeds(PYTHONPATH=site))
        self.assertIn("loads from", self.succeeds("--check"))

    def test_torch_of_the_active_virtual_environment_is_taken(self):
        venv = self.tmp / "venv"
        (venv / "lib" / "python3.12").mkdir(parents=True)
        (venv / "lib" / "python3.12" / "site-packages").symlink_to(self.site("2.11.0", self.torch))
        self.assertIn(f"using {self.torch}", self.succeeds(VIRTUAL_ENV=venv))

    def test_installed_torch_of_another_version_gives_way_to_the_wheel(self):
        out = self.succeeds(PYTHONPATH=self.site("2.5.1+cpu", self.torch))
        self.assertIn("is 2.5.1+cpu, not 2.11.0", out)
        self.assertIn("downloading torch 2.11.0", out)

    def test_installed_torch_without_libraries_or_cuda_gives_way(self):
        out = self.succeeds(PYTHONPATH=self.site("2.11.0"))
        self.assertIn("no libraries or headers", out)
        shutil.rmtree(self.home)
        shutil.rmtree(self.tmp / "installed")
        plain = make_torch(self.tmp / "plain" / "torch", cuda=False)
        out = self.succeeds("--cuda", "yes", PYTHONPATH=self.site("2.11.0+cpu", plain))
        self.assertIn("has no CUDA support; not used", out)
        self.assertIn("with CUDA is ready", out)

    def test_removed_python_torch_is_noticed(self):
        torch = shutil.copytree(self.torch.parent, self.tmp / "gone") / "torch"
        self.succeeds(PYTHONPATH=self.site("2.11.0", torch))
        shutil.rmtree(torch.parent)
        self.assertIn("has no libtorch 2.11.0", self.fails("--check"))
        self.assertIn("downloading", self.succeeds())

    # The wheel

    def test_wheel_without_gpu_unpacks_only_what_loads(self):
        self.assertIn("cuda-toolkit[cudart,cupti]==13.0.2", self.succeeds())
        tree = self.current.resolve().parent
        self.assertEqual(tree.parent, self.home.resolve())
        self.assertEqual({path.name for path in (tree / "torch").iterdir()}, {"lib", "include"})
        self.assertEqual({path.name for path in tree.glob("nvidia/**/*.so*")}, {"libcudart.so.13", "libcupti.so.13"})
        self.assertEqual(
            self.libraries(), {"libtorch.so", "libtorch_cpu.so", "libc10.so", "libgomp.so", "libgomp.so.1"}
        )
        self.assertFalse((self.current / "cuda").exists())
        self.assertEqual({path.name for path in self.home.iterdir()}, {"lock", "current", tree.name})
        self.assertIn("without CUDA loads from", self.succeeds("--check"))

    def test_wheel_with_gpu_unpacks_cuda_and_replaces_the_smaller_tree(self):
        self.succeeds()
        smaller = self.current.resolve().parent
        self.assertIn("nvidia-cudnn-cu13==9.19.0.56", self.succeeds("--cuda", "yes"))
        tree = self.current.resolve().parent
        self.assertTrue((self.current / "cuda" / "libtorch_cuda.so").is_file())
        self.assertTrue((tree / "nvidia/cu13/lib/libcublas.so.13").is_file())
        self.assertFalse(smaller.exists())
        self.assertIn("with CUDA loads from", self.succeeds("--check"))
        self.assertIn("nothing to do", self.succeeds("--cuda", "yes"))
        self.assertIn("nothing to do", self.succeeds())

    def test_running_again_does_nothing_and_needs_no_pip(self):
        self.succeeds()
        before = {path: path.lstat().st_mtime_ns for path in self.home.rglob("*")}
        self.assertIn("nothing to do", self.succeeds(PIP_FIND_LINKS=self.tmp))
        self.assertEqual(before, {path: path.lstat().st_mtime_ns for path in self.home.rglob("*")})

    def test_cache_serves_two_projects_with_one_download(self):
        cache = self.tmp / "cache"
        self.succeeds(ARES_LIBTORCH_CACHE=cache)
        self.assertEqual(self.current.resolve().parents[1], cache)
        self.root = self.tmp / "second"
        self.root.mkdir()
        out = self.succeeds(ARES_LIBTORCH_CACHE=cache, PIP_FIND_LINKS=self.tmp)
        self.assertNotIn("downloading", out)
        self.assertEqual((self.root / ".libtorch" / "current").resolve().parents[1], cache)

    def test_truncated_wheel_leaves_nothing(self):
        wheels = shutil.copytree(self.shared / "wheels", self.tmp / "cut")
        wheel = next(wheels.glob("torch-*"))
        os.truncate(wheel, wheel.stat().st_size * 2 // 3)
        self.fails(PIP_FIND_LINKS=wheels)
        self.assert_nothing_half_made()
        self.succeeds()

    def test_wheel_with_a_damaged_library_leaves_nothing(self):
        wheels = self.tmp / "bad"
        make_index(wheels, self.torch)
        wheel = next(wheels.glob("torch-*"))
        with zipfile.ZipFile(wheel) as archive:
            member = archive.getinfo("torch/lib/libtorch_cpu.so")
            middle = member.header_offset + 30 + len(member.filename) + member.compress_size // 2
        with open(wheel, "r+b") as file:
            file.seek(middle)
            file.write(b"\xff" * 64)
        self.assertIn("is damaged", self.fails(PIP_FIND_LINKS=wheels))
        self.assert_nothing_half_made()

    def test_missing_wheel_says_what_to_do(self):
        empty = self.tmp / "empty"
        empty.mkdir()
        message = self.fails(PIP_FIND_LINKS=empty)
        self.assertIn("pip could not download torch==2.11.0", message)
        self.assertIn("next: check the network", message)
        self.assert_nothing_half_made()

    def test_failure_keeps_the_libtorch_that_was_there(self):
        self.succeeds()
        before = os.readlink(self.current)
        empty = self.tmp / "empty"
        empty.mkdir()
        self.fails("--cuda", "yes", PIP_FIND_LINKS=empty)
        self.assertEqual(os.readlink(self.current), before)
        self.assertIn("loads from", self.succeeds("--check"))

    # Interruptions and neighbours

    def slow_pip(self):
        """A folder with a `pip` that writes part of a wheel, reports it in a file, and then hangs."""
        package = self.tmp / "slow" / "pip"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        (package / "__main__.py").write_text(
            "import os, sys, time, pathlib\n"
            "if '--version' in sys.argv: sys.exit(0)\n"
            "into = pathlib.Path(sys.argv[sys.argv.index('--dest') + 1])\n"
            "into.mkdir()\n"
            "(into / 'torch-2.11.0-part.whl').write_bytes(b'x' * 1000)\n"
            f"pathlib.Path({str(self.tmp / 'started')!r}).write_text(str(os.getpid()))\n"
            "time.sleep(120)\n"
        )
        return package.parent

    @contextlib.contextmanager
    def hanging_run(self):
        environment = self.environment(PYTHONPATH=self.slow_pip())
        command = self.command("--cuda", "no")
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            # A background job ignores Ctrl-C, and its child processes would inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        try:
            started = self.tmp / "started"
            self.wait_until(lambda: started.exists() and started.read_text())
            yield process, int(started.read_text())
        finally:
            process.kill()
            process.wait()
            process.stdout.close()

    def wait_until(self, condition):
        deadline = time.monotonic() + 30
        while not condition():
            self.assertLess(time.monotonic(), deadline, "waited 30 s in vain")
            time.sleep(0.02)

    def gone(self, process_id):
        try:
            return Path(f"/proc/{process_id}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
        except OSError:
            return True

    def test_killed_run_leaves_no_current_and_the_next_run_cleans_up(self):
        with self.hanging_run() as (process, pip_id):
            process.send_signal(signal.SIGKILL)
            process.wait()
            self.wait_until(lambda: self.gone(pip_id))
        self.assertFalse(os.path.lexists(self.current))
        self.assertEqual(len(list(self.home.glob("tmp-*"))), 1)
        self.assertIn("is ready", self.succeeds())
        self.assertEqual(list(self.home.glob("tmp-*")), [])

    def test_terminated_run_cleans_up_itself(self):
        for kind in (signal.SIGTERM, signal.SIGINT):
            with self.subTest(kind=kind), self.hanging_run() as (process, pip_id):
                process.send_signal(kind)
                self.assertNotEqual(process.wait(timeout=30), 0)
                self.wait_until(lambda: self.gone(pip_id))
                self.assert_nothing_half_made()
            shutil.rmtree(self.tmp / "slow")
            (self.tmp / "started").unlink()

    def test_second_run_waits_for_the_first(self):
        with self.hanging_run() as (first, _):
            second = subprocess.Popen(
                self.command("--cuda", "no"), env=self.environment(), stdout=subprocess.PIPE, text=True
            )
            self.assertIn("waiting", second.stdout.readline())
            self.assertIsNone(second.poll())
            first.kill()
            out, _ = second.communicate(timeout=60)
        self.assertEqual(second.returncode, 0, out)
        self.assertIn("is ready", out)

    def test_check_before_setup_names_make_setup(self):
        self.assertIn("next: make setup", self.fails("--check"))
        self.assertFalse(self.home.exists())


if __name__ == "__main__":
    unittest.main()
