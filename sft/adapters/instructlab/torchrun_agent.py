"""torchrun's agent: ``python -m sft.adapters.instructlab.torchrun_agent FILE TORCHRUN_ARGUMENT…``.

Dies with the orchestrator, and its ranks die with it, since torchrun starts each rank in a session of its own,
where no signal to a process group reaches it. What torchrun knows of the ends of its ranks goes to ``FILE``.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from sft.adapters.os import child
from sft.files import write_json
from sft.logs import mask_streams


def main() -> None:
    """Runs torchrun's own main.

    Raises:
        SystemExit: With status 1 when a rank failed.
        Exception: What torchrun itself failed of, after it was written down.
    """
    child.die_with_parent()
    mask_streams()
    os.environ[child.PARENT_PID] = str(os.getpid())

    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    try:
        run.main(sys.argv[2:])
    except ChildFailedError as error:
        ended = {str(rank): failure.exitcode for rank, failure in error.failures.items()}
        write_json(Path(sys.argv[1]), {"exit_statuses": ended})
        raise SystemExit(1) from error
    except Exception as error:
        write_json(Path(sys.argv[1]), {"exit_statuses": {}, "error": child.describe(error)})
        raise


if __name__ == "__main__":
    main()
