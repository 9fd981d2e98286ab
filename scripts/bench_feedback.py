#!/usr/bin/env python3
"""Speed of collect-feedback and its peers, in one run, as a Markdown table.

Peers are in ARES_PEERS; without them only collect-feedback is measured. Python peers get a
virtual environment in ARES_BENCH_CACHE (default ~/.cache/ares-bench), outside the repository. curator fetches a tokenizer
when it starts; where it cannot, TIKTOKEN_CACHE_DIR has to hold it. Every figure is a whole
process from start to end, cache and Parquet included; peers report the time of their loop only, which favours them.
"""

import argparse
import datetime
import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
PEERS = Path(os.environ.get("ARES_PEERS", ROOT.parent / "shared" / "peers")) / "feedback"
CACHE = Path(os.environ.get("ARES_BENCH_CACHE", Path.home() / ".cache" / "ares-bench"))
REQUESTS = 5_000


def say(text):
    print(text, flush=True)


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


class Service:
    """A Teacher on loopback: the peers' mock where it is there, else our simulated one."""

    def __init__(self, mock, data, latency_ms, rpm=0, tpm=0):
        self.port = free_port()
        if mock:
            burst = max(1, rpm // 60)
            command = [mock, self.port, latency_ms, rpm, burst, tpm]
        else:
            command = [BIN / "simulated-teacher", "--data", data, "--port", self.port, "--latency-ms", latency_ms]
            command += ["--requests-per-minute", rpm, "--input-tokens-per-minute", tpm]
        self.process = subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL)
        for _ in range(200):
            try:
                self.stats()
                return
            except OSError:
                time.sleep(0.05)
        raise SystemExit("the service does not answer")

    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def stats(self):
        with urllib.request.urlopen(f"{self.url()}/stats", timeout=5) as reply:
            return json.load(reply)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()


def timed(command, env=None, limit_s=None):
    """Runs a command; returns its wall seconds, CPU seconds, peak MB and output."""
    with tempfile.TemporaryFile() as out:
        start = time.perf_counter()
        child = subprocess.Popen(
            [str(part) for part in command], env=env, stdout=out, stderr=subprocess.STDOUT
        )
        # wait4 reports this child's peak only, so nothing else may wait for it.
        end = None if limit_s is None else start + limit_s
        while True:
            pid, status, usage = os.wait4(child.pid, 0 if end is None else os.WNOHANG)
            if pid:
                break
            if time.perf_counter() > end:
                os.kill(child.pid, signal.SIGTERM)
                end += 40
            time.sleep(0.05)
        child.returncode = os.waitstatus_to_exitcode(status)
        wall = time.perf_counter() - start
        out.seek(0)
        text = out.read().decode(errors="replace")
    cpu, peak = usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024
    return {"code": child.returncode, "wall_s": wall, "cpu_s": cpu, "peak_mb": peak, "out": text}


def dataset(folder, requests):
    """A dataset with at least this many distinct scoring requests."""
    problems = -(-requests * 5 // 19)  # of four samples of every fifth problem two share a request
    subprocess.run([BIN / "make-small-dataset", folder, str(problems), "4"], check=True)
    return folder


def dataset_with_pictures(folder, items, picture_bytes):
    """A dataset of this many items, each with its own picture."""
    subprocess.run([BIN / "make-small-dataset", folder, str(items), "1", str(picture_bytes)], check=True)
    return folder


def ours(data, url, *more, **kept):
    # The peers send a request for each item, too.
    command = [BIN / "collect-feedback", "--round", 1, "--stage", "scores", "--data", data, "--samples-per-request", 1]
    command += ["--teacher", "openai", "--base-url", url, *more]
    return timed(command, **kept)


def mock_teacher():
    if not (PEERS / "mock-teacher").is_dir():
        say(f"!!! no peers at {PEERS}: our own figures alone, against our own simulated Teacher (set ARES_PEERS)")
        return None
    target = CACHE / "mock"
    build = ["cargo", "build", "--release", "--quiet", "--manifest-path", PEERS / "mock-teacher" / "Cargo.toml"]
    done = subprocess.run([*map(str, build), "--target-dir", str(target)])
    if done.returncode != 0:
        # The folder may be read-only: its lock file is written in a copy.
        copy = CACHE / "mock-source"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(PEERS / "mock-teacher", copy, copy_function=shutil.copyfile)
        build[5] = copy / "Cargo.toml"
        subprocess.run([*map(str, build), "--target-dir", str(target)], check=True)
    return target / "release" / "mock-teacher"


def python_with(*packages):
    """Python of an environment with these packages; None if they are not available."""
    python = CACHE / "venv" / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", CACHE / "venv"], check=True)
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages]
    done = subprocess.run(list(map(str, install)), stderr=subprocess.PIPE, text=True)
    if done.returncode == 0:
        return python
    say(f"!!! {', '.join(packages)}: not installed, so not measured ({done.stderr.strip().splitlines()[-1:]})")
    return None


