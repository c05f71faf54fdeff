"""What a training needs of this machine beyond its settings, and what of it is missing. Imports nothing heavy.

Of a TrainJob's pods nothing is known here: their ranks say themselves what they miss.
"""

from __future__ import annotations

import importlib.util
import netrc
import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from sft.adapters import callbacks
from sft.adapters.instructlab.settings import Nodes
from sft.adapters.os import driver, gpus, machine
from sft.config.schema import Compile, RunConfig, Tracker, TrainingConfig
from sft.errors import SftError
from sft.planning import estimate
from sft.planning.kernels import missing_for_compiling, quantizes
from sft.planning.resources import Resources

SHARED_MEMORY = Path("/dev/shm")
"""Where NCCL keeps what the ranks of a machine share."""
LEAST_SHARED_BYTES = 64 << 20
"""What a container gets by itself, and NCCL is known to fail with (its user guide, "Shared memory")."""
ADVISED_SHARED_BYTES = 1 << 30
"""What the same guide advises."""
_GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Missing:
    """Something that a training needs and this machine lacks.

    Attributes:
        rule: What is needed, and what is here.
        fix: What to try.
    """

    rule: str
    fix: str


def check(cfg: RunConfig, resources: Resources, kept_bytes: int = 0) -> None:
    """Refuse a training that this machine can't do, before anything is done for it.

    Args:
        cfg: A checked configuration.
        resources: What it trains on and with.
        kept_bytes: What an earlier try has written of it already.

    Raises:
        SftError: Something is missing; the message has all of it.
    """
    if missing := list(missing_for(cfg, resources, kept_bytes)):
        lines = [f"  - {each.rule}; {each.fix}" for each in missing]
        raise SftError("\n".join(["this machine can't do the training:", *lines]))


def missing_for(cfg: RunConfig, resources: Resources, kept_bytes: int = 0) -> Iterator[Missing]:
    """Yield what this machine lacks for a training. Arguments as of `check`."""
    for rule, fix in callbacks.missing(cfg.training.callbacks):
        yield Missing(rule=rule, fix=fix)
    if cfg.training.launcher.is_remote:
        return
    if resources.num_gpus:
        yield from _driver()
        yield from _shared_memory(resources)
        if why := estimate.missing_gpu_memory(cfg, resources):
            fix = "end what else uses it, lower training.max_tokens_per_gpu, or shard more (training/fsdp=full_shard)"
            yield Missing(rule=why, fix=fix)
    if resources.compile is Compile.regional and (lacking := missing_for_compiling(on_gpu=bool(resources.num_gpus))):
        yield Missing(rule=f"training.compile=regional: {lacking}", fix="install it, or set training.compile=none")
    if quantizes(cfg.training) and importlib.util.find_spec("bitsandbytes") is None:
        yield Missing(
            rule=f"training.lora.quantize={cfg.training.lora.quantize.value}: bitsandbytes is not installed",
            fix="pip install 'sft-runner[qlora]', or set training.lora.quantize=none",
        )
    yield from _trackers(cfg.training)
    yield from _port(resources.nodes)
    yield from _disk(cfg, resources, kept_bytes)


def notes(cfg: RunConfig, resources: Resources) -> Iterator[str]:
    """Yield what this machine has less of than would be good, a line each."""
    if cfg.training.launcher.is_remote or not resources.num_gpus:
        return
    if resources.num_processes > 1:
        pairs = unreachable(gpus.ask("topo", "-p2p", "r")[1])
        if pairs:
            yield f"GPUs {pairs} can't reach each other's memory: what they exchange goes through the host's, slower"
        size = _size_of(SHARED_MEMORY)
        if size is not None and LEAST_SHARED_BYTES < size < ADVISED_SHARED_BYTES:
            yield f"{SHARED_MEMORY} has {size >> 20} MiB; NCCL advises 1 GiB (docker run --shm-size=1g)"


def _trackers(cfg: TrainingConfig) -> Iterator[Missing]:
    key = "training.tracking.trackers"
    for tracker in cfg.tracking.trackers:
        if importlib.util.find_spec(tracker.value) is None:
            yield Missing(
                rule=f"{key}: {tracker.value} is not installed",
                fix=f"pip install 'sft-runner[{tracker.value}]', or leave it out of {key}",
            )
        elif tracker is Tracker.wandb and not _has_wandb_login({**os.environ, **cfg.env}):
            fix = "export WANDB_API_KEY=…, or wandb login, or WANDB_MODE=offline"
            yield Missing(rule=f"{key}: wandb has no login, and a training can't be asked for one", fix=fix)


