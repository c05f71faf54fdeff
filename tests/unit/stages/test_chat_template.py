"""What the settings make of a model's chat template, as transformers then renders it."""

from __future__ import annotations

import datetime
import json
import re
import shutil
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from sft.artifacts import ModelArtifact
from sft.config.schema import ModelConfig
from sft.errors import ConfigError, StageError
from sft.progress import Progress
from sft.stages.chat_template import ChosenTemplate, choose, folder_with, named_templates
from sft.stages.model import ModelInputs, model, source_version

TURNS = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
CHAT = [{"role": "user", "content": "2"}]


@pytest.fixture
def folder(tiny_model: ModelArtifact, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_model.model_dir, tmp_path / "base")


def chosen(folder: Path, **settings: Any) -> ChosenTemplate:
    template = choose(folder, ModelConfig(**settings))
    assert template is not None
    return template


def render(template: str, **variables: Any) -> str:
    from transformers.utils.chat_template_utils import render_jinja_template

    text: str = render_jinja_template([CHAT], chat_template=template, bos_token="<s>", **variables)[0][0]
    return text


def test_a_models_own_template_stays_where_it_is(folder: Path) -> None:
    assert choose(folder, ModelConfig()) is None


def test_a_model_without_a_template_needs_one_and_gets_it(folder: Path, tmp_path: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(StageError, match="no chat template") as caught:
        choose(folder, ModelConfig(name_or_path="base"))
    assert "model.chat_template=FILE" in str(caught.value)
    file = tmp_path / "mine.jinja"
    file.write_text(TURNS)
    template = chosen(folder, chat_template=str(file))
    assert template.text == TURNS
    [change] = template.changes
    assert change.startswith(f"model.chat_template={file} (sha256 ")


@pytest.mark.slow
@pytest.mark.parametrize(
    "value", [False, True, None, 3, 0.5, 'a "b"\nc\u00e9', "\U0001f642", ["x", None], {"deep": [True]}]
)
@pytest.mark.parametrize("begin", ["", "\n", "  ", "  {% if 1 %}{% endif %}", "{% macro m() %}{{ v }}{% endmacro %}"])
def test_a_variable_has_its_value_where_nobody_gives_another(value: Any, begin: str, folder: Path) -> None:
    text = begin + ("{{ m() }}" if "macro" in begin else "") + "[{{ v | tojson }}]" + TURNS
    (folder / "chat_template.jinja").write_text(text)
    template = chosen(folder, chat_template_kwargs={"v": value})
    assert template.changes == (f"model.chat_template_kwargs.v={json.dumps(value)}",)
    assert render(template.text) == render(text, v=value)
    assert render(template.text, v="other") == render(text, v="other")


def test_a_variable_that_the_template_does_not_have_is_refused(folder: Path) -> None:
    with pytest.raises(StageError, match=r"model\.chat_template_kwargs\.enable_thinking: the chat template has no"):
        choose(folder, ModelConfig(chat_template_kwargs={"enable_thinking": False}))


@pytest.mark.parametrize("name", ["llama3_2", "gptoss", "muse_glimmer"])
def test_a_template_that_reads_the_clock_gets_a_fixed_date(name: str, folder: Path) -> None:
    text = Path(str(resources.files("trl")), "chat_templates", f"{name}.jinja").read_text()
    (folder / "chat_template.jinja").write_text(text)
    today = datetime.date.today()
    own = choose(folder, ModelConfig(chat_template_date=today.isoformat()))
    assert own is not None
    assert render(own.text) == render(text)  # it says what the clock would say on that day
    fixed = chosen(folder)
    assert fixed.changes == ("it reads the clock: its date is fixed at model.chat_template_date=2024-07-26",)
    assert "26 Jul 2024" in render(fixed.text) or "2024-07-26" in render(fixed.text)
    assert not {today.isoformat(), today.strftime("%d %b %Y")} & set(
        re.findall(r"[\d-]{10}|\d+ \w+ \d{4}", render(fixed.text))
    )


def test_a_clock_whose_format_is_not_plain_is_refused(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{% set f = '%Y' %}{{ strftime_now(f) }}" + TURNS)
    with pytest.raises(StageError, match=r"reads the clock by 'strftime_now\(f\)"):
        choose(folder, ModelConfig())


def several(folder: Path, **templates: str) -> None:
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    file = folder / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    named = [{"name": name, "template": text} for name, text in templates.items()]
    file.write_text(json.dumps({**settings, "chat_template": named}))


def test_of_several_templates_without_a_default_one_must_be_named(folder: Path) -> None:
    several(folder, rag=TURNS, chat=f"b{TURNS}")
    with pytest.raises(StageError, match="must say which") as caught:
        choose(folder, ModelConfig())
    assert "one of chat, rag" in str(caught.value)
    assert chosen(folder, chat_template_name="chat").text == f"b{TURNS}"
    with pytest.raises(StageError, match=r"model\.chat_template_name=tools: is none of"):
        choose(folder, ModelConfig(chat_template_name="tools"))


def test_of_several_templates_the_default_is_taken_unless_a_setting_would_change_only_one(folder: Path) -> None:
    several(folder, default="{{ v }}" + TURNS, tool_use=TURNS)
    assert choose(folder, ModelConfig()) is None
    with pytest.raises(StageError, match="must say which"):
        choose(folder, ModelConfig(chat_template_kwargs={"v": 1}))
    assert chosen(folder, chat_template_name="default", chat_template_kwargs={"v": 1}).changes[0].endswith("=default")


@pytest.mark.slow
def test_templates_are_found_where_transformers_finds_them(folder: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("tools" + TURNS)
    assert named_templates(folder) == AutoTokenizer.from_pretrained(folder).chat_template
    several(shutil.copytree(folder, tmp_path / "list"), default=TURNS, rag="r" + TURNS)
    shutil.rmtree(tmp_path / "list" / "additional_chat_templates")
    assert named_templates(tmp_path / "list") == AutoTokenizer.from_pretrained(tmp_path / "list").chat_template


@pytest.mark.slow
def test_the_folder_is_the_same_model_with_another_template(folder: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    several(folder, default=TURNS, rag=TURNS)
    out = tmp_path / "out"
    out.mkdir()
    folder_with(chosen(folder, chat_template_name="rag"), folder, out)
    assert AutoTokenizer.from_pretrained(out).chat_template == TURNS
    assert (out / "model.safetensors").is_symlink()
    assert (out / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    assert {file.name for file in out.iterdir()} == {
        *(file.name for file in folder.iterdir() if file.is_file()),
        "chat_template.jinja",
    }


@pytest.mark.long
@pytest.mark.slow
def test_the_stage_makes_it_and_its_key_follows_the_file(folder: Path, tmp_path: Path) -> None:
    file, out = tmp_path / "mine.jinja", tmp_path / "out"
    file.write_text(TURNS)
    out.mkdir()
    cfg = ModelConfig(name_or_path=str(folder), chat_template=str(file))
    artifact = model(cfg, ModelInputs(dataset=None), out, Progress(quiet=True))
    assert artifact.model_dir == out
    assert (out / "chat_template.jinja").read_text() == TURNS
    assert len(artifact.chat_template_changes) == 1
    before = source_version(cfg)
    file.write_text(TURNS + " ")
    assert source_version(cfg) != before
    file.unlink()
    with pytest.raises(ConfigError, match=r"model\.chat_template=.*is not a file"):
        source_version(cfg)
