"""Problem sets written by Hugging Face `datasets`, with the features of ScienceQA and A-OKVQA on the Hub, are imported whole.

    python3 -m venv /tmp/notebook && /tmp/notebook/bin/pip install -r tests/notebook/requirements.txt
    /tmp/notebook/bin/python tests/notebook/hub.py

Exit status: 0 every problem and picture is as it was, 1 one is not.
"""

import io
import os
import sys
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"

import datasets
import polars
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as Pillow

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness import call

SCIENCE = Features(
    {"image": Image(), "question": Value("string"), "choices": List(Value("string")), "answer": Value("int8")}
    | {name: Value("string") for name in ("hint", "task", "grade", "subject", "topic", "category", "skill", "lecture", "solution")}
)
OKVQA = Features(
    {
        "image": Image(), "question_id": Value("string"), "question": Value("string"), "choices": List(Value("string")),
        "correct_choice_idx": Value("int8"), "direct_answers": Value("string"), "difficult_direct_answer": Value("bool"),
        "rationales": List(Value("string")),
    }
)


def picture(number, format):
    file = io.BytesIO()
    Pillow.new("RGB", (8 + number % 5, 6), (number * 7 % 256, number * 31 % 256, 99)).save(file, format)
    return file.getvalue()


def science(split, number):
    held = {"bytes": picture(number, "PNG"), "path": "image.png"} if number % 2 else None
    texts = {name: f"{name} {number}" for name in ("task", "grade", "subject", "topic", "category", "skill", "lecture", "solution")}
    return {
        "image": held, "question": f"{split}, question {number}: what is “ö”?", "choices": [f"{number}", "b", "ç"][: 2 + number % 2],
        "answer": number % 2, "hint": "" if number % 3 else "A hint.", **texts,
    }


def okvqa(split, number):
    is_hidden = split == "test"
    return {
        "image": {"bytes": picture(number, "JPEG"), "path": None}, "question_id": f"{split[:2]}{number}", "question": f"What is {number}?",
        "choices": ["a", "b", "c", "d"], "correct_choice_idx": None if is_hidden else number % 4,
        "direct_answers": None if is_hidden else str(["it's", 'a "b"', f"{number}"]),
        "difficult_direct_answer": False, "rationales": [] if is_hidden else ["First", "Second."],
    }


def write(folder, row, features, shards):
    """As `push_to_hub` names and writes the files; the rows by split."""
    written = {}
    for split, count in (("train", 25), ("validation", 7), ("test", 6)):
        written[split] = [row(split, number) for number in range(count)]
        made = Dataset.from_list(written[split], features=features)
        of_split = shards if split == "train" else 1
        (folder / "data").mkdir(parents=True, exist_ok=True)
        for index in range(of_split):
            shard = made.shard(of_split, index, contiguous=True)
            shard.to_parquet(folder / "data" / f"{split}-{index:05}-of-{of_split:05}.parquet")
    return written


def check(name, folder, row, features, columns):
    written = write(folder / "one", row, features, shards=1)
    write(folder / "three", row, features, shards=3)
    data = folder / "data"
    call("collect-feedback", "import", name, "--from", folder / "one", "--data", data)
    state = lambda: {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in data.rglob("*") if path.is_file() and path.suffix != ".lock"}
    before = state()
    call("collect-feedback", "import", name, "--from", folder / "three", "--data", data)
    assert state() == before, "the same rows in other files change something"
    found = polars.read_parquet(data / "problems.parquet").to_dicts()
    expected = [(split.replace("validation", "val"), row) for split in written for row in written[split]]
    assert len(found) == len(expected), (len(found), len(expected))
    for problem, (split, source) in zip(found, expected):
        assert problem["split"] == split and problem["source"] == name, problem
        for column, of in columns.items():
            assert problem[column] == of(source), (column, problem[column], of(source))
        held = (data / problem["image"]).read_bytes() if problem["image"] else None
        assert held == (source["image"] and source["image"]["bytes"]), problem["problem_id"]
    print(f"{name}: {len(found)} problems, {sum(problem['image'] is not None for problem in found)} with a picture, the same from 1 and 3 files")


def main():
    datasets.disable_progress_bars()
    same = lambda *names: {name: (lambda row, name=name: row[name]) for name in names}
    with tempfile.TemporaryDirectory() as folder:
        kept = same("question", "choices", "hint", "grade", "subject", "topic", "category", "skill", "lecture", "solution")
        check("scienceqa", Path(folder) / "science", science, SCIENCE, kept | {"answer_index": lambda row: row["answer"]})
        joined = lambda row: "First. Second." if row["rationales"] else ""
        kept = same("question", "choices") | {"problem_id": lambda row: row["question_id"], "solution": joined}
        check("aokvqa", Path(folder) / "okvqa", okvqa, OKVQA, kept | {"answer_index": lambda row: row["correct_choice_idx"]})
    return 0


if __name__ == "__main__":
    sys.exit(main())
