"""`python -m sft`, and the `sft` command."""

from __future__ import annotations

import sys
from pathlib import Path


def main() -> int:
    """Run one command and return its exit status.

    Nothing is imported from the working folder, which ``-m`` puts first and where a stranger's `random.py` may lie,
    unless sft itself lies there.
    """
    if sys.path and not sys.flags.safe_path and Path(sys.path[0]) == Path.cwd() != Path(__file__).parents[1]:
        del sys.path[0]
    from sft.cli import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