def _has_wandb_login(variables: Mapping[str, str]) -> bool:
    """Return whether W&B finds a key, or needs none (docs.wandb.ai, "Environment variables")."""
    keys = ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")
    if any(variables.get(key) for key in keys) or variables.get("WANDB_MODE", "online") != "online":
        return True
    file = Path(variables.get("NETRC", "~/.netrc")).expanduser()
    try:
        host = urlsplit(variables.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
        return netrc.netrc(file).authenticators(host) is not None
    except (OSError, ValueError, netrc.NetrcParseError):  # ValueError: no address, or no UTF-8
        return False


def _port(nodes: Nodes) -> Iterator[Missing]:
    """Yield what keeps node 0 from being where the others meet it."""
    if nodes.num == 1 or nodes.rank != 0:
        return
    port = int(nodes.rendezvous.rpartition(":")[2])
    try:
        with socket.socket(socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("", port))
    except OSError as error:
        place = f"training.launcher.rendezvous={nodes.rendezvous}"
        yield Missing(
            rule=f"{place}: port {port} can't be listened on ({error.strerror})",
            fix="end what uses it, or take another port, the same one on each node",
        )


def _driver() -> Iterator[Missing]:
    torch, capability = driver.installed_torch(), machine.compute_capability()
    if (least := driver.least_capability(torch)) and (0, 0) < capability < least:
        rule = "torch {} for CUDA {} has no kernels below compute capability {}.{}, this GPU's is {}.{}"
        names = (torch.version, torch.cuda) if torch else ()
        yield Missing(
            rule=rule.format(*names, *least, *capability), fix="install a torch that was built for an older CUDA"
        )
    if why := driver.mismatch(torch, driver.installed_driver()):
        yield Missing(
            rule=f"torch finds none of the GPUs that nvidia-smi shows: {why}",
            fix="install the driver that torch needs, or a torch for this driver; "
            "training.launcher.gpus_per_worker=0 trains on the CPU",
        )


def _shared_memory(resources: Resources) -> Iterator[Missing]:
    size = _size_of(SHARED_MEMORY)
    is_off = os.environ.get("NCCL_SHM_DISABLE") == "1"
    if resources.num_processes > 1 and not is_off and size is not None and size <= LEAST_SHARED_BYTES:
        yield Missing(
            rule=f"{SHARED_MEMORY} has {size >> 20} MiB, too little for NCCL with {resources.num_processes} ranks",
            fix="give the container more (docker run --shm-size=1g), or set NCCL_SHM_DISABLE=1, which is slower",
        )


def _size_of(folder: Path) -> int | None:
    return shutil.disk_usage(folder).total if folder.is_dir() else None


def _disk(cfg: RunConfig, resources: Resources, kept_bytes: int) -> Iterator[Missing]:
    needed = estimate.disk_bytes(cfg, resources)
    free = estimate.free_bytes(cfg.run_root) + kept_bytes
    if needed is not None and needed > free:
        yield Missing(
            rule=f"run_root={cfg.run_root}: {free / _GIB:.1f} GiB are free, and training writes up to "
            f"{needed / _GIB:.1f} GiB of full states and models",
            fix="free space, take another run_root, or set training.keep_full_states=1 "
            "training.checkpoint_at_epoch=false",
        )


def unreachable(matrix: str) -> str:
    """Return the pairs of GPUs that can't read each other's memory, as ``0-1, 0-2``.

    Args:
        matrix: What ``nvidia-smi topo -p2p r`` prints: OK, or why not, by row and column.
    """
    rows = [line.split() for line in matrix.splitlines() if line.strip()]
    columns = next((row for row in rows if len(row) > 1 and all(name.startswith("GPU") for name in row)), [])
    pairs = []
    for row in rows:
        if row[0].startswith("GPU") and len(row) == len(columns) + 1:
            one = int(row[0].removeprefix("GPU"))
            for name, state in zip(columns, row[1:], strict=True):
                other = int(name.removeprefix("GPU"))
                if one < other and state not in {"OK", "X"}:
                    pairs.append(f"{one}-{other}")
    return ", ".join(pairs)
