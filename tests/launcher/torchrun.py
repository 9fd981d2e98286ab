"""PyTorch's torchrun, in an environment with tests/export/requirements.txt."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "export"))

import cpu_torch  # noqa: F401
from torch.distributed.run import main

if __name__ == "__main__":
    main()
