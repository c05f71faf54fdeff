"""Settings of LLaMA-Factory."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sft.importing import data_readers, llama_factory_data, readers
from sft.importing.hugging_face import ARGUMENTS, CACHE, CONTINUED, HUB, KERNELS, METHOD, PICTURES, SHOWN
from sft.importing.rows import (
    Found,
    Kind,
    Project,
    Row,
    Source,
    Table,
    absent,
    by,
    differs,
    each,
    is_off,
    missing,
    named,
    other,
    same,
    taken,
)

_ADAPTERS = "training.lora is LoRA: rank, alpha, dropout, target_modules"
_OPTIMIZERS = "training.optimizer has adamw, adafactor, lion and muon"
_SERVED = "`sft serve RUN`, `sft chat RUN` and `sft export RUN` are for a trained model"
_MEGATRON = "training.fsdp shards, training.context_parallel shares rows: no tensor, pipeline or expert parallelism"


def _has_adapters(source: Source) -> bool:
    return bool(source.get("finetuning_type") == "lora")


_lora = readers.of_adapters(_has_adapters)


def _kind(value: Any, _: Source) -> Found:
    if value == "lora":
        return taken({}, "training.lora.rank above 0")
    return taken({}, "every weight") if value == "full" else missing("training.lora, every weight, or training.freeze")


def _quantization(source: Source) -> str:
    """Return which `training.lora.quantize` is meant; empty = one that is not here."""
    is_nf4 = source.get("quantization_method") in (None, "bnb") and source.get("quantization_type") in (None, "nf4")
    if source.number("quantization_bit") != 4 or not is_nf4:
        return ""
    return "nf4" if source.get("double_quantization") is False else "nf4_double_quant"


def _pissa(value: Any, source: Source) -> Found:
    if is_off(value):
        return taken({}, "off")
    steps = source.number("pissa_iter") or 16
    name = {-1: "pissa", 4: "pissa_niter_4", 16: "pissa_niter_16"}.get(int(steps))
    return taken({"training.lora.init": name}) if name else missing("training.lora.init: pissa_niter_4 or _16")


def _whole(value: Any, _: Source) -> Found:
    names = [part.strip() for part in value.split(",")] if isinstance(value, str) else value
    return taken({"training.lora.modules_to_save": names})


def _stage(value: Any, _: Source) -> Found:
    if value == "pt":
        return other({}, data_readers.RAW)
    return taken({}, "supervised fine-tuning") if value == "sft" else missing(METHOD)


def _is_raw(source: Source) -> bool:
    return bool(source.get("stage") == "pt")


def _last(value: Any, _: Source) -> Found:
    return taken({"training.train_on": "last_turn"} if value is True else {})


def _mix(value: Any, _: Source) -> Found:
    settings: dict[str, dict[str, Any]] = {
        "concat": {},
        "interleave_under": {"dataset.mixing": "proportional", "dataset.stop": "first_exhausted"},
        "interleave_over": {"dataset.mixing": "proportional", "dataset.stop": "all_exhausted"},
    }
    return taken(settings[value]) if named(value, settings) else missing("dataset.mixing and dataset.stop")


def _samples(value: Any, source: Source) -> Found:
    names = llama_factory_data.names(source.get("dataset") or "x", source).settings
    prefixes = dict.fromkeys(key.removesuffix("uri") for key in names if key.endswith("uri"))
    settings = {f"{prefix}max_samples": value for prefix in prefixes}
    return other(settings, "a seeded part of each dataset; there its first rows")


def _switch(settings: dict[str, Any], note: str = "") -> Row:
    def read(value: Any, _: Source) -> Found:
        return taken({}, "off") if is_off(value) else taken(settings, note)

    return by(", ".join(settings), read)


def _recomputes(value: Any, _: Source) -> Found:
    if not isinstance(value, bool):
        return missing("training.gradient_checkpointing")
    return taken({"training.gradient_checkpointing": "none" if value else "full"})


def _added(kind: str) -> Row:
    def read(value: Any, _: Source) -> Found:
        texts = [part.strip() for part in value.split(",")] if isinstance(value, str) else value
        return taken({f"model.add_tokens.{kind}": texts})

    return by(f"model.add_tokens.{kind}", read)


_ROWS: Table = {
    **ARGUMENTS,
    "model_name_or_path": same("model.name_or_path"),
    "model_revision": same("model.revision"),
    "trust_remote_code": same("model.trust_remote_code"),
    "dataset": by(
        "dataset.uri", llama_factory_data.names, "names in a dataset_info.json, which is read where it is", Kind.DIFFERS
    ),
    "dataset_dir": differs("where dataset_info.json is looked for; paths start where the command is run"),
    "mix_strategy": by("dataset.mixing", _mix),
    "interleave_probs": by("dataset.sources.NAME.weight", llama_factory_data.parts),
    "max_samples": by("dataset.max_samples", _samples, "there of the first rows", Kind.DIFFERS),
    "eval_dataset": by(
        "eval.holdouts, training.validation_sets", llama_factory_data.tests, data_readers.SCORED_TOO, Kind.DIFFERS
    ),
    "eval_on_each_dataset": differs("each set is validated and scored by itself", "training.validation_sets"),
    "template": differs("the model's own chat template; model.chat_template=FILE is another", "model.chat_template"),
    "cutoff_len": by(
        "training.max_seq_len",
        readers.fits("truncate", _is_raw),
        "here the first length that does not fit",
        Kind.DIFFERS,
    ),
    "default_system": same("dataset.system_prompt"),
    "enable_thinking": differs(
        "model.chat_template_kwargs has enable_thinking, where a template reads it", "model.chat_template_kwargs"
    ),
    "preserve_thinking": differs("what the model's template does", "model.chat_template_kwargs"),
    "tool_format": differs("the model's own template writes tools"),
    "train_on_prompt": by("training.train_on", readers.prompts),
    "mask_history": by("training.train_on", _last),
    "val_size": by("training.validation_split", readers.held_out, "a share that is scored on the way", Kind.DIFFERS),
    **each("packing neat_packing", differs("always: samples share a row and never see each other")),
    **each("streaming buffer_size", absent("data is read whole before training")),
    **each(
        "overwrite_cache preprocessing_batch_size preprocessing_num_workers tokenized_path data_shared_file_system "
        "cache_dir",
        differs(CACHE),
    ),
    "ignore_pad_token_for_loss": differs("there is no padding that could count"),
    "finetuning_type": by("training.lora", _kind),
    "stage": by("", _stage, METHOD),
    "lora_rank": _lora("training.lora.rank"),
    "lora_alpha": _lora("training.lora.alpha"),
    "lora_dropout": _lora("training.lora.dropout"),
    "use_rslora": _lora("training.lora.use_rslora"),
    "use_dora": _lora("training.lora.use_dora"),
    "pissa_init": _lora("training.lora.init", _pissa),
    "additional_target": _lora("training.lora.modules_to_save", _whole),
    "adapter_name_or_path": CONTINUED,
    "lora_target": _lora("training.lora.target_modules", readers.target_modules),
    **each(
        "loraplus_lr_ratio loraplus_lr_embedding pissa_iter "
        "pissa_convert create_new_adapter module_dropout oft_rank oft_block_size oft_target "
        "adapter_folder",
        absent(_ADAPTERS),
    ),
    **each("quantization_bit", by("training.lora.quantize", readers.quantized(_has_adapters, _quantization))),
    **each(
        "quantization_method quantization_type double_quantization quantization_device_map",
        differs("with quantization_bit"),
    ),
    **each(
        "freeze_trainable_layers freeze_trainable_modules freeze_extra_modules",
        absent("training.freeze names what is not trained, in the place of what is: layers.0-11, embeddings"),
    ),
    "use_muon": _switch({"training.optimizer": "muon"}),
    "use_dft_loss": _switch({"training.loss": "dft"}),
    **each("use_asft_loss asft_alpha use_eaft_loss eaft_alpha", absent("training.loss is cross_entropy or dft")),
    "pure_bf16": by("training.precision", readers.precision("bf16"), "weights stay fp32 here", Kind.DIFFERS),
    **each("fp8 fp8_backend fp8_enable_fsdp_float8_all_gather", absent("training.precision is bf16 or fp32")),
    "flash_attn": differs("training.attention=auto takes the fastest that there is", "training.attention"),
    "enable_liger_kernel": same("training.use_liger"),
    "disable_gradient_checkpointing": by("training.gradient_checkpointing", _recomputes),
    "use_reentrant_gc": differs("activations are always checkpointed without reentrance"),
    "add_tokens": _added("plain"),
    "add_special_tokens": _added("special"),
    **each(
        "resize_vocab new_special_tokens_config init_special_tokens split_special_tokens use_fast_tokenizer",
        differs(
            "model.add_tokens adds tokens, which start as the mean of the others; else the tokenizer is the model's"
        ),
    ),
    **each(
        "rope_scaling shift_attn mixture_of_depths moe_aux_loss_coef block_diag_attn",
        absent("the architecture is the model's own"),
    ),
    **each("model_max_length", differs("training.max_seq_len")),
    "train_from_scratch": absent("model=scratch makes a small model of random weights"),
    **each("use_unsloth use_unsloth_gc use_v1_kernels", absent(KERNELS)),
    **each(
        "low_cpu_mem_usage device_map compute_dtype infer_dtype upcast_layernorm upcast_lmhead_output "
        "print_param_status offload_folder",
        differs("weights are fp32 in training, and each rank loads its part"),
    ),
    **each(
        "compute_accuracy predict_with_generate sortish_sampler generation_max_length generation_num_beams "
        "generation_config",
        differs("eval scores held-out rows before and after: token accuracy, written answers"),
    ),
    "disable_shuffling": absent("each epoch has an order of its own, by training.seed"),
    **each("plot_loss include_effective_tokens_per_second", differs(SHOWN)),
    **each(
        "use_swanlab swanlab_project swanlab_workspace swanlab_run_name swanlab_mode swanlab_api_key swanlab_logdir "
        "swanlab_lark_webhook_url swanlab_lark_secret",
        absent("training.tracking.trackers has tensorboard, mlflow and wandb"),
    ),
    **each(
        "use_galore galore_target galore_rank galore_update_interval galore_scale galore_proj_type galore_layerwise "
        "use_apollo apollo_target apollo_rank apollo_update_interval apollo_scale apollo_proj apollo_proj_type "
        "apollo_scale_type apollo_layerwise apollo_scale_front use_badam badam_mode badam_start_block "
        "badam_switch_mode badam_switch_interval badam_update_ratio badam_mask_mode badam_verbose use_adam_mini "
        "use_llama_pro",
        absent(_OPTIMIZERS),
    ),
    **each(
        "pref_beta pref_ftx pref_bco_weight pref_loss dpo_label_smoothing kto_chosen_weight kto_rejected_weight "
        "simpo_gamma ppo_buffer_size ppo_epochs ppo_score_norm ppo_target ppo_whiten_rewards ref_model "
        "ref_model_adapters ref_model_quantization_bit reward_model reward_model_adapters "
        "reward_model_quantization_bit reward_model_type ld_alpha",
        absent(METHOD),
    ),
    **each(
        "media_dir freeze_vision_tower freeze_multi_modal_projector freeze_language_model image_max_pixels "
        "image_min_pixels image_do_pan_and_scan crop_to_patches video_max_pixels video_min_pixels video_fps "
        "video_maxlen use_audio_in_video audio_sampling_rate",
        absent(PICTURES),
    ),
    **each(
        "use_mca use_megatron_bridge megatron_bridge_args use_hyper_parallel hyper_parallel_args "
        "hyper_parallel_cp_size use_kt kt_config kt_cpu_activation kt_weight_path kt_non_expert_weight_path "
        "kt_expert_checkpoint_path kt_use_lora_experts kt_lora_expert_num kt_lora_expert_intermediate_size",
        absent(_MEGATRON),
    ),
    **each(
        "infer_backend use_kv_cache vllm_maxlen vllm_gpu_util vllm_enforce_eager vllm_max_lora_rank vllm_config "
        "sglang_maxlen sglang_mem_fraction sglang_tp_size sglang_config sglang_lora_backend export_dir export_size "
        "export_device export_quantization_bit export_quantization_dataset export_quantization_nsamples "
        "export_quantization_maxlen export_legacy_format export_hub_model_id do_sample temperature top_p top_k "
        "num_beams eval_num_beams max_length max_new_tokens repetition_penalty length_penalty skip_special_tokens",
        absent(_SERVED),
    ),
    **each("hf_hub_token ms_hub_token om_hub_token", absent(HUB)),
    **each(
        "ray_num_workers ray_init_kwargs master_addr master_port",
        absent("training.launcher: machines that train together, or a TrainJob"),
    ),
    **each(
        "enable_torch_profiler profiler_output_dir profiler_wait_steps profiler_warmup_steps profiler_active_steps "
        "profiler_repeat profiler_record_shapes profiler_profile_memory profiler_with_stack profile_modules",
        absent("training.profile traces steps: first_step, num_steps"),
    ),
}


def _with_alpha(source: Source) -> Source:
    """Fill in an alpha that is twice the rank where it says none."""
    rank = source.number("lora_rank")
    more = {"lora_alpha": int(rank * 2)} if rank else {}
    return replace(source, defaults={**source.defaults, **more})


def _no_sft(source: Source) -> str | None:
    return None if source.get("stage") in (None, "sft", "pt") else "stage"


def _prepared(source: Source) -> Source:
    """Fill in what adapters have where a file says nothing, and the sets that it validates."""
    if sets := source.get("eval_dataset"):
        source = data_readers.validating(source, llama_factory_data.tests(sets, source))
    return _with_alpha(source)


LLAMA_FACTORY = Project(
    name="llama-factory",
    title="LLaMA-Factory",
    rows=_ROWS,
    defaults={
        **{"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1, "num_train_epochs": 3.0},
        **{"learning_rate": 5e-5, "lr_scheduler_type": "linear", "optim": "adamw_torch", "weight_decay": 0.0},
        **{"adam_beta1": 0.9, "adam_beta2": 0.999, "adam_epsilon": 1e-8, "max_grad_norm": 1.0, "seed": 42},
        **{"cutoff_len": 2048, "finetuning_type": "lora", "lora_rank": 8, "lora_dropout": 0.0, "lora_target": "all"},
    },
    tells=frozenset(
        [
            "finetuning_type",
            "stage",
            "template",
            "cutoff_len",
            "dataset_dir",
            "plot_loss",
            "overwrite_cache",
            "lora_rank",
            "lora_target",
            "preprocessing_num_workers",
        ]
    ),
    prepare=_prepared,
    refuses=_no_sft,
)
