"""How the values are read that several projects spell alike: batch, rates, optimizer, adapters, where data is."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

from sft.importing.rows import Found, Reader, Row, Source, as_number, by, is_off, missing, named, other, taken

_OPTIMIZERS = {
    **dict.fromkeys(("adamw_torch", "adamw_torch_fused", "adamw_hf", "adamw_apex_fused", "adamw"), "adamw"),
    **dict.fromkeys(("adafactor", "lion", "muon"), None),
    **dict.fromkeys(("lion_32bit", "lion_pytorch"), "lion"),
}
_SMALL_STATES = {
    **dict.fromkeys(("adamw_bnb_8bit", "adamw_8bit", "adamw_torch_8bit", "adamw_torch_4bit", "ao_adamw_8bit"), "adamw"),
    **dict.fromkeys(("paged_adamw", "paged_adamw_32bit", "paged_adamw_8bit", "ao_adamw_4bit", "ao_adamw_fp8"), "adamw"),
    **dict.fromkeys(("lion_8bit", "paged_lion_8bit", "paged_lion_32bit"), "lion"),
}
SCHEDULERS = (
    *("linear", "cosine", "cosine_with_restarts", "cosine_with_min_lr", "polynomial", "constant"),
    *("constant_with_warmup", "warmup_stable_decay"),
)


def batch(size: str, accumulation: str, packing: tuple[str, ...] = (), sharing: tuple[str, ...] = ()) -> Reader:
    """Return the reader of a batch size for each device.

    Args:
        size: Its key.
        accumulation: Key of how many such batches make a step.
        packing: Keys that make a batch one of packed rows.
        sharing: Keys of how many devices have the same samples; ``a|b`` = two names of one key.
    """

    def read(value: Any, source: Source) -> Found:
        each, times = as_number(value), source.number(accumulation)
        if each is None or times is None or each * times < 1 or not (each * times).is_integer():
            return missing(f"{size} x {accumulation} x devices is training.effective_batch_size: set it by hand")
        shared = math.prod(_most(source, keys.split("|")) for keys in sharing)
        if source.devices > 1 and source.devices % shared:
            return missing(f"{source.devices} devices are not divided by the {shared} that have the same samples there")
        num_batches = max(1, source.devices // shared)
        count = "1 device" if source.devices == 1 else f"{source.devices} devices"
        if shared > 1:
            count = f"{num_batches}, as {shared} devices have the same samples there"
        note = f"{size} {each:g} x {accumulation} {times:g} x {count}"
        if source.devices == 1:
            note += " (--devices N for N of them)"
        if any(source.get(key) is True for key in packing):
            note += "; there a row is packed with several samples, here each sample counts: more of them fit"
        return other({"training.effective_batch_size": int(each * times * num_batches)}, note)

    return read


def _most(source: Source, keys: list[str]) -> int:
    return max(1, *(int(source.number(key) or 1) for key in keys))


def schedule(value: Any, _: Source) -> Found:
    """Read the name of a schedule of transformers."""
    if value not in SCHEDULERS:
        return missing("training.lr_scheduler has no such schedule; the default, cosine, is taken")
    return taken({"training.lr_scheduler": value})


def schedule_arguments(rate: str, scheduler: str) -> Reader:
    """Return the reader of what schedules of transformers take besides their name.

    Args:
        rate: Key of the learning rate.
        scheduler: Key of the schedule.
    """
    names = {
        **{"num_cycles": "cycles", "min_lr": "min_learning_rate", "lr_end": "min_learning_rate", "power": "power"},
        "min_lr_rate": "min_learning_rate",
    }

    def read(value: Any, source: Source) -> Found:
        if is_off(value):
            return taken()
        if not isinstance(value, dict) or set(value) - set(names):
            return missing("training.schedule takes min_lr, min_lr_rate, lr_end, num_cycles and power, as a mapping")
        if "num_cycles" in value and source.get(scheduler) != "cosine_with_restarts":
            return missing("training.schedule.cycles is how often cosine_with_restarts falls to 0, and of no other")
        settings = {f"training.schedule.{names[key]}": item for key, item in value.items()}
        if "min_lr_rate" in value:
            settings["training.schedule.min_learning_rate"] = (as_number(value["min_lr_rate"]) or 0) * (
                source.number(rate) or 0
            )
        return taken(settings)

    return read


def warmup(scheduler: str, *, is_ratio: bool = False) -> Reader:
    """Return the reader of a warm-up in steps, or as a part of the steps; below 1 it is a part in any case.

    Args:
        scheduler: Key of the schedule.
        is_ratio: Whether it is a part.
    """

    def read(value: Any, source: Source) -> Found:
        size = as_number(value)
        if size is None:
            return missing("training.warmup_steps needs a number")
        if source.get(scheduler) == "constant":
            return taken({}, "a constant rate has no warm-up, there or here")
        if size == 0:
            return taken({}, "none")
        if is_ratio and (source.number("warmup_steps") or 0) > 0:
            return taken({}, "warmup_steps goes before it, there too")
        if is_ratio or size < 1:
            return taken({"training.schedule.warmup_ratio": size})
        return taken({"training.warmup_steps": int(size) if size.is_integer() else size})

    return read


def optimizer(value: Any, _: Source) -> Found:
    """Read the name of an optimizer of transformers."""
    if named(value, _OPTIMIZERS):
        return taken({"training.optimizer": _OPTIMIZERS[value] or value})
    if named(value, _SMALL_STATES):
        note = f"{_SMALL_STATES[value]} with whole states, which take more memory and are sharded over ranks"
        return other({"training.optimizer": _SMALL_STATES[value]}, note)
    return missing("training.optimizer has adamw, adafactor, lion and muon; adamw is taken")


def clipping(value: Any, _: Source) -> Found:
    """Read the largest norm of the gradients; 0 = any."""
    if as_number(value) == 0:
        return taken({"training.max_grad_norm": 1e30}, "gradients are left as they are")
    return taken({"training.max_grad_norm": value})


def precision(ours: str) -> Reader:
    """Return the reader of a switch for a type of arithmetic.

    Args:
        ours: What it is called here; `fp16` has no counterpart.
    """

    def read(value: Any, _: Source) -> Found:
        if is_off(value):
            return taken({}, "off")
        if ours == "fp16":
            return missing("training.precision is bf16 or fp32; auto takes what the machine is fast with")
        if value == "auto":
            return other({"training.precision": "auto"}, "bf16 where the machine is faster with it; weights stay fp32")
        return other({"training.precision": ours}, "forward and backward; weights and optimizer states stay fp32")

    return read


def fits(extra: str, is_raw: Callable[[Source], bool] = lambda _: False) -> Reader:
    """Return the reader of the greatest length of a sample in tokens.

    Args:
        extra: What becomes of longer conversations: `drop`, `truncate`, or `error`.
        is_raw: Whether a file trains raw text and nothing else.
    """
    how = {
        "drop": "longer conversations are left out and counted",
        "truncate": "a longer one is cut after the last turn that fits whole; there, at the token",
        "error": "a longer one is an error",
    }

    def read(value: Any, source: Source) -> Found:
        length = as_number(value)
        if length is None or not length.is_integer():
            return missing("training.max_seq_len needs a whole number")
        if is_raw(source):
            note = f"a text is divided, so that each token trains once: pieces of up to {int(length):,} tokens"
            return other({"training.max_seq_len": int(length) + 1}, note)
        settings = {"training.max_seq_len": int(length) + 1, "training.on_too_long": extra}
        return other(
            settings,
            f"samples of up to {int(length):,} tokens fit (max_seq_len is the first that does not); {how[extra]}",
        )

    return read


def of_adapters(is_on: Callable[[Source], bool]) -> Callable[..., Row]:
    """Return what makes rows of settings of adapters, which are nothing where none are trained.

    Args:
        is_on: Whether a file trains adapters.
    """

    def row(ours: str, read: Reader | None = None) -> Row:
        def guarded(value: Any, source: Source) -> Found:
            if not is_on(source):
                return taken({}, "no adapters are trained, so it says nothing there either")
            return read(value, source) if read else taken({ours: value})

        return by(ours, guarded)

    return row


def quantized(is_on: Callable[[Source], bool], kind: Callable[[Source], str] = lambda _: "nf4_double_quant") -> Reader:
    """Return what reads that the base model is kept in 4 bits.

    Args:
        is_on: Whether a file trains adapters.
        kind: Which `training.lora.quantize` it means; empty = one that is not here.
    """

    def read(value: Any, source: Source) -> Found:
        if is_off(value):
            return taken({}, "off, as here")
        if not is_on(source):
            return missing("a base model in 4 bits is for adapters (training.lora.quantize)")
        name = kind(source)
        return taken({"training.lora.quantize": name}) if name else missing("training.lora.quantize: nf4 in 4 bits")

    return read


def held_out(value: Any, _: Source) -> Found:
    """Read the share of the rows that is validated on."""
    part = as_number(value)
    if not part:
        return taken({}, "none")
    if part >= 1:
        return missing("training.validation_split is a share of the rows, not a number of them")
    return other({"training.validation_split": part}, "scored on the way, not trained")


def prompts(value: Any, _: Source) -> Found:
    """Read whether prompts count for the loss."""
    if value is True:
        return other({"training.train_on": "everything"}, "every token of a conversation but the first")
    return taken({"training.train_on": "all_turns"}, "each turn of the assistant")


def lora_init(value: Any, _: Source) -> Found:
    """Read what an adapter begins with, by peft's name."""
    known = {"gaussian", "orthogonal", "olora", "pissa", "pissa_niter_4", "pissa_niter_16"}
    if value is True or (isinstance(value, str) and value in known):
        return taken({"training.lora.init": "default" if value is True else value})
    return missing("training.lora.init has default, gaussian, orthogonal, olora and pissa")


