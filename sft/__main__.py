"""`python -m sft`, and the `sft` command."""

from __future__ import annotations

import sys

from sft.cli import main

if __name__ == "__main__":
    sys.exit(main())
