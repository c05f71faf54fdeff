"""Which variables of this process its ranks and evaluations don't get: those that change numbers and stand in no key.

accelerate takes settings from ``ACCELERATE_`` and ``FSDP_`` variables, `ACCELERATE_GRADIENT_ACCUMULATION_STEPS` among
them; torch and the libraries of NVIDIA and Intel choose other arithmetic by others. A recipe that means one says it in
`training.env`, which is recorded and counts towards the key.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

_CHANGES_NUMBERS = re.compile(
    r"(ACCELERATE|FSDP|PARALLELISM_CONFIG|MEGATRON_LM|DEEPSPEED|NVTE|TORCHINDUCTOR|TORCHDYNAMO|TORCH_COMPILE|"
    r"TORCH_CUDNN|TORCH_MKLDNN|PYTORCH_TUNABLEOP|PYTORCH_TENSOREXPR)_\w+|"
    r"NVIDIA_TF32_OVERRIDE|TORCH_ALLOW_TF32_CUBLAS_OVERRIDE|TORCH_BLAS_PREFER_\w+|TORCH_LINALG_PREFER_\w+|"
    r"TORCH_ROCM_FA_PREFER_CK|TORCH_LINEAR_FLATTEN_3D|CUBLAS_WORKSPACE_CONFIG|FLASH_ATTENTION_DETERMINISTIC|"
    r"(ONEDNN|DNNL)_(DEFAULT_FPMATH_MODE|MAX_CPU_ISA|CPU_ISA_HINTS)|ATEN_CPU_CAPABILITY|"
    r"MKL_(CBWR\w*|ENABLE_INSTRUCTIONS|DISABLE_FAST_MM)|XLA_(USE|DOWNCAST)_BF16|PYTORCH_JIT|"
    r"TRANSFORMERS_SDPA_FORCE_GQA|USE_HUB_KERNELS",
    re.ASCII,
)
_CHANGES_NONE = ("_CACHE_DIR", "_COMPILE_THREADS", "_LOG_LEVEL", "_VERBOSE", "_DEBUG", "_CACHE_LIMIT")
"""Ends of names in these families that speak of caches and logs."""


def changing_numbers(names: Iterable[str], said: Collection[str]) -> list[str]:
    """Return the variables that change what a child computes and that nobody has said for it, in order.

    Args:
        names: Of this process's environment.
        said: Those that the recipe or sft sets for the child.
    """
    meant = (name for name in names if _CHANGES_NUMBERS.fullmatch(name) and not name.endswith(_CHANGES_NONE))
    return sorted(name for name in meant if name not in said)


def told(dropped: Collection[str], whom: str) -> str:
    """Return the line on variables that a child doesn't get."""
    return f"  not passed to {whom}, as they change numbers and stand in no key: {', '.join(dropped)}"
