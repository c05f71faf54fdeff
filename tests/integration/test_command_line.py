"""What a person types and what comes back: exit codes, messages, Hydra's flags, plans. Nothing is trained.

A command runs in this process unless a process shows something that this one does not: then the test says what.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import entry_points, version
from pathlib import Path

import pytest

from sft import __version__, self_hashed_json
from sft.__main__ import main
from sft.artifacts import ModelArtifact
from sft.errors import StageError
from tests.support.command import Answer, records, sft, sft_in_process, start, steps

ROW = json.dumps({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]})
LOCAL = ["quickstart", "dataset=local"]


def test_help_answers_and_python_runs_the_module(tmp_path: Path) -> None:
    assert "sft run quickstart" in sft_in_process("--help", cwd=tmp_path).out
    assert sft("--version", cwd=tmp_path) == Answer(status=0, out=f"sft {__version__}\n", err="")


@pytest.mark.parametrize("columns", ["80", "120"])
def test_no_line_of_the_help_is_wider_than_the_terminal(columns: str, tmp_path: Path) -> None:
    lines = sft("--help", cwd=tmp_path, COLUMNS=columns).out.splitlines()
    assert max(map(len, lines)) <= int(columns)
    assert "  sft run quickstart" in [line.partition("   ")[0].rstrip() for line in lines]


def test_the_installed_command_is_what_python_runs() -> None:
    [script] = entry_points(group="console_scripts", name="sft")
    assert script.load() is main


@pytest.mark.long
@pytest.mark.parametrize("command", [["--help"], ["plan", "quickstart"]], ids=lambda words: words[0])
def test_a_pipe_that_nobody_reads_on_is_no_error_to_show(command: list[str], tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        process = subprocess.run(
            [sys.executable, "-m", "sft", *command], cwd=tmp_path, stdout=writer, stderr=subprocess.PIPE, check=False
        )
    finally:
        os.close(writer)
    assert process.stderr == b""


def test_a_terminal_that_knows_ascii_alone_shows_a_plan(tmp_path: Path) -> None:
    answer = sft("plan", "quickstart", cwd=tmp_path, PYTHONIOENCODING="ascii")
    assert (answer.status, answer.err) == (0, "")
    assert "will run" in answer.out


@pytest.mark.long
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 75), (signal.SIGHUP, 75)], ids=str
)
def test_a_signal_ends_a_command_with_its_status_and_a_sentence(
    number: signal.Signals, status: int, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(60)
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}/rows.jsonl"
        with start("data", "check", uri, cwd=tmp_path) as command:
            connection, _ = silent.accept()  # the command waits for its answer
            command.send_signal(number)
            assert command.stdout is not None
            text = command.stdout.read()
        connection.close()
    assert command.returncode == status
    assert text.endswith("the same command continues\n")
    assert "Traceback" not in text


def test_recipes_are_listed_with_their_purpose(tmp_path: Path) -> None:
    answer = sft_in_process("recipes", cwd=tmp_path)
    assert answer.status == 0
    assert re.search("^quickstart +Spell out numbers", answer.out, re.MULTILINE)


@pytest.mark.parametrize(("call", "command"), [(sft, "run"), (sft_in_process, "plan")], ids=["run", "plan"])
def test_a_wrong_key_exits_with_2_and_leaves_nothing(call: Callable[..., Answer], command: str, tmp_path: Path) -> None:
    answer = call(command, "quickstart", "training.lerning_rate=1", cwd=tmp_path)
    assert answer.status == 2
    assert answer.err == (
        "error: configuration: 1 problem\n"
        "  - training.lerning_rate=1: no such setting; did you mean training.learning_rate?\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_with_one_wrong_value_runs_no_job(tmp_path: Path) -> None:
    answer = sft_in_process("run", "quickstart", "-m", "training.num_epochs=1,none", cwd=tmp_path)
    assert answer.status == 2
    assert "training.num_epochs=none: must be a number" in answer.err
    assert list(tmp_path.iterdir()) == []


def test_a_broken_line_exits_with_1_and_names_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(f'{ROW}\n{ROW}\n{{"messages": [\n')
    answer = sft("run", *LOCAL, "dataset.uri=rows.jsonl", cwd=tmp_path)
    assert answer.status == 1
    assert "rows.jsonl:3: not-json" in answer.err
    assert "Traceback" not in answer.err
    [record] = records(tmp_path / "runs")
    assert record["status"] == steps(record)["dataset"]["status"] == "failed"
    [run_log] = tmp_path.glob("runs/*/run.log")
    assert "the run ends here\nTraceback" in run_log.read_text(encoding="utf-8")
    assert "rows.jsonl:3" in steps(record)["dataset"]["error"]
    assert not list((tmp_path / "runs" / "store").glob("dataset/*"))


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    answer = sft("--debug", "run", *LOCAL, "dataset.uri=nowhere.jsonl", cwd=tmp_path)
    assert answer.status == 1
    assert "Traceback" in answer.err


def test_every_job_of_a_sweep_is_tried_and_the_failed_ones_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    answer = sft_in_process("run", *LOCAL, "-m", "dataset.uri=empty.jsonl,nowhere.jsonl", cwd=tmp_path)
    assert answer.status == 1
    assert "no row" in answer.err
    assert "nowhere.jsonl: No such file" in answer.err
    assert "failed: 1: dataset.uri=empty.jsonl\nfailed: 2: dataset.uri=nowhere.jsonl" in answer.out


@pytest.mark.long
@pytest.mark.parametrize(
    ("removed", "said"),
    [
        (["tokenizer.json"], "no tokenizer in"),
        (["chat_template.jinja"], "no chat template"),
        (["model.safetensors"], "no model.safetensors nor model.safetensors.index.json"),
        (["config.json"], "no config.json"),
    ],
)
def test_a_model_folder_that_lacks_something_is_refused_before_training(
    removed: list[str], said: str, tiny_model: ModelArtifact, tmp_path: Path
) -> None:
    shutil.copytree(tiny_model.model_dir, tmp_path / "model")
    for name in removed:
        (tmp_path / "model" / name).unlink()
    answer = sft_in_process("run", "quickstart", "model=hub", "model.name_or_path=model", cwd=tmp_path)
    assert answer.status == 1
    assert "model.name_or_path=model" in answer.err
    assert said in answer.err
    assert "try: " in answer.err


def test_weights_that_transformers_would_pass_over_for_pickled_ones_are_refused(
    tiny_model: ModelArtifact, tmp_path: Path
) -> None:
    shutil.copytree(tiny_model.model_dir, tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    weights.rename(weights.with_name("other.safetensors"))
    (tmp_path / "model" / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    answer = sft_in_process("run", "quickstart", "model=hub", "model.name_or_path=model", cwd=tmp_path)
    assert answer.status == 1
    assert "pickled weights are not loaded, they can run code" in answer.err
    assert not (tmp_path / "ran").exists()


@pytest.mark.long
@pytest.mark.parametrize(
    ("shard", "said"),
    [
        ("../outside.safetensors", "names ../outside.safetensors, which is not a safetensors file beside it"),
        ("model-1.bin", "names model-1.bin, which is not a safetensors file beside it"),
        ("model-1.safetensors", "model-1.safetensors is missing, which model.safetensors.index.json names"),
    ],
)
def test_an_index_names_safetensors_files_beside_it_only(
    shard: str, said: str, tiny_model: ModelArtifact, tmp_path: Path
) -> None:
    shutil.copytree(tiny_model.model_dir, tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    weights.rename(tmp_path / "outside.safetensors")
    (tmp_path / "model" / "model-1.bin").touch()
    weights.with_name("model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))
    answer = sft_in_process("run", "quickstart", "model=hub", "model.name_or_path=model", cwd=tmp_path)
    assert answer.status == 1
    assert said in answer.err


def test_an_architecture_that_cannot_be_trained_is_refused_by_the_plan(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    config = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    answer = sft("plan", "quickstart", "model=hub", "model.name_or_path=model", cwd=tmp_path)
    assert answer.status == 1
    assert "model.name_or_path=model: config.json: architectures=GPT2LMHeadModel" in answer.err


@pytest.mark.long
def test_weights_that_are_not_those_of_the_architecture_are_refused_before_training(
    tiny_model: ModelArtifact, tmp_path: Path
) -> None:
    shutil.copytree(tiny_model.model_dir, tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 4}))
    answer = sft("run", "quickstart", "model=hub", "model.name_or_path=model", cwd=tmp_path)
    assert answer.status == 1
    assert "config.json says num_hidden_layers=4, the weights have 2: set it to theirs" in answer.err
    assert "24 missing, which would be random: model.layers.2.input_layernorm.weight" in answer.err


def test_a_run_needs_a_recipe_or_a_record(tmp_path: Path) -> None:
    answer = sft_in_process("run", cwd=tmp_path)
    assert answer.status == 2
    assert "sft run: needs a recipe; type `sft run quickstart`, or `sft init FILE` for your own data" in answer.err
    assert "no run.json and no sft.json there" in sft_in_process("run", "--from", ".", cwd=tmp_path).err


def test_a_command_that_is_not_there_is_refused_with_the_nearest(tmp_path: Path) -> None:
    answer = sft("comprae", "runs", cwd=tmp_path)
    assert (answer.status, answer.err.splitlines()[1:]) == (
        2,
        ["  - sft comprae: no such command; did you mean compare?"],
    )
    assert "sft zzz: no such command; `sft --help` lists them" in sft("zzz", cwd=tmp_path).err


def test_a_run_that_is_not_there_is_not_looked_for_on_the_hub(tmp_path: Path) -> None:
    (tmp_path / "runs" / "lamps-1a2b3c4d").mkdir(parents=True)
    (tmp_path / "runs" / "lamps-1a2b3c4d" / "run.json").touch()
    for arguments in (
        ("chat", "runs/lamps-1a2b"),
        ("chat", "runs/lamps-1a2b", "--base"),
        ("verify", "runs/lamps-1a2b"),
    ):
        answer = sft_in_process(*arguments, cwd=tmp_path)
        assert (answer.status, "did you mean runs/lamps-1a2b3c4d?" in answer.err) == (1, True), answer.err
        assert "hub" not in answer.err


@pytest.mark.long
def test_a_record_is_repeated_with_its_settings_and_says_which_versions_differ(tmp_path: Path) -> None:
    broken = ["model=hub", f"model.name_or_path={tmp_path}", "dataset.seed=7"]
    assert sft_in_process("run", "quickstart", *broken, cwd=tmp_path).status == 1
    [run] = tmp_path.glob("runs/quickstart-*")
    facts = self_hashed_json.load_checked((run / "run.json").read_bytes())
    facts["versions"] |= {"torch": "0.1", "gone": "2"}
    (run / "run.json").write_bytes(self_hashed_json.dump_with_digest(facts))
    again = sft_in_process("run", "--from", str(run), cwd=tmp_path)
    assert again.status == 1  # as it failed before
    assert "= dataset: done before" in again.out
    assert f"other versions than recorded: gone 2 → absent, torch 0.1 → {version('torch')}\n" in again.out
    [group] = sft_in_process("run", "--from", str(run), "eval=none", cwd=tmp_path).err.splitlines()[1:]
    assert group == "  - eval: a record sets every value of this group; override its settings one by one"


def test_a_record_that_was_changed_is_not_repeated(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_bytes(self_hashed_json.dump_with_digest({"config": {}}).replace(b"config", b"konfig"))
    answer = sft_in_process("run", "--from", str(tmp_path), cwd=tmp_path)
    assert answer.status == 1
    assert "run.json: was changed: its digest is" in answer.err


def test_a_hub_that_is_away_is_said_in_one_line(tmp_path: Path) -> None:
    with socket.socket() as nobody:  # bound, never listening
        nobody.bind(("127.0.0.1", 0))
        away = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        arguments = ["run", "quickstart", "model=hub", "model.name_or_path=org/name"]
        # A process: huggingface_hub reads these when it is imported.
        answer = sft(*arguments, cwd=tmp_path, HF_ENDPOINT=away, HF_HOME=str(tmp_path / "hub"))
    assert answer.status == 1
    assert (
        "model org/name: no such path here, no complete copy in the cache, and the hub can't be reached" in answer.err
    )
    assert "Traceback" not in answer.err


def test_a_run_root_that_can_not_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    answer = sft_in_process("run", "quickstart", "run_root=file/runs", cwd=tmp_path)
    assert answer.status == 1
    assert "run_root: can't write" in answer.err
    assert "try: run_root=FOLDER" in answer.err


def test_hydra_prints_the_composed_configuration(tmp_path: Path) -> None:
    answer = sft_in_process("run", "quickstart", "training.seed=5", "--cfg", "job", cwd=tmp_path)
    assert answer.status == 0
    assert "  seed: 5\n" in answer.out
    assert list(tmp_path.iterdir()) == []


def test_hydra_prints_the_defaults_tree(tmp_path: Path) -> None:
    # A process: Hydra prints this through the logging that it sets up once.
    answer = sft("run", "quickstart", "--info", "defaults-tree", cwd=tmp_path)
    assert answer.status == 0
    assert "training/fsdp: full_shard" in answer.out
    assert answer.err == ""


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("sft r", "init import recipes schema data compare export merge report watch debug chat serve"),
        ("sft run q", "long_context lora_24gb mix moe nodes optuna original qlora_7b quickstart quickstart_fsdp_sweep"),
        ("sft run quickstart training.le", "training.learning_rate="),
        ("sft run quickstart training/fsdp=n", "training/fsdp=no_shard"),
    ],
)
def test_the_shell_completes(line: str, offered: str, tmp_path: Path) -> None:
    assert offered in sft_in_process("-sc", "query=bash", cwd=tmp_path, COMP_LINE=line).out


@pytest.mark.parametrize(
    ("line", "proposed"),
    [
        ("sft run quickstart training.lr_scheduler=", "training.lr_scheduler=cosine"),
        ("sft run quickstart dataset.on_invalid=d", "dataset.on_invalid=drop"),
        ("sft plan quickstart training.deterministic=", "training.deterministic=true"),
        ("sft ", "watch"),
        ("sft run ", "quickstart"),
    ],
)
def test_completion_proposes_commands_recipes_and_values(line: str, proposed: str, tmp_path: Path) -> None:
    answer = sft_in_process("-sc", "query=bash", cwd=tmp_path, COMP_LINE=line, COMP_POINT=str(len(line)))
    assert proposed in answer.out.split()


def test_run_without_a_recipe_says_what_to_type(tmp_path: Path) -> None:
    answer = sft_in_process("run", cwd=tmp_path)
    assert (answer.status, "type `sft run quickstart`, or `sft init FILE`" in answer.err) == (2, True)


def test_completion_installs(tmp_path: Path) -> None:
    assert "complete -o nospace" in sft("-sc", "install=bash", cwd=tmp_path).out


def test_a_plan_says_what_will_run_and_makes_nothing(tmp_path: Path) -> None:
    answer = sft_in_process("plan", "quickstart", "registry=none", cwd=tmp_path)
    assert answer.status == 0
    assert answer.out.startswith("dataset         will run  never done in this run_root\n")
    assert answer.out.endswith("settings   --config prints them all\n")
    assert "train           will run  takes what model and tokenize will make" in answer.out
    assert "register        left out  registry=none" in answer.out
    assert "steps      known once the dataset is checked" in answer.out
    assert list(tmp_path.iterdir()) == []


def test_a_plan_prints_every_setting_if_it_is_asked_to_and_what_will_happen_first(tmp_path: Path) -> None:
    for arguments in (["--config", "eval.limit=7"], ["eval.limit=7", "--config"]):
        lines = sft_in_process("plan", "quickstart", *arguments, cwd=tmp_path).out.splitlines()
        assert lines[0].startswith("dataset ")
        assert lines.index("name: quickstart") < lines.index("  limit: 7")


def test_a_plan_names_what_will_be_downloaded(tmp_path: Path) -> None:
    revision = "a" * 40
    model = ["model=hub", "model.name_or_path=org/name", f"model.revision={revision}"]
    answer = sft_in_process("plan", "quickstart", *model, cwd=tmp_path)
    assert answer.status == 0
    assert "downloads  model org/name" in answer.out


def test_a_done_dataset_gives_the_number_of_steps(tmp_path: Path) -> None:
    broken = ["model=hub", f"model.name_or_path={tmp_path}"]
    assert sft_in_process("run", "quickstart", *broken, cwd=tmp_path).status == 1
    planned = sft_in_process("plan", "quickstart", *broken, cwd=tmp_path).out
    assert "dataset         done" in planned
    assert "steps      172 = 43 per epoch x 4 of 2700 samples" in planned


def test_prune_keeps_what_a_run_root_needs_wherever_it_lies(tmp_path: Path) -> None:
    broken = ["model=hub", f"model.name_or_path={tmp_path}"]
    sft_in_process("run", "quickstart", *broken, cwd=tmp_path)
    (tmp_path / "runs").rename(tmp_path / "moved")
    (tmp_path / "link").symlink_to("moved")
    for root in ("moved", "link"):
        assert "0 folders" in sft_in_process("store", "prune", "--now", "--run-root", root, cwd=tmp_path).out
    other = tmp_path / "other"
    other.mkdir()
    (other / "store").symlink_to(tmp_path / "moved" / "store")
    refused = sft_in_process("store", "prune", "--now", "--run-root", "other", cwd=tmp_path)
    assert "is a link, so the records of another run root may need it" in refused.err
    [run] = tmp_path.glob("moved/quickstart-*")
    (run / "run.json").write_text("{")
    refused = sft_in_process("store", "prune", "--now", "--run-root", "moved", cwd=tmp_path)
    assert "so what it needs is not known, and nothing is pruned" in refused.err
    assert "1 artifacts" in sft_in_process("store", "--run-root", "moved", cwd=tmp_path).out


def test_a_secret_in_the_environment_appears_nowhere(tmp_path: Path) -> None:
    (tmp_path / "canary-1234.jsonl").write_text("{")
    # A process: whatever it or a child of it prints, by whatever way, comes back.
    answer = sft("run", *LOCAL, "dataset.uri=canary-1234.jsonl", cwd=tmp_path, HF_TOKEN="canary-1234")
    assert answer.status == 1
    everything = answer.out + answer.err
    everything += "".join(f.read_text() for f in (tmp_path / "runs").rglob("*") if f.is_file())
    assert "canary-1234" not in everything
    assert "***.jsonl:1" in answer.err


def test_store_lists_and_prunes_what_no_record_refers_to(tmp_path: Path) -> None:
    broken = ["model=hub", f"model.name_or_path={tmp_path}"]
    sft_in_process("run", "quickstart", *broken, cwd=tmp_path)
    assert "1 artifacts" in sft_in_process("store", cwd=tmp_path).out
    assert sft_in_process("store", "prune", cwd=tmp_path).out.startswith(
        "0 folders"
    )  # what the failed step left may go on
    assert list(tmp_path.glob("runs/store/.staging/model-*"))
    for run in (tmp_path / "runs").glob("quickstart-*"):
        shutil.rmtree(run)
    assert "2 folders" in sft_in_process("store", "prune", "--dry-run", cwd=tmp_path).out
    assert "2 folders" in sft_in_process("store", "prune", cwd=tmp_path).out
    assert "1 artifacts" in sft_in_process("store", cwd=tmp_path).out
    assert "they stay a week in" in sft_in_process("store", "prune", "--yes", cwd=tmp_path).out
    assert len(list(tmp_path.glob("runs/store/.trash/*/dataset/*/train.jsonl"))) == 1
    assert "0 artifacts" in sft_in_process("store", cwd=tmp_path).out


def test_store_without_a_run_root_says_so(tmp_path: Path) -> None:
    assert "no store in" in sft_in_process("store", cwd=tmp_path).out


def test_a_plan_that_can_not_fit_says_so_and_what_would(tmp_path: Path) -> None:
    huge = [
        "model.scratch.hidden_size=8192",
        "model.scratch.num_hidden_layers=80",
        "training.max_tokens_per_gpu=100000",
    ]
    answer = sft_in_process("plan", "quickstart", "registry=none", *huge, cwd=tmp_path)
    assert answer.status == 0, answer.err
    [warning] = [line for line in answer.out.splitlines() if line.startswith("warning")]
    assert "this can't fit" in warning
    assert "too much" in next(line for line in answer.out.splitlines() if "<- chosen" in line)
    small = sft_in_process("plan", "quickstart", "registry=none", cwd=tmp_path).out
    assert "warning" not in small
    assert "fits, up to" in next(line for line in small.splitlines() if "<- chosen" in line)
    assert "full state" in small


@pytest.mark.long
def test_a_run_in_parts_ends_as_one_record_and_a_part_of_it_takes_nothing_back(tmp_path: Path) -> None:
    unscored = ["eval=none", "registry=none", "training.num_epochs=1", "dataset.max_samples=100"]
    for until, made in ((["--until", "dataset"], 1), (["--until=tokenize"], 3)):
        answer = sft_in_process("run", "quickstart", *unscored, *until, cwd=tmp_path)
        assert answer.status == 0, answer.err
        [record] = records(tmp_path / "runs")
        assert (record["status"], len(record["steps"])) == ("done", made)
    assert steps(record)["dataset"]["reused"]
    again = sft_in_process("run", "quickstart", *unscored, "--until", "dataset", cwd=tmp_path)
    assert "nothing to do" in again.out
    assert records(tmp_path / "runs") == [record]


def test_a_part_that_is_not_in_the_plan_is_refused_before_anything_runs(tmp_path: Path) -> None:
    answer = sft_in_process("run", "quickstart", "--until", "training", cwd=tmp_path)
    assert answer.status == 2
    assert "training: no such step; there are dataset, model, tokenize, evaluate:base, train" in answer.err
    for empty in (["quickstart", "--until="], ["quickstart", "--until", ""], ["--until=", "quickstart"]):
        answer = sft_in_process("run", *empty, cwd=tmp_path)
        assert answer.status == 2
        assert "--until" in answer.err
    assert not (tmp_path / "runs").exists()


def test_a_program_reads_what_a_run_does_and_how_it_ended(tmp_path: Path) -> None:
    answer = sft("run", "quickstart", "--json", "--until", "dataset", "training.seed=7", cwd=tmp_path)
    assert (answer.status, answer.err) == (0, "")
    events = [json.loads(line) for line in answer.out.splitlines()]
    assert {"event": "stage", "stage": "dataset"} in [{k: one[k] for k in ("event", "stage")} for one in events]
    assert events[-1] == {**events[-1], "event": "end", "stage": None, "exit_code": 0}
    record = json.loads(Path(events[-1]["run"], "run.json").read_text(encoding="utf-8"))
    assert record["status"] == "done"
    assert [step["name"] for step in record["steps"]] == ["dataset"]


@pytest.mark.parametrize(
    ("typed", "key"),
    [
        (["quickstart", "training.sed=7"], "training.sed"),
        (["nosuch"], "nosuch"),
        ([], "sft run"),
        (["quickstart", "-m", "training.seed=1,2"], "--json"),
        (["--from", "nosuch", "--detach"], "--detach"),
    ],
    ids=["setting", "recipe", "none", "sweep", "from"],
)
def test_a_program_reads_what_is_wrong(typed: list[str], key: str, tmp_path: Path) -> None:
    answer = sft_in_process("run", "--json", *typed, cwd=tmp_path)
    assert answer.status == 2
    end = json.loads(answer.out.splitlines()[-1])
    assert (end["event"], end["exit_code"], [one["key"] for one in end["problems"]]) == ("end", 2, [key])


def test_a_stage_that_fails_shows_its_traceback_only_where_it_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "qwen2"}')
    answer = sft_in_process("eval", "./model", "eval.tasks=[arc_easy]", cwd=tmp_path)
    assert answer.status == 1
    assert answer.err.startswith("error: model.name_or_path=./model: no tokenizer in ")
    with pytest.raises(StageError, match="no tokenizer in"):
        sft_in_process("--debug", "eval", "./model", "eval.tasks=[arc_easy]", cwd=tmp_path)


@pytest.mark.long
def test_a_disk_that_is_full_is_a_sentence_and_the_record_says_failed(tmp_path: Path) -> None:
    """A limit on the size of a file stands for the disk: to fill one needs rights that a test hasn't."""
    code = (
        "import resource, signal, sys; from sft.cli import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, resource.RLIM_INFINITY))\n"
        "sys.exit(main(['run', 'quickstart', '--until', 'dataset', 'dataset.uri=synthetic://spell-numbers?rows=20000']))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert "error: dataset: File too large" in done.stderr
    [record] = records(tmp_path / "runs")
    assert (record["status"], steps(record)["dataset"]["status"]) == ("failed", "failed")
    again = sft("run", "quickstart", "--until", "dataset", cwd=tmp_path)
    assert again.status == 0, again.err
    assert not list((tmp_path / "runs").rglob(".reserve"))


@pytest.mark.parametrize(
    "setting", ["eval.gates.holdout.loss=<= 0.1", "eval.no_regression=[holdout]", "eval.judge.address=http://x"]
)
def test_a_model_alone_is_held_against_nothing_and_says_so(setting: str, tmp_path: Path) -> None:
    answer = sft_in_process("eval", "./model", "eval.tasks=[arc_easy]", setting, cwd=tmp_path)
    assert answer.status == 2
    assert "is not for `sft eval`, which scores one model and compares nothing" in answer.err


def test_what_an_evaluation_does_not_read_is_said(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "defaults: [config, {override /model: scratch}, _self_]\ndataset: {uri: a.jsonl}\n"
        "eval: {tasks: [arc_easy], gates: {arc_easy.acc: '>= 0.5'}}\n"
    )
    typed = ["training.seed=1", "registry=mlflow", "training.max_seq_len=99"]
    answer = sft_in_process("eval", "./model", "--recipe", "mine.yaml", *typed, cwd=tmp_path)
    notes = [line for line in answer.out.splitlines() if line.startswith("- ")]
    assert notes == [
        "- training.seed: not read, since nothing is trained or registered",
        "- registry: not read, since nothing is trained or registered",
        "- eval.gates of mine: not checked, since one model is scored and nothing is compared",
    ]
    wrong_alone = (tmp_path / "mine.yaml").read_text().replace("tasks:", "limit: -1, tasks:")
    (tmp_path / "mine.yaml").write_text(wrong_alone)
    answer = sft_in_process("eval", "./model", "--recipe=mine.yaml", "eval.limit=5", cwd=tmp_path)
    assert "- gates of mine: not checked, if it has any, since one model is scored" in answer.out


def test_what_a_check_of_data_does_not_read_is_said(tmp_path: Path) -> None:
    rows = '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'
    (tmp_path / "a.jsonl").write_text(rows)
    typed = ["training.max_seq_len=9", "eval.limit=5", "registry=none", "eval.holdouts.b.uri=a.jsonl", "dataset.seed=1"]
    told = sft_in_process("data", "check", "a.jsonl", *typed, cwd=tmp_path).out.splitlines()
    notes = [line.partition(":")[0] for line in told if "not read, since" in line]
    assert notes == ["- training.max_seq_len", "- eval.limit", "- registry"]


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        (["store", "--now"], "lists, and removes nothing; sft store prune --now"),
        (["store", "list", "--yes"], "lists, and removes nothing; sft store prune --yes"),
        (["compare", "runs", "--csv", "--json"], "not allowed with argument --csv"),
        (["merge", ".", "adapter", "--output", "x", "--revision", "v2"], "--revision=v2: is of a model on the hub"),
    ],
)
def test_options_that_would_do_nothing_are_refused(typed: list[str], says: str, tmp_path: Path) -> None:
    answer = sft_in_process(*typed, cwd=tmp_path)
    assert answer.status == 2
    assert says in answer.err
