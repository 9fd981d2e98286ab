"""Checks a GPU against the CPU, stage by stage, and measures it (see device_check.sh).

Every stage of a round on the sample set runs on the CPU. On the GPU it runs again from what the CPU's stage had started
from, so that differences do not add up. Then: a stage killed and resumed, a stage that lacks memory, `train bench` at shapes
base and large, and transformers' T5 on the same GPU. Exit status 1 if a check failed; what was not run is in the table too.
"""

import argparse
import array
import json
import lzma
import math
import os
import pathlib
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Widest, feed-forward width, heads × head width, layers of each half, vocabulary: Flan-Alpaca base and large.
SHAPES = {"base": (768, 2048, 768, 12, 32_128), "large": (1024, 2816, 1024, 24, 32_128)}
SETTINGS = """[student]
checkpoints = "{work}/checkpoints"
max_source_tokens = 192
use_caption = false
decode_batch = 256
save_every_secs = 1
[rollout]
samples = 1
max_new_tokens = 48
seed = 1
[rl]
minibatch = 32
accumulation = 1
learning_rate = 1e-4
[sft]
epochs = 2
batch = 32
learning_rate = 1e-3
[answer]
epochs = 1
max_new_tokens = 12
"""


class Failed(Exception):
    """A command that ended with an error."""


class Check:
    def __init__(self, options):
        self.device = options.device
        self.end = time.monotonic() + options.seconds
        self.rows = []
        self.failed = False
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="ares-device-check-"))
        self.bin = unpacked(pathlib.Path(os.environ.get("ARES_BIN", ROOT / "target/release")), self.folder)
        self.env = dict(os.environ)
        library = torch_library()
        if library:
            self.env["LD_LIBRARY_PATH"] = f"{library}:{os.environ.get('LD_LIBRARY_PATH', '')}"
        self.peer_python = options.peer_python or sys.executable

    def left(self):
        return self.end - time.monotonic()

    def row(self, what, result, verdict=""):
        self.rows.append((what, result, verdict))
        print(f"{what}: {result} {verdict}", file=sys.stderr, flush=True)

    def judge(self, what, result, is_good):
        self.failed |= not is_good
        self.row(what, result, "passed" if is_good else "**failed**")

    def call(self, command, timeout=None):
        """Output and errors of a command, which has to succeed."""
        timeout = min(timeout or self.left(), self.left())
        if timeout <= 0:
            raise TimeoutError
        done = subprocess.run(
            [str(part) for part in command], env=self.env, capture_output=True, text=True, timeout=timeout, check=False
        )
        if done.returncode != 0:
            raise Failed(f"exit {done.returncode}: {done.stderr.strip()[-400:]}")
        return done.stdout, done.stderr

    def train(self, work, *arguments, device):
        common = ["--data", work, "--config", work / "ares.toml", "--device", device]
        if device != "cpu":
            common += ["--dtype", "float32", "--tf32", "false"]
        return self.call([self.bin / "train", *arguments, *common])

    def collect(self, work, *arguments):
        return self.call([self.bin / "collect-feedback", *arguments, "--data", work, "--config", work / "ares.toml"])


def unpacked(folder, to):
    """The folder of the commands; those that are there as .xz files are unpacked."""
    if not any((folder / f"{name}.xz").is_file() for name in ("train", "collect-feedback")):
        return folder
    for name in ("train", "collect-feedback"):
        packed = folder / f"{name}.xz"
        (to / name).write_bytes(lzma.open(packed).read() if packed.is_file() else (folder / name).read_bytes())
        (to / name).chmod(0o755)
    return to


def torch_library():
    """Folder of the libtorch of this Python's torch."""
    try:
        import torch
    except ImportError:
        return None
    return pathlib.Path(torch.__file__).parent / "lib"


def tensors(path):
    """Values of a safetensors file's tensors, by name."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    found = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        part = data[8 + length + begin : 8 + length + end]
        if entry["dtype"] == "F32":
            found[name] = array.array("f", part)
        elif entry["dtype"] == "F16":
            found[name] = struct.unpack(f"<{len(part) // 2}e", part)
        else:
            raise Failed(f"{path}: expected float32 or float16, found {entry['dtype']} in {name}")
    return found


def deviation(cpu, device, start=None):
    """Distance of two files of tensors; relative to what the CPU moved from `start`, or to the CPU's own norm."""
    cpu, device, start = tensors(cpu), tensors(device), tensors(start) if start else {}
    if cpu.keys() != device.keys():
        raise Failed("expected the same tensors")
    apart = moved = 0.0
    for name, values in cpu.items():
        before = start.get(name, [0.0] * len(values))
        for a, b, c in zip(values, device[name], before):
            apart += (a - b) ** 2
            moved += (a - c) ** 2
    if not math.isfinite(apart) or moved == 0.0:
        raise Failed("expected finite values that moved")
    return math.sqrt(apart / moved)


