"""Runs docs/recipe.md: its programs unchanged, its commands with a tiny model, a simulated vLLM server, and the embedded Teacher.

    python recipe.py        # in an environment with requirements.txt

Exit status: 0 every block ran, 1 one failed.
"""

import json
import os
import re
import struct
import subprocess
import sys
import tempfile
import threading
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import pyarrow
import pyarrow.parquet as parquet
import tiny
from harness import COMMANDS, ROOT, call

COLOURS = ["red", "blue", "green", "white"]
asked = []


def picture(shade):
    """A PNG of 8 by 8 grey pixels."""
    part = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    rows = b"".join(b"\0" + bytes([shade] * 8) for _ in range(8))
    head = struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", head) + part(b"IDAT", zlib.compress(rows)) + part(b"IEND", b"")


def problem(number):
    """A row in the layout of the Hub."""
    answer = number % 4
    shown = {"bytes": picture(number * 16), "path": "image.png"} if number % 2 == 0 else None
    return {
        "image": shown,
        "question": f"Which colour has box {number}?",
        "choices": COLOURS,
        "answer": answer,
        "hint": "",
        "task": "closed choice",
        "grade": "grade2",
        "subject": "natural science",
        "topic": "colours",
        "category": "boxes",
        "skill": "Name a colour",
        "lecture": "",
        "solution": f"Box {number} is {COLOURS[answer]}. So the answer is {COLOURS[answer]}.",
    }


def publish(folder):
    """Problems in the layout of the Hub."""
    kind = pyarrow.schema(
        [("image", pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())]))]
        + [("question", pyarrow.string()), ("choices", pyarrow.list_(pyarrow.string())), ("answer", pyarrow.int8())]
        + [(name, pyarrow.string()) for name in ["hint", "task", "grade", "subject", "topic", "category", "skill", "lecture", "solution"]]
    )
    (folder / "data").mkdir(parents=True)
    for split, numbers in {"train": range(12), "validation": range(12, 14), "test": range(14, 16)}.items():
        table = pyarrow.Table.from_pylist([problem(number) for number in numbers], schema=kind)
        parquet.write_table(table, folder / "data" / f"{split}-00000-of-00001.parquet")


def plain(folder):
    """The same problems in JSONL, for builds that do not import the Hub's layout."""
    rows = []
    for number in range(16):
        row = problem(number)
        split = "train" if number < 12 else "val" if number < 14 else "test"
        fields = {name: row[name] for name in ["question", "choices", "subject", "topic", "category", "skill", "grade", "solution"]}
        if row["image"]:
            (folder / f"{number}.png").write_bytes(row["image"]["bytes"])
            fields["image"] = f"{number}.png"
        rows.append(fields | {"problem_id": str(number), "split": split, "answer_index": row["answer"]})
    (folder / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


class Server(BaseHTTPRequestHandler):
    """Names the colours of each box, one after another."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        asked.append(body)
        text = body["messages"][0]["content"][-1]["text"]
        box = re.search(r"box (\d+)", text)[1]
        said = [f"Box {box} is {colour}. So the answer is {colour}." for colour in COLOURS[: body["n"]]]
        choices = [{"index": index, "message": {"role": "assistant", "content": one}} for index, one in enumerate(said)]
        reply = json.dumps({"choices": choices}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *_):
        pass


def blocks(page):
    """Language and text of each block to run, in order."""
    found = re.findall(r"^```(\w+)\n(.*?)^```$", page, re.M | re.S)
    return [(language, text) for language, text in found if language in ("sh", "python")]


def models(folder):
    """A tiny vision model and a tiny language model, as folders."""
    words = tiny.tokenizer()
    model, processor = tiny.vision_model(words)
    model.save_pretrained(folder / "vlm")
    processor.save_pretrained(folder / "vlm")
    tiny.language_model(words).save_pretrained(folder / "lm")
    words.save_pretrained(folder / "lm")


def run(folder, address):
    swaps = {
        "http://127.0.0.1:8000/v1": address,
        "Qwen/Qwen2.5-VL-3B-Instruct": str(folder / "vlm"),
        "Qwen/Qwen2.5-0.5B": str(folder / "lm"),
        "--teacher anthropic --max-usd 20": "--teacher reference",
    }
    if "Parquet" not in call("collect-feedback", "import", "scienceqa", "--help"):
        plain(folder)
        swaps["import scienceqa --from ScienceQA"] = "import jsonl --from problems.jsonl"
        print("note: this build does not import the Hub's layout; the problems come from JSONL", flush=True)
    path = f"{COMMANDS}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "PYTHONPATH": str(HERE)}
    environment = os.environ | offline | {"PATH": path, "HF_DATASETS_CACHE": str(folder / "cache"), "TRL_EXPERIMENTAL_SILENCE": "1"}
    used = set()
    for language, text in blocks((ROOT / "docs" / "recipe.md").read_text()):
        if language == "python":
            name = re.match(r"# (\w+\.py)\n", text)[1]
            if "trl" in text:
                # The trainers expect a GPU unless the settings say otherwise.
                text = "import cpu_torch\n" + text.replace("output_dir=out,", "output_dir=out, use_cpu=True, bf16=False,")
            (folder / name).write_text(text)
            continue
        for said, instead in swaps.items():
            if said in text:
                used.add(said)
                text = text.replace(said, instead)
        print("$ " + text.strip(), flush=True)
        done = subprocess.run(["bash", "-euc", text], cwd=folder, env=environment, capture_output=True, text=True, timeout=1500)
        print(done.stdout.strip() + (done.stderr[-3000:] if done.returncode else ""), flush=True)
        if done.returncode:
            return 1
    missing = set(swaps) - used
    assert not missing, f"the recipe no longer says {missing}"
    return check(folder)


def check(folder):
    assert len(asked) == 12 and all(body["n"] == 4 for body in asked), asked
    pictures = [body for body in asked if body["messages"][0]["content"][0]["type"] == "image_url"]
    assert len(pictures) == 6, "half of the problems have a picture"
    for name in ["sft", "dpo", "kto"]:
        assert (folder / "models" / name / "model.safetensors").is_file(), name
    assert (folder / "models" / "reward" / "model.safetensors").is_file()
    for name in ["prm", "preference", "kto", "sft"]:
        manifest = json.loads((folder / "exports" / name / "manifest.json").read_text())
        assert manifest["files"][0]["lines"] > 0, name
    print("the recipe ran")
    return 0


def main():
    with tempfile.TemporaryDirectory() as folder, ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        folder = Path(folder)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        publish(folder / "ScienceQA")
        models(folder)
        status = run(folder, f"http://127.0.0.1:{server.server_port}/v1")
        server.shutdown()
        return status


if __name__ == "__main__":
    sys.exit(main())
