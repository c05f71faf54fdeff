"""Which variables of this process are kept from the ranks."""

from __future__ import annotations

import pytest

from sft.adapters.os.inherited import changing_numbers


@pytest.mark.parametrize(
    "name",
    [
        *("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "ACCELERATE_MIXED_PRECISION", "FSDP_OFFLOAD_PARAMS"),
        *("NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "ONEDNN_DEFAULT_FPMATH_MODE"),
        *("DNNL_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY", "TORCHDYNAMO_DISABLE", "TORCHINDUCTOR_USE_FAST_MATH"),
        "CUBLAS_WORKSPACE_CONFIG",
    ],
)
def test_what_changes_numbers_is_kept_back_unless_it_was_said_for_the_ranks(name: str) -> None:
    assert changing_numbers([name, "HOME"], said={}) == [name]
    assert changing_numbers([name], said={name: "1"}) == []


@pytest.mark.parametrize(
    "name",
    [
        *("PATH", "HF_TOKEN", "NCCL_SOCKET_IFNAME", "WANDB_MODE", "OMP_NUM_THREADS", "PET_NODE_RANK"),
        *("TORCHINDUCTOR_CACHE_DIR", "TORCHINDUCTOR_COMPILE_THREADS", "ACCELERATE_LOG_LEVEL", "TORCHDYNAMO_VERBOSE"),
    ],
)
def test_logins_networks_and_caches_stay(name: str) -> None:
    assert changing_numbers([name], said={}) == []