def peer_clients(arguments):
    clients = {}
    if not PEERS.is_dir():
        return clients
    quiet = {**os.environ, "SLEEP": "0", "OPENAI_API_KEY": "x", "HF_HUB_OFFLINE": "1", "TELEMETRY_ENABLED": "false"}
    quiet |= {"CURATOR_DISABLE_RICH_DISPLAY": "1", "CURATOR_VIEWER": "0", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    if python := python_with("aiohttp"):
        def aiohttp(count, port, rpm, tpm, limit=600):
            return [python, PEERS / "aiohttp_loop.py", count, port, rpm, tpm, limit], quiet
        clients["aiohttp loop"] = aiohttp
    if not arguments.no_curator and (python := python_with("bespokelabs-curator==0.1.31")):
        def curator(count, port, rpm, tpm, limit=600):
            work = tempfile.mkdtemp(prefix="curator-")
            return [python, PEERS / "curator_client.py", count, port, rpm, tpm, work], quiet
        clients["curator"] = curator
    return clients


def peer_rate(done):
    lines = [line for line in done["out"].splitlines() if line.startswith("{")]
    if not lines:
        say(f"!!! a peer failed, exit {done['code']}: {done['out'].strip()[-300:]}")
        return float("nan")
    return json.loads(lines[-1])["rps"]


def throughput(mock, clients, work, repeats):
    say(f"\n## {REQUESTS:,} requests, replies after 50 ms\n")
    rates, peaks, cpus = {}, {}, {}
    data = dataset(work / "fast", REQUESTS)
    for turn in range(repeats):
        fresh = work / f"fast-{turn}"
        shutil.copytree(data, fresh)
        with Service(mock, data, 50) as service:
            done = ours(fresh, service.url())
            answered = service.stats().get("ok") or service.stats().get("good")
            assert done["code"] == 0 and answered >= REQUESTS, (done, answered)
        rates.setdefault("collect-feedback", []).append(answered / done["wall_s"])
        peaks.setdefault("collect-feedback", []).append(done["peak_mb"])
        cpus.setdefault("collect-feedback", []).append(done["cpu_s"])
        for name, client in clients.items():
            with Service(mock, data, 50) as service:
                command, env = client(REQUESTS, service.port, 10_000_000, 1_000_000_000)
                done = timed(command, env=env)
            rates.setdefault(name, []).append(peer_rate(done))
            peaks.setdefault(name, []).append(done["peak_mb"])
            cpus.setdefault(name, []).append(done["cpu_s"])
    say("| client | requests/s, best (all) | ours is | CPU s | peak MB |\n| --- | --- | --- | --- | --- |")
    best = max(rates["collect-feedback"])
    for name, all_rates in rates.items():
        every = ", ".join(f"{rate:,.0f}" for rate in all_rates)
        ratio = "" if name == "collect-feedback" else f"{best / max(all_rates):.1f} times"
        say(f"| {name} | {max(all_rates):,.0f} ({every}) | {ratio} | {min(cpus[name]):.1f} | {min(peaks[name]):.0f} |")


def memory(mock, work, sizes):
    say("\n## Peak memory, replies at once\n\n| items | peak MB | requests/s |\n| --- | --- | --- |")
    for size in sizes:
        data = dataset(work / f"items-{size}", size)
        with Service(mock, data, 1) as service:
            done = ours(data, service.url())
        assert done["code"] == 0, done
        say(f"| {size:,} | {done['peak_mb']:.0f} | {size / done['wall_s']:,.0f} |")
        if size == 50_000:
            resumed(data)
        shutil.rmtree(data)


def pictures(work, items=4_000, picture_bytes=300_000):
    """Always against our simulated Teacher, which reads each picture."""
    say("\n## Peak memory with pictures, 512 requests in flight\n")
    say("| items | picture, kB | replies after, s | peak MB | requests/s | CPU s |\n| --- | --- | --- | --- | --- | --- |")
    data = dataset_with_pictures(work / "pictures", items, picture_bytes)
    for latency_ms in [0, 2_000]:
        with Service(None, data, latency_ms) as service:
            done = ours(data, service.url(), "--concurrency", 512)
            stats = service.stats()
        assert done["code"] == 0 and stats["images"] >= items, (done, stats)
        say(
            f"| {items:,} | {picture_bytes / 1_000:.0f} | {latency_ms / 1_000:g} | {done['peak_mb']:.0f} "
            f"| {items / done['wall_s']:,.0f} | {done['cpu_s']:.1f} |"
        )
        for made in ["scores", "requests", "rejects"]:
            shutil.rmtree(data / made, ignore_errors=True)
        for made in data.glob("feedback.sqlite*"):
            made.unlink()
    shutil.rmtree(data)


def resumed(data):
    again = ours(data, "http://127.0.0.1:9")
    rebuilt = timed([BIN / "collect-feedback", "rebuild", "--data", data])
    assert again["code"] == 0 and rebuilt["code"] == 0, (again, rebuilt)
    say(f"| 50,000, nothing to do: {again['wall_s']:.2f} s | {again['peak_mb']:.0f} | |")
    say(f"| 50,000, rebuild: {rebuilt['wall_s']:.2f} s | {rebuilt['peak_mb']:.0f} | |")


def allowance(mock, clients, work, with_peers):
    say("\n## Use of 3,000 requests/min in the first 60 s\n")
    if mock is None:
        say("!!! needs the peers' mock, which counts by the second: not measured")
        return
    data = dataset(work / "allowance", 3_600)
    cases = [
        ("50 ms replies", 50, 3_000, 0),
        ("8 s replies", 8_000, 3_000, 0),
        ("8 s replies, 1M tokens/min", 8_000, 3_000, 1_000_000),
        ("server allows half", 50, 1_500, 0),
    ]
    say("| case | client | used of what the server allows | 429s after 10 s |\n| --- | --- | --- | --- |")
    for name, latency, rpm, tpm in cases:
        runs = {"collect-feedback": None, **(clients if with_peers else {})}
        for turn, (client, command) in enumerate(runs.items()):
            with Service(mock, data, latency, rpm, tpm) as service:
                if command is None:
                    fresh = work / f"allowance-{latency}-{rpm}-{tpm}-{turn}"
                    shutil.copytree(data, fresh)
                    more = ["--requests-per-minute", 3_000]
                    more += ["--input-tokens-per-minute", tpm] if tpm else []
                    ours(fresh, service.url(), *more, limit_s=62)
                else:
                    argv, env = command(3_600, service.port, 3_000, tpm or 1_000_000_000, 62)
                    timed(argv, env=env, limit_s=80)
                stats = service.stats()
            sent, limited = stats["sent_per_s"][:60], stats["limited_per_s"][:60]
            # Where tokens are the narrower limit, the allowance is as many requests as they are enough for.
            # A provider that counts input and output together counts both.
            tokens = (stats["input_tokens"] + stats["output_tokens"]) / max(1, stats["ok"])
            allowed = min(rpm, tpm / tokens) if tpm and tokens else rpm
            used = (sum(sent) - sum(limited)) / allowed
            late = sum(limited[10:]) / max(1, sum(sent[10:]))
            say(f"| {name} | {client} | {used:.1%} | {late:.1%} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="runs of each client; the best counts")
    parser.add_argument("--only", choices=["throughput", "memory", "pictures", "allowance"], action="append")
    parser.add_argument("--long", action="store_true", help="memory up to 500,000 items")
    parser.add_argument("--no-curator", action="store_true", help="leave curator out: it installs 2 GB")
    parser.add_argument("--peers-allowance", action="store_true", help="measure the peers' use of the allowance, too")
    arguments = parser.parse_args()
    if not (BIN / "collect-feedback").is_file() or not (BIN / "make-small-dataset").is_file():
        raise SystemExit(f"not built: {BIN}; run make build")
    wanted = arguments.only or ["throughput", "memory", "pictures", "allowance"]
    CACHE.mkdir(parents=True, exist_ok=True)
    mock = None if wanted == ["pictures"] else mock_teacher()
    clients = peer_clients(arguments) if mock and ("throughput" in wanted or arguments.peers_allowance) else {}
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    say(f"{datetime.date.today()}, {platform.machine()}, {os.cpu_count()} cores, load {load}")
    with tempfile.TemporaryDirectory(prefix="ares-bench-") as folder:
        work = Path(folder)
        if "throughput" in wanted:
            throughput(mock, clients, work, arguments.repeats)
        if "memory" in wanted:
            memory(mock, work, [5_000, 50_000] + ([500_000] if arguments.long else []))
        if "pictures" in wanted:
            pictures(work)
        if "allowance" in wanted:
            allowance(mock, clients, work, arguments.peers_allowance)


if __name__ == "__main__":
    main()
