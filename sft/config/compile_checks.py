"""Rules of compiled layers. Pure, as `checks` is."""

from __future__ import annotations

from collections.abc import Iterator

from sft.config.schema import Compile, TrainingConfig
from sft.errors import Problem


def check_compile(cfg: TrainingConfig) -> Iterator[Problem]:
    """Yield what can't be together with compiled layers."""
    if cfg.compile is Compile.none:
        return
    if cfg.fsdp.version == 1:
        yield _problem(
            "FSDP1 has one parameter for a whole layer, which torch.compile doesn't see through", "fsdp.version=2"
        )
    if cfg.deterministic:
        rule = "what is compiled depends on the shapes that come first, so a resumed run may round otherwise"
        yield _problem(f"not with training.deterministic=true: {rule}", "deterministic=false")
    if cfg.use_liger:
        yield _problem(
            "not with training.use_liger=true, whose kernels stand for the same operations", "use_liger=false"
        )
    if cfg.context_parallel > 1:
        yield _problem(
            f"not with training.context_parallel={cfg.context_parallel}: nobody has shown yet that ranks which share "
            "a row train the same with compiled layers",
            "context_parallel=1",
        )


def _problem(rule: str, instead: str) -> Problem:
    return Problem(
        key="training.compile",
        value=Compile.regional.value,
        rule=rule,
        suggestion=f"try training.{instead} or training.compile=none",
    )
