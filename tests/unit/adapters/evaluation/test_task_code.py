"""A stranger's task runs nothing: no Python beside it, no metric's script, no template out of its sandbox."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from sft.adapters.evaluation.task_code import named_functions, task_code
from sft.adapters.evaluation.tasks import load_tasks
from sft.config.schema import EvalConfig
from sft.errors import ConfigError
from sft.stages.evaluate import tasks_version

TASK = """\
task: attack
dataset_path: json
dataset_kwargs: {data_files: {test: rows.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: answer
"""
ESCAPE = "{{ cycler.__init__.__globals__.os.system('touch ran') }}"
ATTACKS = {
    "function": "process_docs: !function evil.process\n",
    "function of a library": "process_docs: !function os.system\n",
    "metric": "metric_list: [{metric: ./evil, aggregation: mean, higher_is_better: true}]\n",
    "metric of the hub": "metric_list: [{metric: exact_match, hf_evaluate: true, aggregation: mean}]\n",
    "include": "include: ../other.yaml\n",
    "filter": "filter_list: [{name: x, filter: [{function: custom, filter_fn: !function evil.process}]}]\n",
    "pickle": "dataset_path: pandas\ndataset_kwargs: {data_files: {test: rows.pkl}}\n",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of tasks in a working folder, and Python in it that leaves a trace."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    made = tmp_path / "tasks"
    made.mkdir()
    (made / "rows.jsonl").write_text(json.dumps({"question": "1+1", "answer": "2"}) + "\n")
    evil = "open('ran', 'w').close()\ndef process(docs):\n    return docs\n"
    for file in (made / "evil.py", tmp_path / "evil.py", tmp_path / "evil" / "evil.py"):
        file.parent.mkdir(exist_ok=True)
        file.write_text(evil)
    (tmp_path / "other.yaml").write_text("process_docs: !function evil.process\n")
    return made


def load(folder: Path, *, allowed: bool = False) -> Any:
    with task_code(allowed=allowed):
        [task] = load_tasks(["attack"], str(folder)).values()
        doc = next(iter(task.eval_docs))
        task.fewshot_context(doc, num_fewshot=0)
        return task.doc_to_text(doc)


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_tasks_code_is_refused(attack: str, folder: Path) -> None:
    (folder / "rows.pkl").write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    kept = [line for line in TASK.splitlines() if f"\n{line.partition(':')[0]}:" not in f"\n{ATTACKS[attack]}"]
    (folder / "attack.yaml").write_text("\n".join([*kept, ATTACKS[attack]]))
    with pytest.raises(Exception, match=r"names Python code|is not lm-eval's own|reads pickles") as refused:
        load(folder)
    assert "eval.allow_task_code=true" in f"{refused.value.fix}{refused.value}"  # type: ignore[attr-defined]
    assert not Path("ran").exists()


def test_a_script_that_makes_a_dataset_is_not_run(folder: Path) -> None:
    (folder / "attack.yaml").write_text(TASK.replace("dataset_path: json", f"dataset_path: {folder.parent}/evil"))
    with pytest.raises(Exception, match=r"can't load|Couldn't find|scripts are no longer supported|any data file"):
        load(folder)
    assert not Path("ran").exists()


@pytest.mark.parametrize("field", ["doc_to_text", "doc_to_target", "description"])
def test_a_template_stays_in_its_sandbox(field: str, folder: Path) -> None:
    kept = [line for line in TASK.splitlines() if not line.startswith(f"{field}:")]
    (folder / "attack.yaml").write_text("\n".join([*kept, f'{field}: "{ESCAPE}"\n']))
    with pytest.raises(Exception, match="unsafe"):
        load(folder)
    assert not Path("ran").exists()


def test_a_person_may_let_them_run(folder: Path) -> None:
    (folder / "attack.yaml").write_text(TASK + ATTACKS["function"])
    assert load(folder, allowed=True) == "1+1"
    assert Path("ran").exists()


def test_code_is_refused_before_anything_is_done(folder: Path) -> None:
    (folder / "attack.yaml").write_text(TASK + ATTACKS["function"])
    (folder / "plain.yaml").write_text("# !function in a comment\ntask: plain\n")
    assert named_functions(folder) == {"attack.yaml": "evil.process"}
    with pytest.raises(ConfigError, match=r"attack\.yaml: evil\.process: names Python code"):
        tasks_version(EvalConfig(tasks=["attack"], include_path=str(folder)))
    assert tasks_version(EvalConfig(tasks=["attack"], include_path=str(folder), allow_task_code=True))


def test_a_file_that_is_no_task_is_refused_before_anything_is_done(folder: Path) -> None:
    laughs = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 30))
    cases = {
        "is a pipe or a device": lambda file: os.mkfifo(file),
        "is a pipe or a device, ": lambda file: file.symlink_to("/dev/zero"),
        "is larger than 1 MiB": lambda file: file.write_bytes(bytes(1 << 21)),
        "unfolds to more than 100,000 values": lambda file: file.write_text(laughs),
        "is nested too deeply": lambda file: file.write_text("x: " + "[" * 100_000),
    }
    for rule, make in cases.items():
        file = folder / "mine.yaml"
        make(file)
        with pytest.raises(ConfigError, match=rf"eval\.include_path=.*mine\.yaml: {rule}"):
            tasks_version(EvalConfig(include_path=str(folder), tasks=["mine"]))
        file.unlink()
