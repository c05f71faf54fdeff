"""Rules of loss, optimizer, freezing and parameter groups, and which settings an optimizer reads. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from sft.config.schema import Loss, Optimizer, TrainingConfig, WeightDecayOn
from sft.errors import Problem
from sft.parameter_choice import pattern_problem

_READ_BY = {
    "beta1": (Optimizer.adamw, Optimizer.lion, Optimizer.muon),
    "beta2": (Optimizer.adamw, Optimizer.lion, Optimizer.muon),
    "adam_epsilon": (Optimizer.adamw, Optimizer.muon),
}


def check_optimization(cfg: TrainingConfig) -> Iterator[Problem]:
    """Yield what is wrong between the settings of loss, optimizer, freezing and groups."""
    if cfg.loss is Loss.dft and cfg.label_smoothing:
        rule = "is of cross_entropy: training.loss=dft weights the target's probability alone"
        yield _problem("label_smoothing", cfg.label_smoothing, rule, "training.label_smoothing=0")
    yield from _optimizer(cfg)
    yield from _patterns(cfg)
    for key, value in _per_parameter(cfg).items():
        if cfg.fsdp.version == 1:
            rule = "needs FSDP2: FSDP1 trains a layer's parameters as one"
            yield _problem(key, value, rule, "training.fsdp.version=2")
    if cfg.fsdp.version == 1 and cfg.weight_decay and cfg.weight_decay_on is WeightDecayOn.matrices:
        rule = "needs FSDP2: FSDP1 trains a layer's parameters as one, and can't leave its norms out"
        yield _problem("weight_decay_on", "matrices", rule, "training.weight_decay_on=all, or training.fsdp.version=2")


def _optimizer(cfg: TrainingConfig) -> Iterator[Problem]:
    key, value = "optimizer", cfg.optimizer.value
    if cfg.optimizer is Optimizer.adamw_8bit:
        rule = "is not there yet: no full state of 8-bit blocks, torchao's or bitsandbytes', was resumed bit for bit"
        yield _problem(key, value, rule, "training.optimizer=adafactor, whose state is smaller still")
    elif cfg.optimizer is not Optimizer.adamw and cfg.fsdp.cpu_offload_params:
        rule = "is not run on parameters that wait in host memory"
        yield _problem(key, value, rule, "training.optimizer=adamw, or training.fsdp.cpu_offload_params=false")


def _per_parameter(cfg: TrainingConfig) -> dict[str, str]:
    """Return the settings that tell parameters of a layer apart."""
    chosen = {"optimizer": cfg.optimizer.value} if cfg.optimizer is not Optimizer.adamw else {}
    chosen |= {"freeze": str(cfg.freeze)} if cfg.freeze else {}
    return chosen | ({"parameter_groups": str([*cfg.parameter_groups])} if cfg.parameter_groups else {})


def _patterns(cfg: TrainingConfig) -> Iterator[Problem]:
    for pattern in cfg.freeze:
        if rule := pattern_problem(pattern):
            yield _problem("freeze", pattern, rule, "training.freeze=[embeddings,layers.0-11]")
    if cfg.freeze and cfg.lora.rank:
        rule = "is not read with adapters: every weight of the model is frozen then"
        yield _problem("freeze", str(cfg.freeze), rule, "training.freeze=[], or training.lora.rank=0")
    for name, group in cfg.parameter_groups.items():
        key = f"parameter_groups.{name}"
        is_set = group.learning_rate is not None or group.weight_decay is not None
        if rule := pattern_problem(group.match):
            yield _problem(f"{key}.match", group.match, rule, "*.mlp.*")
        if group.freeze and is_set:
            yield _problem(f"{key}.freeze", "true", "leaves nothing to train at a rate of its own", "false")
        elif not group.freeze and not is_set:
            rule = "must say what is different: learning_rate, weight_decay or freeze"
            yield _problem(f"{key}.match", group.match, rule, f"training.{key}.learning_rate={cfg.rate()}")
        if group.freeze and cfg.lora.rank:
            yield _problem(f"{key}.freeze", "true", "is not read with adapters: the model is frozen then", "false")


def _problem(key: str, value: object, rule: str, suggestion: str) -> Problem:
    return Problem(key=f"training.{key}", value=str(value), rule=rule, suggestion=f"try {suggestion}")


def unread_optimization(cfg: TrainingConfig) -> Iterator[str]:
    """Yield a line for each setting that the chosen optimizer does not read."""
    untouched = TrainingConfig()
    for key, readers in _READ_BY.items():
        value = getattr(cfg, key)
        if cfg.optimizer not in readers and value != getattr(untouched, key):
            by = ", ".join(reader.value for reader in readers)
            yield f"training.{key}={value}: not read with optimizer={cfg.optimizer.value}, but by {by}"
    decays = cfg.weight_decay or any(group.weight_decay for group in cfg.parameter_groups.values())
    if cfg.weight_decay_on is not untouched.weight_decay_on and not decays:
        yield f"training.weight_decay_on={cfg.weight_decay_on.value}: not read with training.weight_decay=0"