def weights(work, name):
    return work / "checkpoints" / name / "model.safetensors"


def lines(work, check, name):
    """Sentences and scores of each sample of round 1."""
    out = work / f"export-{name}"
    check.collect(work, "export", "--round", "1", "--as", "prm", "--to", out, "--replace")
    rows = [json.loads(line) for line in (out / "train.jsonl").read_text().splitlines()]
    return {row["ares"]["rows"][0]: (row["completions"], row["scores"]) for row in rows}


def stages(check):
    """Runs a round on the CPU, and each stage on the device."""
    cpu = check.folder / "cpu"
    cpu.mkdir()
    for name in ("dataset.toml", "problems.parquet"):
        shutil.copy(ROOT / "datasets/sample" / name, cpu / name)
    shutil.copytree(ROOT / "datasets/sample/images", cpu / "images")
    settle(cpu)

    def both(what, arguments, compare, after=None):
        """`after` runs in both folders before they are compared."""
        work = check.folder / "device"
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(cpu, work)
        settle(work)
        began = time.monotonic()
        check.train(cpu, *arguments(cpu), device="cpu")
        cpu_s, began = time.monotonic() - began, time.monotonic()
        check.train(work, *arguments(work), device=check.device)
        device_s = time.monotonic() - began
        for folder in (cpu, work):
            if after:
                after(folder)
        result, is_good = compare(cpu, work)
        check.judge(f"{what}, CPU against device", f"{result}; {cpu_s:.1f} s and {device_s:.1f} s", is_good)

    def near(file, start=None, bound=0.1):
        def compare(cpu, work):
            apart = deviation(file(cpu), file(work), start(cpu) if start else None)
            of = "of the training's movement" if start else "of the values"
            return f"apart by {apart:.1e} {of}", apart <= bound
        return compare

    both("image features", lambda _: ["features"], near(lambda w: w / "vision/vit.safetensors", bound=1e-3))
    check.train(
        cpu, "init", "--tokenizer", ROOT / "datasets/sample/tokenizer", "--shape", "tiny", "--image-feature-width", "128",
        "--dropout", "0", "--out", cpu / "checkpoints/init", device="cpu",
    )
    both(
        "pretraining",
        lambda w: ["pretrain", "--from", w / "checkpoints/init", "--out", w / "checkpoints/base", "--epochs", "4", "--share", "0.35",
                   "--sft-learning-rate", "2e-3"],
        near(lambda w: weights(w, "base"), lambda w: weights(w, "init")),
    )

    def same_samples(cpu, work):
        cpu, work = lines(cpu, check, "rollout"), lines(work, check, "rollout")
        same = sum(cpu[name] == work.get(name) for name in cpu) / max(len(cpu), 1)
        return f"{same:.1%} of {len(cpu)} rationales are the same", same >= 0.9

    score = lambda work: check.collect(work, "--round", "1")
    both("rollouts", lambda _: ["--round", "1", "--stage", "rollout"], same_samples, score)
    both("RL", lambda _: ["--round", "1", "--stage", "rl"],
         near(lambda w: weights(w, "round-1/rl"), lambda w: weights(w, "base")))
    check.collect(cpu, "--round", "1")
    before_sft = check.folder / "before-sft"
    shutil.copytree(cpu, before_sft)
    both("fine-tuning", lambda _: ["--round", "1", "--stage", "sft"],
         near(lambda w: weights(w, "round-1/sft"), lambda w: weights(w, "round-1/rl")))
    undisturbed = weights(check.folder / "device", "round-1/sft")
    kept = check.folder / "undisturbed.safetensors"
    shutil.copy(undisturbed, kept)

    def adapter(work):
        return next((work / "checkpoints/round-1").rglob("adapter_model.safetensors"))

    both("answer model", lambda _: ["--round", "1", "--stage", "answer"], near(adapter, bound=0.2))
    return before_sft, kept


