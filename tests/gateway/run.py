"""Runs collect-feedback with default settings against LiteLLM's proxy on loopback, over both APIs.

    python3 -m venv /tmp/gateway && /tmp/gateway/bin/pip install -r tests/gateway/requirements.txt
    /tmp/gateway/bin/python tests/gateway/run.py fixed|passing

`fixed`: the gateway itself replies (fixed.yaml). `passing`: it forwards requests to a simulated Teacher (passing.yaml). It refuses
fields that it knows a model does not support, such as a temperature; with fixed replies, over the chat API only.
Exit status: 0 all models gave scores, corrections and judgements, 1 some did not.
"""

import argparse
import concurrent.futures
import contextlib
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from harness import call, free_port, process, rows, simulated_teacher, small_dataset, wait_for

CLAUDE = ["claude-opus-5-5", "claude-haiku-5-5", "claude-haiku-4-5"]
GPT = ["gpt-6-luna", "gpt-6.1-sol", "gpt-4.1-mini"]
PROVIDERS = ("anthropic", "openai")
# The API used for each model. The gateway translates between them; the simulated Teacher does not understand all translations.
ASKED = {
    "fixed": [(provider, model) for provider in PROVIDERS for model in CLAUDE + GPT],
    "passing": [("anthropic", model) for model in CLAUDE] + [("openai", model) for model in GPT],
}
KEYS = {"anthropic": "ANTHROPIC_API_KEY", "openai": "OPENAI_API_KEY"}


def answers(address):
    try:
        with urllib.request.urlopen(f"{address}/health/liveliness", timeout=2) as reply:
            return reply.status == 200
    except (urllib.error.URLError, OSError):
        return False


@contextlib.contextmanager
def gateway(config, folder, teacher):
    """The address of a gateway and its key."""
    port, key, log = free_port(), f"sk-{secrets.token_hex(16)}", folder / "gateway.log"
    settings = {
        "LITELLM_MASTER_KEY": key,
        # Model data comes from the package, not from the network.
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "TEACHER_URL": teacher,
        "TEACHER_URL_V1": f"{teacher}/v1",
    }
    command = Path(sys.executable).with_name("litellm")
    line = [command, "--config", config, "--host", "127.0.0.1", "--port", port, "--telemetry", "False"]
    with open(log, "w") as said:
        with process(line, cwd=folder, stdout=said, stderr=subprocess.STDOUT, env=os.environ | settings) as running:
            address = f"http://127.0.0.1:{port}"
            wait_for(lambda: answers(address), running, 90, log)
            yield address, key


def collect(original, folder, provider, model, address, key):
    """Collects all feedback of round 1; raises if anything is missing."""
    data = folder / f"{provider}-{model}"
    shutil.copytree(original, data)
    base = f"{address}/v1" if provider == "openai" else address
    whom = ["--round", 1, "--data", data, "--teacher", provider, "--model", model, "--base-url", base]
    keys = {KEYS[provider]: key}
    call("collect-feedback", *whom, "--stage", "scores", keys=keys)
    call("collect-feedback", *whom, "--stage", "corrections", keys=keys)
    call("collect-feedback", "judge", *whom, keys=keys)
    rationales = rows(data, "rationales")
    expected = {
        "scores": sum(len(row["sentences"]) for row in rows(data, "rollouts")),
        "corrections": sum(row["stage"] == "rl" for row in rationales),
        "judgements": sum(row["stage"] == "sft" for row in rationales),
    }
    found = {table: len(rows(data, table)) for table in expected}
    if found != expected:
        raise AssertionError(f"expected rows {expected}, found {found}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=ASKED)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        original = small_dataset(folder / "small")
        with (
            simulated_teacher(original) as teacher,
            gateway(HERE / f"{options.kind}.yaml", folder, teacher) as (address, key),
            concurrent.futures.ThreadPoolExecutor(4) as pool,
        ):
            runs = {
                (provider, model): pool.submit(collect, original, folder, provider, model, address, key)
                for provider, model in ASKED[options.kind]
            }
            faults = [f"{' API, '.join(who)}: {run.exception()}" for who, run in runs.items() if run.exception()]
    print("\n".join(faults))
    print(f"{len(runs)} models and APIs: {len(faults)} failed")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
