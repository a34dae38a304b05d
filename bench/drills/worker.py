"""One worker of a rival: ``python -m bench.drills.worker NAME REDIS_URL FOLDER``, until it is killed."""

from __future__ import annotations

import sys
from pathlib import Path

from bench.drills.rivals import RIVALS

if __name__ == "__main__":
    name, redis_url, folder = sys.argv[1:]
    RIVALS[name](redis_url, Path(folder)).run()