def settle(work):
    """Settings of a copied folder, whose paths have to be its own."""
    (work / "ares.toml").write_text(SETTINGS.format(work=work))


def killed(check, before_sft, undisturbed):
    """Kills fine-tuning half-way on the device, and resumes it."""
    work = check.folder / "killed"
    shutil.copytree(before_sft, work)
    settle(work)
    command = [check.bin / "train", "--round", "1", "--stage", "sft", "--data", work, "--config", work / "ares.toml",
               "--device", check.device, "--save-every-secs", "0"]
    if check.device != "cpu":
        command += ["--dtype", "float32", "--tf32", "false"]
    process = subprocess.Popen(
        [str(part) for part in command], env=check.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    before = {path for path in work.rglob("*") if path.is_file()}
    while process.poll() is None and check.left() > 0:
        if any(path.name.endswith(".safetensors") for path in set(work.rglob("*")) - before):
            break
        time.sleep(0.05)
    is_running = process.poll() is None
    if is_running:
        process.send_signal(signal.SIGKILL)
    process.wait()
    check.call([*command])
    apart = deviation(undisturbed, weights(work, "round-1/sft"), weights(work, "round-1/rl"))
    said = "the same bits" if apart == 0.0 else f"apart by {apart:.1e} of the training's movement"
    check.judge("killed and resumed", said if is_running else "the stage ended before it was killed", is_running and apart <= 0.02)


HOLD = """
import sys, time, torch
free, _ = torch.cuda.mem_get_info()
held = torch.empty(max(0, free - int(sys.argv[1]) * 2**20), dtype=torch.uint8, device="cuda")
print("held", flush=True)
time.sleep(600)
"""


def lacks_memory(check, before_sft):
    """Fine-tunes with larger and larger batches while another process holds nearly all of the device's memory."""
    if check.device == "cpu":
        return check.row("lack of memory", "not run: no GPU")
    for left_mb in (1200, 900, 700, 600):
        holder = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(left_mb)], env=check.env, stdout=subprocess.PIPE, text=True
        )
        try:
            if holder.stdout.readline().strip() != "held":
                return check.row("lack of memory", "not run: the memory could not be held")
            work = check.folder / f"memory-{left_mb}"
            shutil.copytree(before_sft, work)
            settle(work)
            try:
                _, said = check.train(
                    work, "--round", "1", "--stage", "sft", "--sft-batch", "512", "--decode-batch", "1024",
                    device=check.device,
                )
            except Failed as error:
                if "out of memory" in str(error) or "CUDA" in str(error):
                    return check.row("lack of memory", f"with {left_mb} MB not even the device could be opened")
                raise
            if "out of memory" in said:
                note = next(line for line in said.splitlines() if "out of memory" in line)
                return check.judge("lack of memory", f"with {left_mb} MB left: {note.strip()}; the stage completed", True)
        finally:
            holder.kill()
            holder.wait()
    check.row("lack of memory", "not provoked")


class Memory:
    """The most memory that a process tree holds on the GPU, by nvidia-smi, in MB."""

    def __enter__(self):
        self.most, self.stopped = 0, threading.Event()
        self.thread = threading.Thread(target=self.watch, daemon=True)
        self.thread.start()
        return self

    def watch(self):
        query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
        while not self.stopped.wait(0.2):
            try:
                said = subprocess.run(query, capture_output=True, text=True, check=False).stdout
                self.most = max(self.most, int(said.splitlines()[0]))
            except (OSError, ValueError, IndexError):
                return

    def __exit__(self, *_):
        self.stopped.set()
        self.thread.join()


def parameters(shape):
    """Weights that multiply each token: of an encoder layer's stack, a decoder's, and the head."""
    width, hidden, heads, layers, vocabulary = SHAPES[shape]
    feed_forward, attention = 3 * width * hidden, 4 * width * heads
    return layers * (attention + feed_forward), layers * (2 * attention + feed_forward), width * vocabulary


def flops(row):
    """Floating-point operations of a step's matrix products: 6 for each weight and token, of attention none."""
    encoder, decoder, head = parameters(row["shape"])
    passes = 6 if row["work"] == "sft" else 6 * 2 if "separate" in row["variant"] else 6
    return passes * row["batch"] * (row["source"] * encoder + row["target"] * (decoder + head))


PEAK = """
import time, torch
a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
for _ in range(3): a @ a
torch.cuda.synchronize(); began = time.perf_counter()
for _ in range(20): a @ a
torch.cuda.synchronize()
print(20 * 2 * 8192**3 / (time.perf_counter() - began))
"""


