"""Runs torchrun: ``python -m sft.adapters.instructlab.torchrun_agent FILE TORCHRUN_ARGUMENT…``.

It dies with its parent process, and its ranks die with it: torchrun starts each rank in a session of its own, where no
signal to a process group reaches it. torchrun's exit statuses of the ranks are written to ``FILE``.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from sft.adapters.instructlab.private_store import listening_only_where_asked
from sft.adapters.os import child
from sft.files import write_json
from sft.logs import mask_streams


def main() -> None:
    """Run torchrun's own main.

    Raises:
        SystemExit: With status 1 if a rank failed.
        Exception: The error of torchrun itself, after it was written to the file.
    """
    child.die_with_parent()
    mask_streams()
    os.environ[child.PARENT_PID] = str(os.getpid())

    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    try:
        with listening_only_where_asked():
            run.main(sys.argv[2:])
    except ChildFailedError as error:
        statuses = {str(rank): failure.exitcode for rank, failure in error.failures.items()}
        write_json(Path(sys.argv[1]), {"exit_statuses": statuses})
        raise SystemExit(1) from error
    except Exception as error:
        write_json(Path(sys.argv[1]), {"exit_statuses": {}, "error": child.describe(error)})
        raise


if __name__ == "__main__":
    main()
