"""Runs collect-feedback against a simulated Teacher for several models and checks every request body against the providers' types.

    python3 -m venv /tmp/sdk && /tmp/sdk/bin/pip install -r tests/sdk/requirements.txt -r tests/reference/requirements-sdk.txt
    /tmp/sdk/bin/python tests/sdk/run.py [--keep LOG.jsonl]

Exit status: 0 all bodies are valid, 1 some are not.
"""

import argparse
import collections
import concurrent.futures
import contextlib
import json
import shutil
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "reference")]

from check_requests import Checker, listing
from harness import call, rows, simulated_teacher, small_dataset

MODELS = [
    ("anthropic", "claude-haiku-5-5"),
    ("anthropic", "claude-opus-5-5"),
    ("anthropic", "claude-haiku-4-5"),
    ("anthropic", "claude-sonnet-5"),
    ("openai", "gpt-6-luna"),
    ("openai", "gpt-6.1-sol"),
    ("openai", "gpt-4.1-mini"),
    ("openai", "gpt-5.1"),
    ("openai", "mistral-large"),
]
# Services that refuse some field, which leads to other request bodies. Whether they give feedback is tested elsewhere.
REFUSING = ["mistral", "no-format", "no-system", "texts-only"]
TABLES = ["scores", "corrections", "judgements"]
KEYS = {"ANTHROPIC_API_KEY": "none", "OPENAI_API_KEY": "none"}


def collect(original, data, provider, model, address, *mode):
    """Collects all feedback of round 1."""
    shutil.copytree(original, data)
    whom = ["--round", 1, "--data", data, "--teacher", provider, "--model", model, "--base-url", address, *mode]
    call("collect-feedback", *whom, "--stage", "scores", keys=KEYS)
    call("collect-feedback", *whom, "--stage", "corrections", keys=KEYS)
    call("collect-feedback", "judge", *whom, keys=KEYS)
    empty = [name for name in TABLES if not rows(data, name)]
    if empty:
        raise AssertionError(f"{model} {' '.join(mode)}: no rows in {', '.join(empty)}")


def collect_all(original, folder, log):
    """Collects from every model and from every refusing service; all requests end up in the log."""
    # Unreadable replies cause follow-up requests, with the reply as the assistant's message.
    unreadable = ["--fault-share", 0.15, "--faults", "wrong-json,wrong-count", "--seed", 3]
    with contextlib.ExitStack() as services, concurrent.futures.ThreadPoolExecutor(4) as pool:
        start = lambda *options: services.enter_context(simulated_teacher(original, "--log-requests", log, *options))
        address, refusing = start(*unreadable), {name: start("--service", name) for name in REFUSING}
        asked = [
            pool.submit(collect, original, folder / f"{model}{len(mode)}", provider, model, address, *mode)
            for provider, model in MODELS
            for mode in ((), ("--batch",))
        ]
        tried = [
            pool.submit(collect, original, folder / name, "openai", "mistral-large", address, "--concurrency", 1)
            for name, address in refusing.items()
        ]
        for run in asked:
            run.result()
        concurrent.futures.wait(tried)


def models_of(record):
    """The models that a logged request is for."""
    body = record.get("body") or {}
    return [entry["params"]["model"] for entry in body["requests"]] if "requests" in body else [body.get("model")]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", type=Path, metavar="LOG.jsonl", help="keep the log of all requests here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        original, log = small_dataset(folder / "small"), folder / "requests.jsonl"
        collect_all(original, folder, log)
        checker = Checker()
        faults = checker.check_log(log)
        text = log.read_text()
        if options.keep:
            options.keep.write_text(text)
    asked = collections.Counter(model for line in text.splitlines() for model in models_of(json.loads(line)))
    lines = listing(faults) + [f"no request to {model}" for _, model in MODELS if not asked[model]]
    wanted = {'"image"': "an Anthropic picture", '"image_url"': "an OpenAI picture", '"assistant"': "a follow-up"}
    lines += [f"no request has {meaning}" for word, meaning in wanted.items() if word not in text]
    print("\n".join(lines))
    print(f"{checker}: {len(faults)} faults")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
