"""`sft chat`: a conversation with the model of a run, and on request with its base model beside it."""

from __future__ import annotations

import importlib.util
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from sft.errors import ConfigError, DataError, Problem
from sft.progress import Progress
from sft.runner.run_models import FoundModel, find_model

if TYPE_CHECKING:
    from sft.adapters.chat_model import Answer, ChatModel

_TRUST = "model.trust_remote_code"
_HELP = "/reset begins anew, /save FILE keeps the conversation, /quit ends; Ctrl-C stops an answer"


@dataclass
class Speaker:
    """A model with its own side of the conversation.

    Attributes:
        name: Label of its answers; empty where it is the only one.
        messages: The conversation so far, the system turn included.
    """

    name: str
    model: ChatModel
    messages: list[dict[str, str]] = field(default_factory=list)

    def begin(self, system: str | None) -> None:
        """Forget the conversation."""
        self.messages = [] if system is None else [{"role": "system", "content": system}]


def execute(name: str, overrides: Sequence[str], *, base: bool, system: str | None, max_tokens: int | None) -> int:
    """Talk until the input ends.

    On a terminal it asks for each turn. Otherwise each line of standard input is a turn, only answers are printed to
    standard output, and what can't be answered ends the command.

    Args:
        name: A run's folder, a model's folder, or a hub id.
        overrides: ``model.trust_remote_code=true``, or nothing.
        base: Whether the run's base model answers too.
        system: The system turn; None = the chat template's own.
        max_tokens: Longest answer; None = the model's own setting.

    Raises:
        ConfigError: An argument is wrong.
        DataError: There is no such model; or, where nobody is asked, a turn can't be answered.
        SftError: The model can't be loaded, or fails.
    """
    trusts_code = _trusts_code(overrides)
    if max_tokens is not None and max_tokens < 1:
        raise ConfigError([Problem(key="--max-tokens", value=str(max_tokens), rule="must be at least 1")])
    found = find_model(name, needs_base=base)
    _check_trust(found, trusts_code)
    asks = sys.stdin.isatty() and sys.stdout.isatty()
    told = sys.stdout if asks else sys.stderr
    for note in found.notes:
        told.write(f"{note}\n")
    speakers = list(_load(found, trusts_code=trusts_code, base=base, max_tokens=max_tokens, quiet=not asks))
    for speaker in speakers:
        if system is not None:
            speaker.model.check(system)
        speaker.begin(system)
        for line in (speaker.model.settings(), *speaker.model.notes()):
            told.write(f"{speaker.name + ': ' if speaker.name else ''}{line}\n")
    if asks:
        told.write(f"{_HELP}\n")
    told.flush()
    for line in _lines(asks=asks):
        try:
            if not _take(line, speakers, system, asks=asks):
                break
        except DataError as error:
            if not asks:
                raise
            sys.stdout.write(f"{error}\n")
    return 0


def _trusts_code(overrides: Sequence[str]) -> bool:
    if others := [text for text in overrides if text not in {f"{_TRUST}=true", f"{_TRUST}=false"}]:
        rule, suggestion = "is not for `sft chat`", f"only {_TRUST}=true is"
        raise ConfigError([Problem(key=text, rule=rule, suggestion=suggestion) for text in others])
    return f"{_TRUST}=true" in overrides


def _check_trust(found: FoundModel, trusts_code: bool) -> None:
    """Raise ConfigError if the run let code of its model run and nobody says so again: the run may be a stranger's."""
    if found.trusts_code and not trusts_code:
        rule = f"code that comes with the model ran in {found.run}"
        raise ConfigError([Problem(key=_TRUST, rule=rule, suggestion=f"if you trust it, add {_TRUST}=true")])


def _load(
    found: FoundModel, *, trusts_code: bool, base: bool, max_tokens: int | None, quiet: bool
) -> Iterator[Speaker]:
    from sft.adapters.chat_model import ChatModel

    folders = {"base": found.base, "tuned": found.folder} if base else {"": found.folder}
    for name, folder in folders.items():
        if folder is None:
            raise DataError(f"{found.run}: its base model is not there any more", fix="leave --base out")
        progress = Progress(quiet=quiet)
        with progress.stage(f"loading {folder}"):
            yield Speaker(name, ChatModel(folder, trust_remote_code=trusts_code, max_tokens=max_tokens))