def bench(check):
    peak = None
    if check.device != "cpu":
        peak = float(check.call([sys.executable, "-c", PEAK], 60)[0])
        check.row("bfloat16 product of 8192 × 8192, torch", f"{peak / 1e12:.0f} TFLOP/s")
    shapes = ("base", "large") if check.device != "cpu" else ("tiny",)
    variants = [("bfloat16", ["--dtype", "bfloat16"]), ("float32", ["--dtype", "float32"]),
                ("TF32", ["--dtype", "float32", "--tf32", "true"])]
    for shape in shapes:
        for name, flags in variants[: 3 if shape == "base" else 1]:
            if check.left() < 40:
                check.row(f"train bench, {shape}, {name}", "not run: no time left")
                continue
            rows = "64" if check.device != "cpu" else "4"
            with Memory() as memory:
                said, _ = check.call(
                    [check.bin / "train", "bench", "--json", "--device", check.device, "--shapes", shape, "--batch", rows,
                     "--iterations", "3", *flags], 120,
                )
            for row in map(json.loads, said.splitlines()):
                share = ""
                if peak and row["work"] != "sampling" and shape in SHAPES:
                    share = f", {flops(row) / row['seconds'] / peak:.1%} of the peak"
                launches = row.get("kernel_launches")
                launches = f", {launches:,} kernels" if launches is not None else ""
                check.row(
                    f"{row['work']}, {shape}, {row['variant']}, {row['batch']} × {row['source']:.0f} → {row['target']:.0f}"
                    + (" (TF32)" if name == "TF32" else ""),
                    f"{row['seconds']:.3f} s, {row['tokens_per_s']:,.0f} tokens/s{launches}{share}",
                )
            if memory.most:
                check.row(f"GPU memory of all of these, {shape}, {name}", f"{memory.most:,} MB at most")
        if check.left() > 60 and check.device != "cpu":
            sums(check, shape)
            peer(check, shape)


def sums(check, shape):
    """NCCL with one rank: whether it opens and sums, and how fast it goes over a policy's gradients."""
    said, _ = check.call([check.bin / "train", "bench", "--json", "--device", check.device, "--shapes", shape, "--work", "sums"], 60)
    row = json.loads(said)
    check.row(f"NCCL with one rank, {shape}", f"{row['parameters']:,} gradients in {row['seconds'] * 1000:.1f} ms")


def peer(check, shape):
    """transformers' T5 of the same shape, in a process of its own."""
    command = [check.peer_python, ROOT / "scripts/device_check_peer.py", "--shape", shape]
    try:
        for row in map(json.loads, check.call(command, 120)[0].splitlines()):
            check.row(f"{row['work']}, {shape}, transformers, {row['variant']}",
                      f"{row['seconds']:.3f} s, {row['tokens_per_s']:,.0f} tokens/s, {row['gpu_mb']:,.0f} MB")
    except Failed as error:
        check.row(f"transformers, {shape}", f"not run: {str(error).splitlines()[-1][:120]}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--seconds", type=float, default=520, help="time limit of the whole check")
    parser.add_argument("--peer-python", help="a Python with torch and transformers, if not this one")
    options = parser.parse_args()
    check = Check(options)
    try:
        state = guarded(check, "a round on both", lambda: stages(check))
        if state:
            guarded(check, "killed and resumed", lambda: killed(check, *state))
            guarded(check, "lack of memory", lambda: lacks_memory(check, state[0]))
        guarded(check, "speed", lambda: bench(check))
    finally:
        shutil.rmtree(check.folder, ignore_errors=True)
    table = ["| check | result | |", "| --- | --- | --- |"]
    table += [f"| {what} | {result.replace('|', '/')} | {verdict} |" for what, result, verdict in check.rows]
    text = "\n".join(table)
    print(text)
    if os.environ.get("OUT"):
        pathlib.Path(os.environ["OUT"], "device_check.md").write_text(text + "\n")
    sys.exit(1 if check.failed else 0)


def guarded(check, name, part):
    """A part's result; its error becomes a row, and the other parts still run."""
    try:
        return part()
    except (Failed, OSError, StopIteration, KeyError) as error:
        check.judge(name, f"{type(error).__name__}: {error}".replace("\n", " "), False)
    except (TimeoutError, subprocess.TimeoutExpired):
        check.judge(name, "no time left", False)
    return None


main()