def target_modules(value: Any, _: Source) -> Found:
    """Read which layers get adapters."""
    if value in ("all", "all-linear", True):
        return other({}, "every linear layer but the head: training.lora.target_modules is left null")
    names = [part.strip() for part in value.split(",")] if isinstance(value, str) else value
    if isinstance(names, list) and all(
        isinstance(name, str) and re.fullmatch(r"[A-Za-z0-9_]+", name) for name in names
    ):
        return taken({"training.lora.target_modules": names})
    return missing(
        "training.lora.target_modules takes last parts of names (q_proj), not patterns; null = every linear layer"
    )


def sharding(value: Any, _: Source) -> Found:
    """Read a file of DeepSpeed by its name, which says the stage."""
    text = str(value).lower()
    stage = next((int(n) for n in re.findall(r"(?:zero|z)_?([0-3])", text)), None)
    names = {0: "NO_SHARD", 1: "SHARD_GRAD_OP", 2: "SHARD_GRAD_OP", 3: "FULL_SHARD"}
    if stage is None or not isinstance(value, str):
        return missing("PyTorch's FSDP shards here (training.fsdp); a configuration of DeepSpeed isn't read")
    settings: dict[str, Any] = {"training.fsdp.sharding_strategy": names[stage]}
    if "offload" in text:
        settings["training.fsdp.cpu_offload_params"] = True
    return other(settings, f"ZeRO {stage} by the file's name, which isn't read: PyTorch's FSDP shards here")


def checkpointing(value: Any, _: Source) -> Found:
    """Read whether activations are computed again."""
    if isinstance(value, bool):
        return taken({"training.gradient_checkpointing": "full" if value else "none"})
    return other(
        {"training.gradient_checkpointing": "full"}, "activations are computed again, and not moved to the host"
    )