def _lines(*, asks: bool) -> Iterator[str]:
    """Yield what is typed, a line each, until it ends (Ctrl-D) or, at the prompt, Ctrl-C."""
    if not asks:
        yield from (line.rstrip("\r\n") for line in sys.stdin)
        return
    if importlib.util.find_spec("readline"):
        import readline  # noqa: F401 - arrow keys and history at the prompt
    while True:
        try:
            yield input("\n> ")
        except (EOFError, KeyboardInterrupt):
            sys.stdout.write("\n")
            return


def _take(line: str, speakers: Sequence[Speaker], system: str | None, *, asks: bool) -> bool:
    """Do what a line says, and return whether the conversation goes on.

    Raises:
        DataError: It can't be done; the conversation is as it was.
    """
    text = line.strip()
    command, _, rest = text.partition(" ")
    match command:
        case "":
            pass
        case "/quit":
            return False
        case "/reset":
            for speaker in speakers:
                speaker.begin(system)
            if asks:
                sys.stdout.write("a new conversation\n")
        case "/save":
            said = save(rest.strip(), speakers[-1].messages)
            (sys.stdout if asks else sys.stderr).write(f"{said}\n")
        case "/help":
            sys.stdout.write(f"{_HELP}\n")
        case _ if command.startswith("/") and command[1:].isalpha():
            raise DataError(f"{command}: no such command; {_HELP}")
        case _:
            _ask(text, speakers)
    return True


def _ask(text: str, speakers: Sequence[Speaker]) -> None:
    """Print each model's answer to a turn.

    Raises:
        DataError: One of them can't take the turn; none has answered then.
    """
    turn = {"role": "user", "content": text}
    prompts = []
    for speaker in speakers:
        speaker.model.check(text)
        prompts.append(speaker.model.prompt([*speaker.messages, turn]))
    for speaker, prompt in zip(speakers, prompts, strict=True):
        if speaker.name:
            sys.stdout.write(f"{speaker.name}: ")
        answer = speaker.model.answer(prompt, _show)
        sys.stdout.write("\n")
        if note := _note(answer):
            sys.stdout.flush()
            sys.stderr.write(f"({note})\n")
        sys.stdout.flush()
        if answer.text.strip() or answer.ending.name != "interrupted":
            speaker.messages += [turn, {"role": "assistant", "content": answer.text}]


def _show(piece: str) -> None:
    """Print a piece of an answer; to a terminal, without what would control it."""
    if sys.stdout.isatty():
        piece = "".join(c if c in "\n\t" or unicodedata.category(c) != "Cc" else repr(c)[1:-1] for c in piece)
    sys.stdout.write(piece)
    sys.stdout.flush()


def _note(answer: Answer) -> str:
    return {
        "stop": "",
        "length": "not ended: the longest answer that was asked for; --max-tokens N allows more",
        "context": "not ended: the model's context is full",
        "interrupted": "stopped",
    }[answer.ending.name]


def save(name: str, messages: Sequence[dict[str, str]]) -> str:
    """Append a conversation to a file of chats, a line of JSON as `dataset.uri` reads it, and return what was done.

    Raises:
        DataError: There is no name, nothing was said, or the file can't be written.
    """
    if not name:
        raise DataError("/save needs a file's name", fix="/save chats.jsonl")
    if not any(message["role"] == "assistant" for message in messages):
        raise DataError("there is nothing to save yet", fix="ask something first")
    file = Path(name).expanduser()
    try:
        with file.open("ab+") as stream:
            if end := stream.seek(0, 2):
                stream.seek(end - 1)
                if stream.read(1) != b"\n":
                    stream.write(b"\n")
            stream.write(msgspec.json.encode({"messages": list(messages)}) + b"\n")
    except OSError as error:
        raise DataError(f"{file}: can't be written: {error.strerror}", fix="name another file") from error
    return f"added a conversation of {len(messages)} turns to {file}"
