"""What axolotl has and sft has not, with the reason or the nearest thing."""

from __future__ import annotations

from sft.importing.hugging_face import DDP, HUB, KERNELS, METHOD, PICTURES
from sft.importing.rows import Table, absent, differs, each

_QUANTIZED = "weights are trained in fp32 with bf16 arithmetic; `sft export RUN --to fp8` makes 8-bit weights"
_TRACKERS = "training.tracking.trackers has tensorboard, mlflow and wandb"
_OPTIMIZERS = "training.optimizer has adamw, adafactor, lion and muon"
_SCHEDULES = "training.lr_scheduler and training.schedule have transformers' schedules"
_ADAPTERS = "training.lora is LoRA: rank, alpha, dropout, target_modules"
_STREAMING = "data is read whole before training; dataset.max_samples takes a part"
_PRETRAINING = "raw text is dataset.format=text, read whole and divided at training.max_seq_len"
_PARALLEL = "training.fsdp shards, training.context_parallel shares rows: no tensor or expert parallelism"
_LOSSES = "training.loss is cross_entropy or dft; label_smoothing and z_loss besides"
_CLOUD = "training/launcher=kubeflow trains on a cluster; `sft export job` makes a Job"

ABSENT: Table = {
    **each(
        "rl trl vllm ebft reward_model process_reward_model center_rewards_coefficient num_labels dpo_use_weighting "
        "dpo_label_smoothing precompute_ref_log_probs dpo_use_liger_kernel dpo_padding_free dpo_loss_type "
        "dpo_loss_weights dpo_beta dpo_use_logits_to_keep dpo_generate_during_eval dpo_norm_loss rpo_alpha orpo_alpha "
        "simpo_gamma cpo_alpha kto_desirable_weight kto_undesirable_weight rl_beta max_prompt_len kd_trainer "
        "kd_ce_alpha kd_alpha kd_temperature kd_beta kd_normalize_topk kd_online_server_base_url kd_online_topk "
        "kd_online_server kd_online_timeout kd_temperature_min nemo_gym_enabled nemo_gym_dir nemo_gym_auto_clone "
        "nemo_gym_config_paths nemo_gym_head_port nemo_gym_server_timeout nemo_gym_verify_timeout "
        "nemo_gym_run_timeout nemo_gym_datasets nemo_gym_auto_start nemo_gym_model_name nemo_gym_multi_turn "
        "nemo_gym_max_turns diffusion hatchery trainer_cls cls_model_config",
        absent(METHOD),
    ),
    **each(
        "processor_type processor_kwargs image_size image_resize_algorithm role_boundaries freeze_mm_modules",
        absent(PICTURES),
    ),
    **each(
        "qat quantization fp8 fp8_enable_fsdp_float8_all_gather model_quantization_config "
        "model_quantization_config_kwargs use_onebitllms quantize_moe_experts gptq gptq_groupsize gptq_model_v1 "
        "gptq_disable_exllama bnb_config_kwargs llmcompressor nonexpert_quantization dsv4_fp8_nonexpert_mode "
        "dsv4_fp8_lora_kernel dsv4_shared_mlp_lora_kernel dsv4_bf16_all dsv4_fp4_grouped_mode gemma4_fp8_nonexpert "
        "gemma4_nf4_nonexpert nvfp4_merge_aware nvfp4_merge_aware_start_step torch_dtype",
        absent(_QUANTIZED),
    ),
    **each(
        "use_comet comet_api_key comet_workspace comet_project_name comet_experiment_key comet_mode comet_online "
        "comet_experiment_config use_trackio trackio_project_name trackio_run_name trackio_space_id use_swanlab "
        "swanlab_project swanlab_experiment_name swanlab_description swanlab_mode swanlab_workspace swanlab_api_key "
        "swanlab_log_model swanlab_web_host swanlab_api_host swanlab_lark_webhook_url swanlab_lark_secret "
        "swanlab_log_completions swanlab_completion_log_interval swanlab_completion_max_buffer use_otel_metrics "
        "otel_metrics_host otel_metrics_port project_name",
        absent(_TRACKERS),
    ),
    **each(
        "optim_args optim_target_modules torchdistx_path embedding_lr embedding_lr_scale adam_epsilon2 adam_beta3 "
        "dion_lr dion_momentum dion_rank_fraction dion_rank_multiple_of qgalore_rank qgalore_update_proj_gap "
        "qgalore_scale qgalore_proj_type qgalore_proj_quant qgalore_proj_bits qgalore_proj_group_size "
        "qgalore_cos_threshold qgalore_gamma_proj qgalore_queue_size grokfast_alpha grokfast_lamb lisa_n_layers "
        "lisa_step_interval lisa_layers_attribute spectrum_top_fraction spectrum_model_name",
        absent(f"{_OPTIMIZERS}; training.parameter_groups gives parts rates of their own"),
    ),
    "lr_groups": absent("training.parameter_groups: write names' patterns in the place of modules' names"),
    **each(
        "lr_quadratic_warmup cosine_constant_lr_ratio lr_div_factor eta_min jagged_restart_steps "
        "jagged_restart_warmup_steps jagged_restart_anneal_steps",
        absent(_SCHEDULES),
    ),
    **each(
        "lora_fan_in_fan_out lora_target_parameters "
        "peft_layers_pattern peft peft.loftq_config "
        "peft_layer_replication peft_trainable_token_indices "
        "peft_ensure_weight_tying peft_autocast_adapter_dtype qlora_sharded_model_loading lora_on_cpu "
        "loraplus_lr_ratio loraplus_lr_embedding relora relora_prune_ratio relora_prune_method relora_cpu_offload mora",
        absent(_ADAPTERS),
    ),
    **each("merge_lora merge_method", differs("adapters are merged at the end, and kept beside the model")),
    **each(
        "streaming streaming_multipack_buffer_size dataset_shard_num dataset_shard_idx num_dataset_shards_to_save "
        "curriculum_sampling min_sample_len",
        absent(_STREAMING),
    ),
    **each(
        "pretrain_multipack_buffer_size pretrain_multipack_attn pretraining_sample_concatenation "
        "max_packed_sequence_len use_pose pose_split_on_token_ids pose_max_context_len pose_num_chunks",
        absent(_PRETRAINING),
    ),
    **each(
        "dp_shard_size dp_replicate_size tensor_parallel_size expert_parallel_size expert_parallel_backend "
        "expert_parallel_num_nvl_bytes expert_parallel_num_rdma_bytes expert_parallel_token_capacity "
        "expert_parallel_fallback_on_unsupported heads_k_stride ring_attn_func",
        absent(_PARALLEL),
    ),
    **each(
        "scaling_softmax scaling_softmax_factor scaling_softmax_bias use_eaft eaft_alpha eaft_k "
        "liger_use_token_scaling",
        absent(_LOSSES),
    ),
    **each(
        "xformers_attn fused_attn_kernel flash_attn_cross_entropy flash_attn_fuse_mlp flash_attn_rms_norm "
        "flash_attn_d512 flex_attn_compile_kwargs gemma4_hybrid_attn_impl large_head_attention s2_attention "
        "experts_implementation lora_mlp_kernel lora_qkv_kernel lora_o_kernel lora_embedding_kernel "
        "chunked_cross_entropy chunked_cross_entropy_num_chunks cut_cross_entropy tiled_mlp tiled_mlp_num_shards "
        "tiled_mlp_use_original_mlp llama4_linearized_experts use_kernels expert_backend moe_grouped_backend "
        "moe_dequant_chunk_size moe_bnb_fast use_scattermoe use_sonicmoe use_dsv4_kernels use_glm_dsa_kernels "
        "dense_mixer torch_compile_backend torch_compile_mode torch_compile_options deepcompile",
        absent(KERNELS),
    ),
    **each(
        "selective_checkpointing activation_offloading layer_offloading",
        absent("training.gradient_checkpointing is none, selective or full; activations stay on the device"),
    ),
    **each(
        "accelerator_config ddp ddp_timeout ddp_bucket_cap_mb ddp_broadcast_buffers ddp_find_unused_parameters "
        "device device_map world_size local_rank fsdp_final_state_dict_type fp32_norms fp32_norm_classes "
        "low_cpu_mem_usage experimental_skip_move_to_device max_memory gpu_memory_limit",
        differs(DDP),
    ),
    **each(
        "use_ray ray_run_name ray_num_workers resources_per_worker provider gpu gpu_count node_count volumes secrets "
        "branch dockerfile_commands memory timeout memory_preprocess timeout_preprocess env run_name",
        absent(_CLOUD),
    ),
    **each("push_dataset_to_hub hub_model_id hub_strategy hub_revision hf_use_auth_token", absent(HUB)),
    **each(
        "do_causal_lm_eval eval_causal_lm_metrics do_bench_eval bench_dataset bench_split eval_table_size "
        "eval_max_new_tokens generate_samples num_generation_samples generation_max_new_tokens generation_temperature "
        "generation_top_p generation_top_k generation_prompt_ratio generation_do_sample lm_eval_batch_size "
        "lm_eval_post_train lm_eval_model",
        absent("eval scores the model before and after: lm-eval tasks, held-out rows, written answers"),
    ),
    **each(
        "batch_size auto_find_batch_size",
        absent("micro_batch_size x gradient_accumulation_steps is read: training.effective_batch_size"),
    ),
    **each(
        "resize_token_embeddings_to_32x mean_resizing_embeddings shrink_embeddings embeddings_skip_upcast "
        "reinit_weights added_tokens_overrides fix_untrained_tokens",
        absent("model.add_tokens adds tokens, which start as the mean of the others; else embeddings stay"),
    ),
    **each(
        "base_model_config tokenizer_config tokenizer_use_fast tokenizer_legacy tokenizer_use_mistral_common "
        "tokenizer_save_jinja_files overrides_of_model_config overrides_of_model_kwargs model_config rope_scaling "
        "base_model_ignore_patterns is_falcon_derived_model is_llama_derived_model is_mistral_derived_model "
        "is_qwen_derived_model",
        absent("tokenizer and architecture are the model's own"),
    ),
    "chat_template_jinja": absent("model.chat_template is a file: write the template there"),
    **each(
        "loss_watchdog_threshold loss_watchdog_patience", absent("a loss that is no number ends the run; no other does")
    ),
    **each("gc_steps gc_collect_steps torch_empty_cache_steps", absent("memory is planned before: sft plan")),
    **each("profiler_steps profiler_steps_start", absent("training.profile traces steps: first_step, num_steps")),
    **each(
        "gradio_title gradio_share gradio_server_name gradio_server_port gradio_max_new_tokens gradio_temperature",
        absent("`sft chat RUN` and `sft serve RUN`"),
    ),
    "debug": differs("sft --debug shows what it logs"),
    "full_finetune": differs("adapters are trained where training.lora.rank is above 0"),
    "save_first_step": absent("training.checkpoint_every_steps"),
    "dynamic_checkpoint": absent("SIGTERM saves the state and ends; the same command goes on"),
    "strict": differs("a key that is unknown is always refused"),
    "axolotl_config_path": differs("the record has the recipe"),
    "capabilities": differs("what the machine can is seen by sft itself"),
    "env_capabilities": differs("what the machine can is seen by sft itself"),
}
