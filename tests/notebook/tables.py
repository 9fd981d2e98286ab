"""Opens every table of a small dataset with two rounds in pandas, pyarrow, polars, DuckDB and datasets, without options.

    python3 -m venv /tmp/notebook && /tmp/notebook/bin/pip install -r tests/notebook/requirements.txt
    /tmp/notebook/bin/python tests/notebook/tables.py

Exit status: 0 all agree, 1 some do not.
"""

import os
import sys
import tempfile
from pathlib import Path

# No requests to the Hub.
os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"

import datasets
import duckdb
import pandas
import polars
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness import call, small_dataset

TABLES = ["rollouts", "scores", "rationales", "corrections", "judgements", "answers", "metrics", "requests", "rejects"]


def make(folder):
    """Every table, in rounds 1 and 2: the feedback by `collect-feedback`, the trainer's tables as `train` would write them."""
    data = small_dataset(folder / "small", problems=12, samples=2)
    copy_round(data)
    moment = pa.array([0], pa.timestamp("ms", "UTC"))
    for number in (1, 2):
        one = lambda value, type: pa.array([value], type)
        tables = {
            "answers": {
                "problem_id": one("p0", pa.string()), "round": one(number, pa.uint32()), "split": one("test", pa.string()),
                "stage": one("sft", pa.string()), "predicted_index": one(None, pa.uint8()), "answer_index": one(1, pa.uint8()),
                "correct": one(False, pa.bool_()), "text": one("", pa.string()),
            },
            "metrics": {
                "round": one(number, pa.uint32()), "stage": one("rl", pa.string()), "step": one(1, pa.uint64()),
                "epoch": one(0.5, pa.float64()), "name": one("loss", pa.string()), "value": one(1.5, pa.float64()), "at": moment,
            },
            # Nothing is rejected here, and `datasets` refuses a table without rows.
            "rejects": {
                "kind": one("scores", pa.string()), "subject_id": one("gone", pa.string()), "problem_id": one("p0", pa.string()),
                "round": one(number, pa.uint32()), "reason": one("refused", pa.string()), "reply": one("", pa.string()),
                "attempts": one(1, pa.uint32()), "request_key": one("k", pa.string()), "teacher": one("t", pa.string()),
                "repeat": one(0, pa.uint32()),
            },
        }
        for name, columns in tables.items():
            part = data / name / f"round-{number}" / "part-sft.parquet"
            part.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.table(columns), part)
        # Named as by the trainer.
        part = data / "rationales" / f"round-{number}" / "part-sft.parquet"
        if part.is_file():
            part.rename(part.with_name("part-sft-test-00000.parquet"))
        call("collect-feedback", "--round", number, "--data", data, "--teacher", "reference")
        call("collect-feedback", "judge", "--round", number, "--against", "base", "--data", data, "--teacher", "reference")
    return data


def copy_round(data):
    """The trainer's rows of round 1, as round 2."""
    for part in [*data.glob("rollouts/round-1/*"), *data.glob("rationales/round-1/*")]:
        table = pq.read_table(part)
        place = table.schema.get_field_index("round")
        table = table.set_column(place, table.schema.field(place), pa.array([2] * len(table), pa.uint32()))
        name = "rollout_id" if part.parents[1].name == "rollouts" else "rationale_id"
        place = table.schema.get_field_index(name)
        ids = pa.array([f"{id}-2" for id in table[name].to_pylist()])
        table = table.set_column(place, table.schema.field(place), ids)
        target = part.parents[1] / "round-2" / part.name
        target.parent.mkdir(exist_ok=True)
        pq.write_table(table, target)


def rounds_by_reader(folder, cache):
    """Number of rows by round, by library."""
    count = lambda values: {number: list(values).count(number) for number in sorted(set(values))}
    load = lambda **how: sum((list(split["round"]) for split in datasets.load_dataset("parquet", cache_dir=str(cache), **how).values()), [])
    query = f"SELECT round FROM '{folder}/*/*.parquet'"
    found = {
        "pandas": count(pandas.read_parquet(folder)["round"].tolist()),
        "pyarrow": count(pq.read_table(folder)["round"].to_pylist()),
        "polars": count(polars.read_parquet(folder)["round"].to_list()),
        "polars, lazily": count(polars.scan_parquet(folder).collect()["round"].to_list()),
        "DuckDB": count([number for (number,) in duckdb.sql(query).fetchall()]),
        "datasets, data_files": count(load(data_files=f"{folder}/*/*.parquet")),
    }
    # If some file names contain a split, `data_dir` ignores those that do not.
    if not any("-test-" in file.name for file in folder.rglob("*.parquet")):
        found["datasets, data_dir"] = count(load(data_dir=str(folder)))
    return found


def main():
    datasets.disable_progress_bars()
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        data = make(Path(folder))
        for table in TABLES:
            found = rounds_by_reader(data / table, Path(folder) / "cache" / table)
            types = {str(pq.read_table(data / table).schema.field("round").type), str(polars.read_parquet(data / table)["round"].dtype)}
            expected = found["pyarrow"]
            is_right = all(rows == expected for rows in found.values()) and {1, 2} <= set(expected) and types == {"uint32", "UInt32"}
            print(f"{table:12} {'the same in all' if is_right else found} {expected} {sorted(types)}")
            failed |= not is_right
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
