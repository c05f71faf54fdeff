"""The names of instructlab-training that sft replaces or relies on, each as it is in the pinned version.

A failure here after an upgrade means: read that place upstream, then mend ``sft/adapters/instructlab``.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Callable
from dataclasses import fields
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from sft.adapters.instructlab.settings import LIBRARY_VERSION, MainArgs

pytestmark = [
    # Warned while the library and what it pulls in are imported.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20"),
]
IL = "instructlab.training"
SIGNATURES = {
    f"{IL}.main_ds:main": "args",
    f"{IL}.main_ds:get_data_loader": "data_path batch_size max_tokens_per_gpu seed rank world_size dummy_sample "
    "num_workers flash_enabled pad_token_id pretraining_config validation_split",
    f"{IL}.main_ds:load_latest_full_state": "args accelerator",
    f"{IL}.main_ds:save_checkpoint": "args accelerator model tokenizer samples_seen is_lora epoch hf_format "
    "full_state global_step",
    f"{IL}.main_ds:compute_validation_loss": "model val_data_loader device",
    f"{IL}.batch_loss_manager:BatchLossManager._prepare_model_inputs": "self mb",
    f"{IL}.model:Model.compute_loss": "self inputs world_size samples_in_batch",
    f"{IL}.sampler:padded_mb_collate_fn": "minibatch batch_num_loss_counted_tokens pad_token_id",
    f"{IL}.sampler:batch_lengths_to_minibatches_padded": "batch_lengths max_tokens_per_rank num_ranks rank "
    "max_batch_size",
    f"{IL}.main_ds:train": "args model accelerator val_data_loader validation_frequency on_demand_checkpointing "
    "callback_manager",
    f"{IL}.main_ds:setup_metric_logger": "output_dir mlflow_tracking_uri mlflow_experiment_name mlflow_run_name "
    "wandb_project wandb_entity wandb_run_name tensorboard_log_dir",
    f"{IL}.main_ds:BatchLossManager.process_batch": "self batch interrupt_check",
    f"{IL}.sampler:EpochSampler.__iter__": "self",
    f"{IL}.sampler:EpochSampler.set_epoch": "self epoch",
    f"{IL}.model:Model.prepare_peft_model": "self gradient_checkpointing_kwargs mixed_precision",
    f"{IL}.utils:add_noisy_embeddings": "model noise_alpha",
    f"{IL}.utils:save_fsdp_lora_model": "args model tokenizer accelerator output_dir",
    f"{IL}.model:Model._enable_gradient_checkpointing_if_supported": "self",
    f"{IL}.model:Model._post_model_init": "self",
    f"{IL}.model:Model.supports_flash_attention": "device_id",
    f"{IL}.batch_loss_manager:BatchLossManager.__init__": "self model accelerator world_size local_rank "
    "callback_manager",
    f"{IL}.utils:set_random_seed": "seed",
    f"{IL}.accelerator:Accelerator.get_fsdp_config": "self",
    "accelerate:Accelerator.prepare": "self args device_placement",
    "accelerate:Accelerator.prepare_optimizer": "self optimizer device_placement",
    "accelerate:Accelerator.prepare_scheduler": "self scheduler",
    "accelerate:Accelerator.clip_grad_norm_": "self parameters max_norm norm_type",
    "torch.distributed.fsdp._state_dict_utils:_common_unshard_pre_state_dict_hook": "module fsdp_state offload_to_cpu "
    "rank0_only",
    "transformers.masking_utils:find_packed_sequence_indices": "position_ids",
    "torch.distributed.run:main": "args",
    "torch.distributed.fsdp._runtime_utils:_offload_grad": "state handle grad_to_offload",
    "torch.distributed.fsdp._flat_param:FlatParamHandle.prepare_gradient_for_backward": "self",
    "torch.distributed.distributed_c10d:_get_default_timeout": "backend",
}


def named(name: str) -> Any:
    module, _, path = name.partition(":")
    found = import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    return found


def test_the_library_is_the_version_that_was_read() -> None:
    assert version("instructlab-training") == LIBRARY_VERSION


@pytest.mark.parametrize("name", SIGNATURES)
def test_a_name_that_we_use_takes_the_arguments_that_we_know(name: str) -> None:
    assert list(inspect.signature(named(name)).parameters) == SIGNATURES[name].split(), f"{name} changed"


def test_every_setting_that_main_reads_is_one_of_ours() -> None:
    functions: list[Callable[..., Any]] = [
        named(f"{IL}.{name}")
        for name in ("main_ds:main", "main_ds:train", "utils:save_checkpoint", "utils:save_full_state")
    ] + [named(f"{IL}.utils:save_hf_format_accelerate"), named(f"{IL}.utils:load_latest_full_state")]
    read, made = set(), {"samples_seen"}  # the latter through args.__dict__
    for function in functions:
        for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(function)))):
            match node:
                case ast.Attribute(value=ast.Name(id="args"), attr=name, ctx=context):
                    (made if isinstance(context, ast.Store) else read).add(name)
                case ast.Call(
                    func=ast.Name(id="getattr"), args=[ast.Name(id="args"), ast.Constant(value=str(name)), _]
                ):
                    read.add(name)
    ours = {field.name for field in fields(MainArgs)}
    assert len(read) > 40
    assert read - made - {"__dict__", "lora_config"} <= ours  # lora.py replaces what reads lora_config


@pytest.mark.long
def test_upstreams_padded_packer_still_leaves_ranks_with_unequal_numbers_of_minibatches() -> None:
    pack = named(f"{IL}.padded_batch_packer:batch_lengths_to_minibatches_padded")
    counts = {len(pack([100, 100, 100], 128, 2, rank)) for rank in range(2)}
    assert len(counts) > 1, "trap 11 is mended upstream: see sft/adapters/instructlab/rank/minibatches.py"


def test_the_loss_is_still_taken_from_the_logits_of_every_token() -> None:
    source = inspect.getsource(named(f"{IL}.model:Model.compute_loss"))
    assert "shift_logits = logits[..., :-1, :].contiguous()" in source, "see sft/adapters/instructlab/rank/loss.py"


def test_a_padded_minibatch_is_padded_on_the_right() -> None:
    collate = named(f"{IL}.sampler:padded_mb_collate_fn")
    samples = [{"input_ids": [5] * n, "labels": [-100] * n, "num_loss_counted_tokens": 0} for n in (2, 3)]
    mask = collate(samples, 0)["attention_mask"].tolist()
    assert mask == [[1, 1, 0], [1, 1, 1]], "loss.py leaves the mask out, which is right for padding on the right only"


def test_the_loop_goes_through_the_places_where_ours_stands() -> None:
    source = inspect.getsource(named(f"{IL}.main_ds:train"))
    places = [
        "accelerator.train_loader.sampler.set_epoch(epoch)",
        "for batch in accelerator.train_loader:",
        "batch_loss_manager.process_batch(",
        "accelerator.take_optimizer_step()",
        "samples_seen += batch_metrics.total_samples",
        "if args.checkpoint_at_epoch:",
        "save_checkpoint(",
    ]
    at = [source.rindex(place) for place in places]
    assert at == sorted(at), "the order of a step has changed: see sft/adapters/instructlab/rank/loop.py"
    main = inspect.getsource(named(f"{IL}.main_ds:main"))
    assert main.index("get_data_loader(") < main.index("load_latest_full_state(") < main.rindex("train(")


def test_upstream_takes_the_optimizer_step_that_ours_replaces() -> None:
    body = inspect.getsource(named(f"{IL}.accelerator:Accelerator.take_optimizer_step")).split('"""')[-1].split()
    assert body == [
        "self.clip_grad_norm_(self.model.parameters(),",
        "1.0)",
        "self.optimizer.step()",
        "self.lr_scheduler.step()",
        "self.optimizer.zero_grad()",
    ]


