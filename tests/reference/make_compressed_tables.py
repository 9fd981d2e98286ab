"""Writes schemas/tests/compression/*.parquet: a table in compressions that the readers refuse by name."""

from pathlib import Path

import polars

FOLDER = Path(__file__).parents[2] / "schemas" / "tests" / "compression"
FOLDER.mkdir(exist_ok=True)
for compression in ["gzip", "brotli"]:
    polars.DataFrame({"problem_id": ["a", "b"]}).write_parquet(FOLDER / f"{compression}.parquet", compression=compression)
