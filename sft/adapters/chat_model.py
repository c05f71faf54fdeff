"""Owns a model that answers in a conversation, token by token: its own chat template, its own generation settings.

Imports torch and transformers when a model is loaded, in this process: a conversation lasts as long as its command.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from sft.adapters.evaluation.as_saved import generation_settings, weights_dtype
from sft.adapters.os import machine
from sft.chat.special_tokens import special_tokens, stops
from sft.chat.template import Renderer, TemplateError
from sft.errors import DataError, StageError

DEFAULT_MAX_TOKENS = 512


class Ending(Enum):
    """Why an answer has ended."""

    stop = "a token at which the model stops"
    length = "the longest answer that was asked for"
    context = "the longest text that the model takes"
    interrupted = "the person stopped it"


@dataclass(frozen=True)
class Answer:
    """What a model has said, and why it ended there."""

    text: str
    ending: Ending


class ChatModel:
    """A loaded model with its tokenizer and template.

    Args:
        folder: In Hugging Face layout.
        trust_remote_code: Whether code that comes with the model may run.
        max_tokens: Longest answer; None = what ``generation_config.json`` says, or `DEFAULT_MAX_TOKENS`.

    Raises:
        StageError: It can't be loaded, or has no chat template.
    """

    def __init__(self, folder: Path, *, trust_remote_code: bool, max_tokens: int | None) -> None:
        self._model, tokenizer = _load(folder, trust_remote_code=trust_remote_code)
        if not tokenizer.chat_template:
            raise StageError(f"{folder}: no chat template", fix="chat with a model that was tuned on chats")
        self._renderer = Renderer(tokenizer, stops(tokenizer, folder))
        self._specials = special_tokens(tokenizer, self._renderer.stops | self._renderer.controls())
        self._settings = copy.deepcopy(self._model.generation_config)
        own = self._settings.max_new_tokens
        self._max_tokens = max_tokens or own or DEFAULT_MAX_TOKENS
        self._context: int | None = getattr(self._model.config.get_text_config(), "max_position_embeddings", None)
        self._told = generation_settings(folder) | {"max_new_tokens": self._max_tokens}

    def settings(self) -> str:
        """Return in a line how answers are written."""
        told = dict(self._told)
        length, is_sampled = told.pop("max_new_tokens"), told.pop("do_sample", False)
        how = ", ".join(f"{name} {value}" for name, value in told.items())
        kind = "sampled" if is_sampled else "greedy"
        context = f"a context of {self._context:,} tokens" if self._context else "a context of unknown length"
        stops_at = ", ".join(sorted(self._renderer.stops)) or "nothing: the model names no end token"
        return f"{kind}{', ' + how if how else ''}; at most {length} tokens, in {context}; stops at {stops_at}"

    def notes(self) -> list[str]:
        """Return what a person should know of how the conversation is put to the model, a line each."""
        notes = []
        if self._renderer.folds_system:
            notes.append("the chat template knows no system turn: it is put before the first user's text")
        if self._settings.num_beams not in (None, 1):
            notes.append(f"num_beams={self._settings.num_beams} is left out: what is streamed has one beam")
        dtype = str(self._model.dtype).removeprefix("torch.")
        if self._model.device.type == "cpu" and machine.cpu_emulates(dtype):
            notes.append(f"it answers in {dtype}, as saved, which this CPU emulates, slowly")
        return notes

    def check(self, text: str) -> None:
        """Raise DataError if a text holds a special token, which would end a turn or begin another."""
        if match := self._specials.search(text):
            raise DataError(f"the text holds {match[0]}, which is a special token of this model", fix="leave it out")

    def prompt(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """Return the tokens that the model gets to answer `messages`.

        Raises:
            DataError: The template refuses them, or they are as long as the model's context, or longer.
        """
        try:
            text = self._renderer.prompt(messages)
        except TemplateError as error:
            raise DataError(f"the chat template refuses this conversation: {error}", fix="/reset") from error
        ids: list[int] = self._renderer.tokenizer(text, add_special_tokens=False)["input_ids"]
        if self._context is not None and len(ids) >= self._context:
            message = f"the conversation has {len(ids):,} tokens, and the model takes {self._context:,} at most"
            raise DataError(message, fix="/reset begins a new one (/save FILE keeps this one)")
        return ids

    def answer(self, prompt: Sequence[int], on_text: Callable[[str], None]) -> Answer:
        """Write an answer; Ctrl-C ends it, and what was written stays.

        Args:
            prompt: `prompt`'s.
            on_text: Called with each piece of it.

        Raises:
            StageError: The model failed.
        """
        from transformers import StoppingCriteriaList, TextIteratorStreamer

        tokenizer = self._renderer.tokenizer
        streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
        room = self._max_tokens if self._context is None else self._context - len(prompt)
        stop_ids = sorted(tokenizer.convert_tokens_to_ids(sorted(self._renderer.stops)))
        self._settings.update(
            max_new_tokens=min(self._max_tokens, room),
            max_length=None,
            num_beams=1,
            eos_token_id=stop_ids or None,
            pad_token_id=tokenizer.pad_token_id or 0,
        )
        stop, written, failures = threading.Event(), list[int](), list[Exception]()

        def write() -> None:
            try:
                criteria = StoppingCriteriaList([lambda ids, _scores, **_: _stopped(ids, stop)])
                written.extend(_generate(self._model, prompt, self._settings, streamer, criteria))
            except Exception as error:  # noqa: BLE001 - raised below, in the thread that waits
                failures.append(error)
                streamer.end()

        thread = threading.Thread(target=write, daemon=True)
        thread.start()
        while True:
            try:
                for piece in streamer:
                    on_text(piece)
                break
            except KeyboardInterrupt:
                if stop.is_set():  # a second one: it is not waited for
                    raise
                stop.set()
        thread.join()
        if failures:
            raise StageError(f"the model failed: {type(failures[0]).__name__}: {failures[0]}") from failures[0]
        text = tokenizer.decode(written, skip_special_tokens=True)  # pieces may differ where tokens split a character
        return Answer(str(text), self._ending(written, stop_ids, room, is_stopped=stop.is_set()))

    def _ending(self, written: Sequence[int], stop_ids: Sequence[int], room: int, *, is_stopped: bool) -> Ending:
        if written and written[-1] in stop_ids:
            return Ending.stop
        if is_stopped:
            return Ending.interrupted
        return Ending.context if room < self._max_tokens else Ending.length


def _load(folder: Path, *, trust_remote_code: bool) -> tuple[Any, Any]:
    """Return a model in the type of its weights, on a GPU where there is one, over all of them where there are more.

    Raises:
        StageError: transformers can't load it, or there is too little memory.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    place: dict[str, Any] = {"device_map": "auto"} if torch.cuda.device_count() > 1 else {}
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, **options)
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=weights_dtype(folder), use_safetensors=True, **options, **place
        )
        if not place and torch.cuda.is_available():
            model = model.to("cuda")
    except (OSError, ValueError, RuntimeError, ImportError, KeyError) as error:
        fix = None
        if "trust_remote_code" in str(error):
            fix = "if you trust the code in that folder, add model.trust_remote_code=true"
        message = f"{folder}: can't be loaded: {type(error).__name__}: {str(error).strip().splitlines()[0]}"
        raise StageError(message, fix=fix) from error
    return model.eval(), tokenizer


def _generate(model: Any, prompt: Sequence[int], settings: Any, streamer: Any, criteria: Any) -> list[int]:
    import torch

    ids = torch.tensor([list(prompt)], device=model.device)
    with torch.inference_mode():
        written = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            generation_config=settings,
            streamer=streamer,
            stopping_criteria=criteria,
        )
    answer: list[int] = written[0, len(prompt) :].tolist()
    return answer


def _stopped(ids: Any, stop: threading.Event) -> Any:
    """Return for each row of a batch whether it is to end here."""
    import torch

    return torch.full((ids.shape[0],), stop.is_set(), dtype=torch.bool, device=ids.device)
