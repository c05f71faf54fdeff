"""The chat template of a run: the model's own, or what `model.chat_template*` makes of it.

What the settings change is written into the template itself, so that everything that renders later (training, the
held-out split, lm-eval, a server of the tuned model) starts from the same text without being told again:
`model.chat_template_kwargs` become the variables' values where nobody gives others, and a date that the template would
read from the clock becomes a fixed one. Text in, text out: no template is run here.
"""

from __future__ import annotations

import datetime
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from sft.config.schema import ModelConfig
from sft.errors import ConfigError, Problem, StageError
from sft.files import NotADocumentError, read_document, sha256_file

TEMPLATE = "chat_template.jinja"
_NAMED = "additional_chat_templates"
_TOKENIZER = "tokenizer_config.json"
_DEFAULT = "default"
_LARGEST_TEMPLATE = 1 << 20
_CLOCK = re.compile(r"""strftime_now\(\s*(?:'([^'\\]*)'|"([^"\\]*)")\s*\)""")
_READS_CLOCK = re.compile(r"strftime_now\s*\(")


@dataclass(frozen=True)
class ChosenTemplate:
    """A chat template that is not the model's own as it stands.

    Attributes:
        text: The template.
        changes: What makes it another one, a line each.
    """

    text: str
    changes: tuple[str, ...]


def file_version(cfg: ModelConfig) -> str:
    """Return the digest of `model.chat_template`; empty without one.

    Raises:
        ConfigError: It is not a file.
    """
    if cfg.chat_template is None:
        return ""
    file = Path(cfg.chat_template).expanduser()
    if not file.is_file():
        rule = f"is not a file (relative paths start at {Path.cwd()})"
        raise ConfigError([Problem(key="model.chat_template", value=str(file), rule=rule)])
    return sha256_file(file)


class _NamedTemplate(msgspec.Struct):
    name: str
    template: str


class _TokenizerSettings(msgspec.Struct):
    """What is read of a ``tokenizer_config.json``."""

    chat_template: str | list[_NamedTemplate] | None = None


def named_templates(folder: Path) -> dict[str, str]:
    """Return the chat templates of a model's folder by name, as transformers finds them; empty without any.

    Raises:
        StageError: A file that has them can't be read.
    """
    templates: dict[str, str] = {}
    if (folder / _TOKENIZER).is_file():
        templates = _in_settings(folder / _TOKENIZER)
    files = {_DEFAULT: folder / TEMPLATE} if (folder / TEMPLATE).is_file() else {}
    files |= {file.stem: file for file in sorted((folder / _NAMED).glob("*.jinja"))}
    if files:  # then transformers looks at no other place
        templates = {name: _text(file) for name, file in files.items()}
    return templates


def _in_settings(file: Path) -> dict[str, str]:
    try:
        content = msgspec.json.decode(read_document(file), type=_TokenizerSettings).chat_template
    except (ValueError, RecursionError) as error:
        raise StageError(f"{file}: not a tokenizer's settings: {error}") from error
    if isinstance(content, list):
        return {one.name: one.template for one in content}
    return {_DEFAULT: content} if content else {}


def _text(file: Path) -> str:
    try:
        return read_document(file, _LARGEST_TEMPLATE).decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise StageError(f"{file}: not UTF-8: {error}") from error
    except NotADocumentError as error:
        raise StageError(f"{file}: {error}") from error


def choose(folder: Path, cfg: ModelConfig) -> ChosenTemplate | None:
    """Return the template that the settings make of a model's; None where it is its own as it stands.

    Args:
        folder: The model's.
        cfg: The model settings.

    Raises:
        StageError: There is none, it is not said which of several, or a setting can't be written into it.
    """
    own = named_templates(folder)
    name, text = _chosen(own, cfg)
    changes: list[str] = []
    if cfg.chat_template is not None:
        changes.append(f"model.chat_template={cfg.chat_template} (sha256 {file_version(cfg)})")
    elif cfg.chat_template_name is not None:
        changes.append(f"model.chat_template_name={name}")
    written = _with_date(text, cfg)
    if written != text:
        changes.append(f"it reads the clock: its date is fixed at model.chat_template_date={cfg.chat_template_date}")
    if cfg.chat_template_kwargs:
        written = _with_variables(written, cfg.chat_template_kwargs)
        changes += [f"model.chat_template_kwargs.{k}={json.dumps(v)}" for k, v in cfg.chat_template_kwargs.items()]
    if changes and len(own) > 1 and cfg.chat_template is None and cfg.chat_template_name is None:
        raise _which(own)
    return ChosenTemplate(written, tuple(changes)) if changes else None


