"""Which variables `training.env` may set, and which of them count towards a training's key.

May set: those that tune a library, none that makes it load something.

A variable can be code: PYTHONPATH, LD_PRELOAD, NCCL_NET_PLUGIN, OMP_TOOL_LIBRARIES and many more name files that a
process loads. So names are allowed, not forbidden.
"""

from __future__ import annotations

import re

_ALLOWED = re.compile(
    r"(NCCL|TORCH_NCCL|INSTRUCTLAB|GLOO|UCX|FI|OMP|KMP|MKL|DNNL|ONEDNN|WANDB|MLFLOW)_\w+|"
    r"CUDA_(VISIBLE_DEVICES|DEVICE_ORDER|DEVICE_MAX_CONNECTIONS|LAUNCH_BLOCKING|MODULE_LOADING|CACHE_MAXSIZE)|"
    r"CUBLAS_WORKSPACE_CONFIG|NVIDIA_TF32_OVERRIDE|NVTE_\w+|TOKENIZERS_PARALLELISM|GLIBC_TUNABLES|"
    r"MALLOC_(ARENA_\w+|\w+_)|(OPENBLAS|NUMEXPR|RAYON)_NUM_THREADS|"
    r"PYTORCH_(CUDA_)?ALLOC_CONF|PYTORCH_(NO_CUDA_MEMORY_CACHING|JIT)|"
    r"TORCH_(DISTRIBUTED_DEBUG|CPP_LOG_LEVEL|SHOW_CPP_STACKTRACES|ALLOW_TF32_CUBLAS_OVERRIDE|CUDNN_V8_API_LRU_CACHE_LIMIT)|"
    r"PYTHON(UNBUFFERED|FAULTHANDLER|HASHSEED)|TZ|LANG|LC_\w+|NO_COLOR",
    re.ASCII,
)
_LOADS = re.compile(
    r"PLUGIN|LIBRAR|LIBS?($|_)|PRELOAD|INJECT|TOOL|PROVIDER_PATH|MODULE_(DIR|PATH)|CONF_FILE|CONFIG_PATH|EXECUTABLE|"
    r"COMMAND|HOOK|^WANDB__|TRUST_REMOTE_CODE",
    re.ASCII,
)
"""What names of a family that tunes have in common if they load: NCCL_NET_PLUGIN, OMP_TOOL_LIBRARIES, …"""

_CHANGES_NO_NUMBERS = re.compile(
    r"(WANDB|MLFLOW|INSTRUCTLAB|GLOO|UCX|FI|LC|MALLOC|TORCH_NCCL)_\w*|"
    r"NCCL_(?!ALGO|PROTO|NTHREADS|\w*CHANNELS|\w*CTAS|NVLS|COLLNET|TREE)\w+|"
    r"CUDA_(DEVICE_ORDER|DEVICE_MAX_CONNECTIONS|LAUNCH_BLOCKING|MODULE_LOADING|CACHE_MAXSIZE)|"
    r"TOKENIZERS_PARALLELISM|GLIBC_TUNABLES|PYTORCH_(CUDA_)?ALLOC_CONF|PYTORCH_NO_CUDA_MEMORY_CACHING|"
    r"TORCH_(DISTRIBUTED_DEBUG|CPP_LOG_LEVEL|SHOW_CPP_STACKTRACES|CUDNN_V8_API_LRU_CACHE_LIMIT)|"
    r"TORCHINDUCTOR_(CACHE_DIR|COMPILE_THREADS)|PYTHON(UNBUFFERED|FAULTHANDLER|HASHSEED)|TZ|LANG|NO_COLOR",
    re.ASCII,
)
"""Of a variable that speaks of logs, trackers, memory, networks: who mends a network goes on from the same state."""

_LOADERS = re.compile(r"(LD|DYLD|PYTHON|JAVA|PERL5|RUBY)\w*|PATH|BASH_ENV|ENV|GCONV_PATH|SHELL|IFS|PS4", re.ASCII)


def may_load_code(name: str) -> bool:
    """Return whether a variable is not known to be harmless."""
    return _ALLOWED.fullmatch(name) is None or _LOADS.search(name) is not None


def may_change_numbers(name: str) -> bool:
    """Return whether a variable is not known to leave alone what a training computes."""
    return _CHANGES_NO_NUMBERS.fullmatch(name) is None


def is_loader(name: str) -> bool:
    """Return whether a variable is known to make programs load code."""
    return _LOADERS.fullmatch(name) is not None or _LOADS.search(name) is not None
