"""A recipe is data: nothing that it says, or that is typed, makes Hydra or a library run code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sft.config.compose import compose, find_recipe
from sft.config.hydra_app import split_flags
from sft.errors import ConfigError
from sft.sweep import spec

HEAD = "defaults: [config, override /dataset: synthetic, override /model: scratch, _self_]\n"
HYDRA = [
    "hydra: {callbacks: {x: {_target_: evil.Callback}}}",
    "hydra: {job: {env_set: {LD_PRELOAD: evil.so}}}",
    "hydra: {job_logging: {handlers: {x: {(): evil.Handler}}}}",
    "hydra: {hydra_logging: {formatters: {x: {(): evil.Formatter}}}}",
    "hydra: {launcher: null}",
    "hydra: {launcher: {_target_: evil.Launcher}}",
    "hydra: {sweeper: {_target_: evil.Sweeper}}",
    "hydra: {searchpath: ['pkg://evil']}",
    "hydra: {searchpath: ['file:///tmp']}",
    "hydra: {searchpath: ['${oc.env:HOME}']}",
    "hydra: {searchpath: '/tmp'}",
]


def recipe(folder: Path, body: str) -> str:
    file = folder / "attack.yaml"
    file.write_text(f"{HEAD}{body}\n", encoding="utf-8")
    (folder / "evil.py").write_text("open('ran', 'w').close()\n")
    return str(file)


@pytest.mark.parametrize("body", HYDRA)
def test_what_hydra_would_run_or_load_for_a_recipe_is_refused(body: str, tmp_path: Path) -> None:
    for read in (compose, lambda *args: spec.read(*args, asked=False)):
        with pytest.raises(ConfigError, match=r"hydra\.") as refused:
            read(find_recipe(recipe(tmp_path, body)), [])
        assert all("searchpath" in p.key or "leave it out" in str(p) for p in refused.value.problems)


@pytest.mark.parametrize(
    "override",
    [
        "+hydra.callbacks.x._target_=evil.Callback",
        "+hydra.job.env_set.LD_PRELOAD=evil.so",
        "+hydra.job_logging.handlers.x.class=evil.Handler",
        "hydra.launcher._target_=evil.Launcher",
        "++hydra.sweeper.sampler._target_=os.system",
        "++hydra.sweeper.custom_search_space=os.system",
        "++hydra.launcher.setup=[reboot]",
        "++hydra.launcher.additional_parameters={wrap: reboot}",
        "++hydra.launcher.comment='a\nreboot #'",
        "hydra.searchpath=[pkg://evil]",
        "+hydra.searchpath=[pkg://evil]",
        "+hydra.searchpath@_global_=[pkg://evil]",
        "+hydra/env=evil",
        "hydra.job.env_copy=[LD_PRELOAD]",
        "++hydra.sweeper.storage=redis://evil",
        "++hydra.sweeper.sampler={_target_: optuna.samplers.PartialFixedSampler, base_sampler: {_target_: os.system}}",
    ],
)
def test_what_hydra_would_run_or_load_for_an_override_is_refused(override: str) -> None:
    with pytest.raises(ConfigError, match=r"hydra\."):
        spec.read(find_recipe("quickstart"), [override], asked=True)


@pytest.mark.long
@pytest.mark.parametrize(
    "override",
    [
        *("hydra.output_subdir=.hydra", "hydra.run.dir=/tmp/x", "hydra.sweep.dir=/tmp/x", "hydra.sweep.subdir=x"),
        *("hydra.job.chdir=true", "hydra.job.name=../x", "hydra.verbose=true", "hydra.sweeper.params.x=1"),
        *("+hydra.foo=1", "+defaults=[x]"),
    ],
)
def test_what_hydra_would_write_elsewhere_or_leave_unread_is_refused(override: str) -> None:
    key = override.lstrip("+").partition("=")[0].removesuffix(".x")
    for read in (compose, lambda *args: spec.read(*args, asked=False)):
        with pytest.raises(ConfigError, match=rf"{key}\b"):
            read(find_recipe("quickstart"), [override])


def test_a_setting_that_names_a_class_is_refused_for_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\._target_=evil\.Model: names code to run.*leave it out"):
        compose(find_recipe(recipe(tmp_path, "model: {_target_: evil.Model}")), [])


def test_a_groups_file_beside_the_recipe_is_checked_too(tmp_path: Path) -> None:
    (tmp_path / "hydra" / "launcher").mkdir(parents=True)
    (tmp_path / "hydra" / "launcher" / "mine.yaml").write_text("_target_: evil.Launcher\n")
    own = recipe(tmp_path, "")
    Path(own).write_text("defaults: [config, override hydra/launcher: mine, _self_]\n")
    with pytest.raises(ConfigError, match=r"hydra\.launcher\._target_=evil\.Launcher: names code to run"):
        compose(find_recipe(own), [])


def test_a_folder_of_groups_beside_the_recipe_is_searched(tmp_path: Path) -> None:
    (tmp_path / "mine" / "training").mkdir(parents=True)
    (tmp_path / "mine" / "training" / "short.yaml").write_text("num_epochs: 7\n")
    own = recipe(tmp_path, "hydra: {searchpath: ['file://${recipe_dir:}/mine']}")
    Path(own).write_text(Path(own).read_text().replace("[config", "[config, override /training: short"))
    assert compose(find_recipe(own), []).training.num_epochs == 7


@pytest.mark.parametrize("flag", ["--config-dir", "--config-path", "--config-name", "--experimental-rerun", "-cd"])
def test_flags_that_would_compose_something_else_are_refused(flag: str) -> None:
    with pytest.raises(ConfigError, match="is not for sft"):
        split_flags([flag, "elsewhere"])


@pytest.mark.parametrize(
    "name",
    [
        *("PYTHONPATH", "PYTHONSTARTUP", "LD_PRELOAD", "LD_LIBRARY_PATH", "TRUST_REMOTE_CODE", "HF_HUB_OFFLINE"),
        *("NCCL_NET_PLUGIN", "OMP_TOOL_LIBRARIES", "UCX_MODULE_DIR", "FI_PROVIDER_PATH", "PATH", "TRITON_CACHE_DIR"),
        *("CUDA_INJECTION64_PATH", "WANDB__EXECUTABLE", "GCONV_PATH", "NCCL_CONF_FILE"),
    ],
)
def test_a_variable_that_loads_code_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"training\.env\.{name}: is not"):
        compose(find_recipe("quickstart"), [f"training.env.{name}=x"])


@pytest.mark.parametrize("name", ["A.B", "LD_PRELOAD=/evil.so;A", "A B", "PET_RUN_PATH", "PET_LOGS_SPECS"])
def test_what_torchrun_reads_or_no_shell_would_take_is_no_variable(name: str, tmp_path: Path) -> None:
    for allowed in ("false", "true"):
        own = recipe(tmp_path, f"training: {{allow_any_env: {allowed}, env: {{'{name}': x}}}}")
        with pytest.raises(ConfigError, match=r"no name of an env|a variable's name|is for torchrun to read"):
            compose(find_recipe(own), [])


@pytest.mark.parametrize("name", ["NCCL_DEBUG", "MALLOC_ARENA_MAX", "MALLOC_TRIM_THRESHOLD_", "OPENBLAS_NUM_THREADS"])
def test_a_variable_that_only_tunes_is_taken(name: str) -> None:
    assert compose(find_recipe("quickstart"), [f"training.env.{name}=1"]).training.env[name] == "1"


def test_a_person_may_say_that_any_variable_is_set_and_only_that_one_setting_trusts_a_models_code() -> None:
    allowed = "training.allow_any_env=true"
    assert compose(find_recipe("quickstart"), ["training.env.PYTHONPATH=x", allowed]).training.allow_any_env
    with pytest.raises(ConfigError, match=r"see model\.trust_remote_code"):
        compose(find_recipe("quickstart"), ["training.env.TRUST_REMOTE_CODE=1", allowed])


def test_which_gpus_are_seen_is_said_before_they_are_counted() -> None:
    with pytest.raises(ConfigError, match="CUDA_VISIBLE_DEVICES: comes too late: GPUs are counted before"):
        compose(find_recipe("quickstart"), ["training.env.CUDA_VISIBLE_DEVICES=1"])


def test_a_cluster_secret_names_no_variable_that_loads_code() -> None:
    cluster = ["training/launcher=kubeflow", "training.launcher.gpus_per_worker=0"]
    with pytest.raises(ConfigError, match=r"secrets=LD_PRELOAD: can make a rank load code"):
        compose(find_recipe("quickstart"), [*cluster, "training.launcher.secrets={s: [LD_PRELOAD, HF_TOKEN]}"])


@pytest.mark.parametrize(
    "override",
    [
        "eval.gen_kwargs.custom_generate=org/repo",
        "eval.gen_kwargs.trust_remote_code=true",
        "eval.model_args.worker_cls=evil.Worker",
        "eval.model_args.attn_implementation=org/kernel",
        "eval.model_args.logits_processors=evil",
        "eval.model_args.weights_only=false",
        "eval.model_args.use_safetensors=false",
        "eval.model_args.use_kernels=true",
        "eval.model_args.kernel_config={a: b}",
        "eval.model_args.experts_implementation=org/kernel",
        "eval.model_args.attn_implementation={text_config: org/kernel}",
        "eval.model_args.subfolder=elsewhere",
        "eval.model_args.variant=elsewhere",
        "eval.model_args.gguf_file=elsewhere.gguf",
        "eval.model_args.peft=org/adapter",
        "eval.model_args.kv_transfer_config={kv_connector_module_path: evil}",
    ],
)
def test_an_argument_with_which_a_library_loads_code_is_refused(override: str) -> None:
    with pytest.raises(ConfigError, match="would name code to load"):
        compose(find_recipe("quickstart"), [override])


@pytest.mark.slow
def test_a_module_in_the_working_folder_is_imported_by_nobody(tmp_path: Path) -> None:
    for name in ("random", "hydra_plugins", "yaml"):
        (tmp_path / f"{name}.py").write_text(f"open('ran-{name}', 'w').close()\n")
    command = [sys.executable, "-m", "sft", "plan", "quickstart"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert list(tmp_path.glob("ran-*")) == []