def _chosen(own: Mapping[str, str], cfg: ModelConfig) -> tuple[str, str]:
    if cfg.chat_template is not None:
        file_version(cfg)
        return _DEFAULT, _text(Path(cfg.chat_template).expanduser())
    if not own:
        raise StageError(
            f"model.name_or_path={cfg.name_or_path}: its tokenizer has no chat template, so conversations can't be "
            "rendered",
            fix="use the instruct variant, or give it one: model.chat_template=FILE",
        )
    name = cfg.chat_template_name or (_DEFAULT if _DEFAULT in own else next(iter(own)))
    if name not in own or (cfg.chat_template_name is None and _DEFAULT not in own and len(own) > 1):
        raise _which(own, cfg.chat_template_name)
    return name, own[name]


def _which(own: Mapping[str, str], name: str | None = None) -> StageError:
    given = "null" if name is None else name
    rule = "must say which of the model's chat templates" if name is None else "is none of the model's chat templates"
    names = ", ".join(sorted(own))
    return StageError(f"model.chat_template_name={given}: {rule}", fix=f"model.chat_template_name: one of {names}")


def _with_date(text: str, cfg: ModelConfig) -> str:
    """Return a template in which each call of the clock is the text that it gives on `model.chat_template_date`."""
    date = datetime.date.fromisoformat(cfg.chat_template_date)
    written = _CLOCK.sub(lambda call: json.dumps(date.strftime(call[1] or call[2] or "")), text)
    if left := _READS_CLOCK.search(written):
        shown = written[left.start() : left.start() + 40]
        raise StageError(
            f"the chat template reads the clock by {shown!r}, whose format is not a plain text, so its date can't be "
            "fixed",
            fix="model.chat_template: a copy of the template with a fixed date",
        )
    return written


def _with_variables(text: str, variables: Mapping[str, Any]) -> str:
    """Return a template that takes these values for variables that whoever renders it doesn't give."""
    for name in variables:
        if not re.search(rf"\b{re.escape(name)}\b", text):
            raise StageError(
                f"model.chat_template_kwargs.{name}: the chat template has no variable of that name",
                fix="look for its variables in the template (chat_template.jinja)",
            )
    given = "".join(
        f"{{%- if {name} is not defined %}}{{%- set {name} = {_literal(value)} %}}{{%- endif %}}"
        for name, value in variables.items()
    )
    return f"{given}\n{text}"  # templates are compiled such that a line end after a block is not rendered


def _literal(value: Any) -> str:
    """Return a value in Jinja's spelling."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_literal(str(key))}: {_literal(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_literal, value)) + "]"
    return "none" if value is None else json.dumps(value, ensure_ascii=False)


def folder_with(template: ChosenTemplate, folder: Path, out: Path) -> None:
    """Make `out` a folder of the same model with another chat template: links to its files, and the template.

    Args:
        template: Its chat template.
        folder: The model's.
        out: An artifact's folder; what it holds already of those names is replaced.
    """
    for file in sorted(folder.iterdir()):
        target = out / file.name
        if file.name.startswith(".") or not file.is_file() or file.name == TEMPLATE:
            continue
        if file.name == _TOKENIZER:
            settings = json.loads(read_document(file))
            settings.pop("chat_template", None)
            target.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        elif not target.exists():
            target.symlink_to(file.absolute())
    shutil.rmtree(out / _NAMED, ignore_errors=True)
    (out / TEMPLATE).write_text(template.text, encoding="utf-8")
