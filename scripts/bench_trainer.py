#!/usr/bin/env python3
"""Runs `train bench` and the peers' benchmarks alternately and prints ratios (see bench_trainer.sh).

A ratio above 1 means that the trainer is faster, or takes less memory. Seconds are wall-clock; "cpu" compares processor
seconds, which a busy machine disturbs less.
"""
import argparse
import json
import os
import pathlib
import subprocess
import sys


HERE = pathlib.Path(__file__).resolve().parent
COLLECTION = "bench_collection_peer.py"


def last_json(command, folder=None):
    """The last JSON line that a command prints."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode != 0 or not lines:
        sys.exit(f"{' '.join(command)}: failed\n{done.stderr[-2000:]}")
    return json.loads(lines[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", default="small,base")
    parser.add_argument("--work", default="sampling,collection,sft,ppo")
    parser.add_argument("--iterations", type=int, default=3)
    parser.add_argument("--new", type=int, default=128, help="tokens of a rationale")
    parser.add_argument("--public", action="store_true", help="also measure the public code's method, which takes long")
    parser.add_argument("--lengths", help="file of real lengths for the steps")
    parser.add_argument("--json", action="store_true", help="print one JSON object per line")
    options = parser.parse_args()
    train = str(pathlib.Path(os.environ["TRAIN"]).resolve())
    peers = pathlib.Path(os.environ["ARES_PEERS"]).resolve()
    peers = peers / "trainer" if (peers / "trainer").is_dir() else peers
    if not (peers / "bench_sft.py").is_file():
        sys.exit(f"{peers}: expected bench_sft.py, found none; set ARES_PEERS")
    iterations = str(options.iterations)

    def ours(shape, work, *flags):
        command = [train, "bench", "--json", "--shapes", shape, "--work", work, "--iterations", iterations]
        lengths = ["--lengths", options.lengths] if options.lengths and work in ("sft", "ppo") else []
        found = last_json([*command, "--target", str(options.new), *lengths, *flags])
        return found["seconds"], found["cpu_seconds"], found["peak_rss_mb"], found

    def peer(script, shape, *flags):
        script = [str(HERE / script), "--peers", str(peers)] if script == COLLECTION else [script]
        command = [sys.executable, *script, "--shape", shape, *("--iters", iterations)[: 0 if "--public" in flags else 2], *flags]
        found = last_json(command, peers)
        return found["min_s"], found["cpu_s"], found["peak_rss_mb"], found

    def report(shape, name, variant, mine, other_name, other):
        row = {
            "shape": shape, "work": name, "variant": variant, "against": other_name,
            "seconds": mine[0], "their_seconds": other[0],
            "times_faster": other[0] / mine[0], "times_less_cpu": other[1] / mine[1], "memory": mine[2] / other[2],
        }
        if options.json:
            print(json.dumps({key: round(v, 3) if isinstance(v, float) else v for key, v in row.items()}), flush=True)
            return
        print(
            f"{shape:6} {name:10} {variant:14} {mine[0]:8.2f} s  {other_name:24} {other[0]:8.2f} s  "
            f"faster {row['times_faster']:6.2f}  cpu {row['times_less_cpu']:6.2f}  memory {row['memory']:5.2f}",
            flush=True,
        )

    for shape in options.shapes.split(","):
        for work in options.work.split(","):
            if work == "collection":
                variants = [("float32", []), ("bfloat16", ["--sampling-dtype", "bfloat16"])]
                sides = {"transformers": [COLLECTION, "--new", str(options.new)]}
                if options.public:
                    sides["public code's way"] = [*sides["transformers"], "--public"]
            elif work == "sampling":
                variants = [("float32", []), ("bfloat16", ["--sampling-dtype", "bfloat16"])]
                sides = {"transformers": ["bench_generate.py", "--new", str(options.new)]}
                if options.public:
                    sides["public code's way"] = [*sides["transformers"], "--no-cache"]
            else:
                variants = [("float32", []), ("bfloat16", ["--dtype", "bfloat16"])]
                if work == "ppo":
                    variants += [("float32 shared", ["--value-model", "shared"]), ("float32 grpo", ["--algorithm", "grpo"])]
                target = "--target" if work == "sft" else "--response"
                sides = {"transformers": [f"bench_{work}.py", target, str(options.new)]}
                if options.public:
                    padded = ["--pad-to", "512"] + (["--target-pad-to", "512"] if work == "sft" else [])
                    sides["public code's way"] = [*sides["transformers"], *padded]
            measured = {name: ours(shape, work, *flags) for name, flags in variants[:1]}
            if options.lengths and work in ("sft", "ppo"):
                # The peer runs the same mean padded lengths as our batches had.
                found = measured[variants[0][0]][3]
                source = "--input"
                sides["transformers"] = [
                    sides["transformers"][0], source, str(round(found["source"])), target, str(round(found["target"])),
                ]
            theirs = {name: peer(command[0], shape, *command[1:]) for name, command in sides.items()}
            measured.update({name: ours(shape, work, *flags) for name, flags in variants[1:]})
            for name, _ in variants:
                for other, numbers in theirs.items():
                    report(shape, work, name, measured[name], other, numbers)


main()