def test_upstream_makes_the_schedule_by_a_name_that_sft_replaces() -> None:
    """rank/schedule.py takes these arguments and no other."""
    body = "".join(inspect.getsource(named(f"{IL}.accelerator:Accelerator.setup_lr_scheduler")).split())
    assert body.count("get_scheduler(name=lr_scheduler,optimizer=optimizer,num_warmup_steps=num_warmup_steps,") == 1
    assert "num_training_steps=num_epochs*len(self.train_loader)//self.grad_accum,)" in body
    assert inspect.getsource(import_module(f"{IL}.accelerator")).count("get_scheduler(") == 1


def test_upstream_makes_the_optimizer_by_a_name_that_sft_replaces() -> None:
    main = import_module(f"{IL}.main_ds")
    body = "".join(inspect.getsource(main.main).split())
    assert body.count("optimizer=setup_optimizer(model=m,") == 1
    assert "learning_rate=args.learning_rate,betas=(args.adamw_beta1,args.adamw_beta2)," in body
    assert "weight_decay=args.adamw_weight_decay,eps=args.adamw_eps,)" in body


def test_upstreams_loop_reads_of_a_batch_what_ours_says_of_it() -> None:
    source = inspect.getsource(named(f"{IL}.main_ds:train"))
    read = set(re.findall(r"batch_metrics\.(\w+)", source))
    ours = {"total_samples", "total_length", "num_loss_counted_tokens", "grad_accum_steps", "num_minibatches"}
    assert read == ours | {"interrupted"}
    assert "torch.cuda.empty_cache()" in source, "upstream has stopped it: fixes.patched_library"


