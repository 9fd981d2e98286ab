"""Measures time and peak memory of importing a synthetic set as large as ScienceQA (21,208 problems, each with a picture) from Parquet.

    python3 scripts/bench_import.py [--bin target/release] [--rows-a-group 100]

Needs numpy and pyarrow. --rows-a-group 0 puts each split into one row group, the worst case for a reader that holds whole groups.
"""

import argparse
import multiprocessing
import os
import struct
import subprocess
import tempfile
import time
import zlib
from pathlib import Path

import numpy
import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[1]
SPLITS = {"train": 12_726, "validation": 4_241, "test": 4_241}
PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def png(random):
    """A picture of 8 to 60 kB that cannot be compressed."""
    width, height = 200, int(random.integers(8_000, 60_000)) // 600
    lines = numpy.concatenate([numpy.zeros((height, 1), numpy.uint8), random.integers(0, 256, (height, width * 3), dtype=numpy.uint8)], 1)
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(lines.tobytes(), 0)) + chunk(b"IEND", b"")


def rows(random, split, first, count):
    numbers = range(first, first + count)
    pictures = [{"bytes": png(random), "path": "image.png"} for _ in numbers]
    columns = {
        "image": pa.array(pictures, PICTURE),
        "question": [f"{split} question {number}?" for number in numbers],
        "choices": [["a", "b", "c"]] * count,
        "answer": pa.array([number % 3 for number in numbers], pa.int8()),
        "hint": ["Some words of context. " * 6] * count,
        "lecture": ["A sentence of a lecture. " * 40] * count,
        "solution": [f"Because of {number}. " * 20 for number in numbers],
    }
    return pa.table(columns | {name: [name] * count for name in ("task", "grade", "subject", "topic", "category", "skill")})


def make(folder, rows_a_group):
    random = numpy.random.default_rng(0)
    for split, count in SPLITS.items():
        step, writer = rows_a_group or count, None
        for first in range(0, count, step):
            table = rows(random, split, first, min(step, count - first))
            writer = writer or pq.ParquetWriter(folder / f"{split}-00000-of-00001.parquet", table.schema)
            writer.write_table(table, row_group_size=step)
        writer.close()


def main():
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bin", type=Path, default=target / "release", help="folder of the built commands")
    parser.add_argument("--rows-a-group", type=int, default=100)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "data"
        source.mkdir()
        # In a separate process: otherwise the memory of this one would count as its children's.
        maker = multiprocessing.get_context("spawn").Process(target=make, args=(source, options.rows_a_group))
        maker.start()
        maker.join()
        size = sum(file.stat().st_size for file in source.iterdir()) / 1e6
        for what in ("first", "again"):
            begin = time.monotonic()
            words = [options.bin / "collect-feedback", "import", "scienceqa", "--from", source, "--data", Path(folder) / "set"]
            running = subprocess.Popen([str(word) for word in words], stdout=subprocess.DEVNULL)
            _, status, used = os.wait4(running.pid, 0)
            if status:
                raise SystemExit("the import failed")
            seconds = time.monotonic() - begin
            print(f"{size:.0f} MB, {options.rows_a_group or 'all'} rows a group, {what}: {seconds:.1f} s, peak {used.ru_maxrss / 1024:.0f} MB")


if __name__ == "__main__":
    main()