def test_liger_is_a_model_class() -> None:
    assert named(f"{IL}.config:ModelTypes").LIGER.value == "Liger"
    assert named(f"{IL}.config:ModelTypes").CAUSALLM.value == "CausalLM"


def test_torch_forms_the_groups_of_hybrid_sharding_by_counting_devices_and_drops_those_of_one() -> None:
    source = inspect.getsource(import_module("torch.distributed.fsdp._init_utils"))
    assert "new_subgroups(num_devices_per_node)" in source
    assert "if state.world_size == 1:" in source, (
        "torch takes shard groups of one rank otherwise now: see planning/ranks.py"
    )


def test_the_library_takes_its_plugin_by_a_name_that_sft_replaces_and_gives_it_no_precision() -> None:
    source = inspect.getsource(named(f"{IL}.accelerator:Accelerator.get_fsdp_config"))
    assert "fsdp_plugin = FullyShardedDataParallelPlugin(" in source
    assert "mixed_precision_policy" not in source
    plugin = named("accelerate.utils:FullyShardedDataParallelPlugin")
    assert "mixed_precision_policy" in {field.name for field in fields(plugin)}


def test_accelerate_keeps_its_state_where_the_cpu_stand_in_changes_it() -> None:
    state = import_module("accelerate.state")
    assert isinstance(state.PartialState._shared_state, dict)
    source = inspect.getsource(state.AcceleratorState.__init__)
    assert "self.fsdp_plugin = fsdp_plugin" in source
    assert "fsdp_plugin.set_mixed_precision(self._mixed_precision)" in source


def test_main_asks_for_cuda_only_where_the_cpu_stand_in_answers() -> None:
    folder = Path(named(f"{IL}.main_ds:main").__code__.co_filename).parent
    asked = {
        name: sorted({line.strip() for line in (folder / f"{name}.py").read_text().splitlines() if "cuda" in line})
        for name in ("main_ds", "batch_loss_manager", "accelerator")
    }
    calls = {line for lines in asked.values() for line in lines if "torch.cuda." in line or "device(" in line}
    calls |= {line for lines in asked.values() for line in lines if ".cuda()" in line}
    assert calls == {
        '# device = torch.device("cuda", args.local_rank)',
        'self.torch_device = torch.device("cuda", local_rank)',
        "num_devices_per_node = torch.cuda.device_count()",  # for HYBRID_SHARD
        'torch_device = torch.device("cuda", local_rank)',
        "cuda_mem_allocated = torch.cuda.memory_allocated() / (1024**3)",
        'cuda_malloc_retries = torch.cuda.memory_stats()["num_alloc_retries"]',
        "torch.cuda.empty_cache()",
        'torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))',
        "tensor = torch.ByteTensor([False]).cuda()",
    }
