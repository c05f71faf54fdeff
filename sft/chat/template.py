"""Which characters of a rendered conversation count for the loss: each assistant's turn with its terminator.

The library's `unmask_sample` knows only `eos_token` as a terminator (data_process.py:721@0.16.2), so that Gemma, Phi or
GLM models learn never to stop, or learn the next header (trap 2); it labels what a template strips (trap 10). Here
the conversation is rendered by the model's own template, and the template itself says where a turn lies.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sft.errors import DataError

Message = Mapping[str, Any]
Span = tuple[int, int]

_BEGIN, _END = "\ue0f0", "\ue0f1"
"""Private-use characters around an assistant's content; no tokenizer ever sees them."""

NO_LOSS = -100
SYSTEM_ROLES = ("system", "developer")
_SYSTEM: Message = {"role": "system", "content": "instruction"}
_PROBE: tuple[Message, ...] = ({"role": "user", "content": "question"}, {"role": "assistant", "content": "reply"})
STOP_FIX = (
    "the token that ends a turn in the chat template must be the tokenizer's eos_token, or among the eos_token_id of "
    "generation_config.json"
)


class TemplateError(Exception):
    """This conversation can't be rendered, or not so that its turns can be told apart."""


class Renderer:
    """A tokenizer with its chat template.

    Args:
        tokenizer: transformers' fast tokenizer.
        stops: Texts of the tokens at which the model stops when it generates.

    Attributes:
        folds_system: The template knows no system turn (Gemma 1 and 2): it is put before the first user's text, with an
            empty line between, as Gemma's documentation advises.
    """

    def __init__(self, tokenizer: Any, stops: frozenset[str]) -> None:
        self.tokenizer = tokenizer
        self.stops = stops
        special = special_tokens(tokenizer).pattern
        stop = "|".join(map(re.escape, sorted(stops)))
        self._end_of_turn = re.compile(rf"(?:\s|{special})*?(?:{stop})") if stops else re.compile(r"(?!)")
        self._stop = re.compile(stop or r"(?!)")
        self._only_special = re.compile(rf"(?:{special})*")
        self._in_parts = self.folds_system = False
        self._in_parts = self._wants_parts()
        self.folds_system = self._refuses_system()
        self._preamble = self._find_preamble()

    def tokenize(self, messages: Sequence[Message], tools: Any = None) -> dict[str, Any]:
        """``input_ids``, ``labels`` (`NO_LOSS` outside of the assistant's turns) and ``len`` of a conversation.

        Raises:
            TemplateError: It can't be rendered.
            DataError: No conversation can be trained with this template.
        """
        ids, turns = self.turns(messages, tools)
        labels = [NO_LOSS] * len(ids)
        for places in turns:
            for place in places:
                labels[place] = ids[place]
        return {"input_ids": ids, "labels": labels, "len": len(ids)}

    def turns(self, messages: Sequence[Message], tools: Any = None) -> tuple[list[int], list[list[int]]]:
        """The token ids of a conversation, and for each assistant's turn the places of those that count.

        Raises:
            TemplateError: It can't be rendered.
            DataError: No conversation can be trained with this template.
        """
        text, spans = self.spans(messages, tools)
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        turns: list[list[int]] = [[] for _ in spans]
        turn = 0
        for place, (begin, end) in enumerate(encoded["offset_mapping"]):
            while turn < len(spans) and begin >= spans[turn][1]:
                turn += 1
            if turn < len(spans) and end > spans[turn][0] and end > begin:
                turns[turn].append(place)
        return encoded["input_ids"], turns

    def prompt(self, messages: Sequence[Message], tools: Any = None) -> str:
        """What the model gets to answer `messages`.

        Raises:
            TemplateError: It can't be rendered.
        """
        return self._render(messages, tools, generation=True)

    def spans(self, messages: Sequence[Message], tools: Any = None) -> tuple[str, list[Span]]:
        """The rendered conversation, and from where to where its characters count, in order.

        A turn of plain content is found by marks around the content. One that calls tools or carries its reasoning
        reaches from the end of the generation prompt to the first token at which the model stops.

        Raises:
            TemplateError: The template raises, drops or changes a turn.
            DataError: No token at which the model stops ends the turns of this template.
        """
        text = self._render(messages, tools)
        marked = self._render([_marked(message) for message in messages], tools)
        if _unmarked(marked) != text:  # it strips what it is given: then so does this
            marked = self._render([_marked(message, strip=True) for message in messages], tools)
        contents = _spans(marked)
        if _unmarked(marked) != text or len(contents) != sum(map(_has_content, messages)):
            raise TemplateError("the chat template drops or changes an assistant's turn")
        spans: list[Span] = []
        found = iter(contents)
        for place, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            content = next(found) if _has_content(message) else None
            calls = message.get("tool_calls")
            whole = (
                self._whole_turn(messages, place, text, tools) if calls or message.get("reasoning_content") else None
            )
            if whole is not None:
                spans.append(whole)
            elif calls or content is None:
                raise TemplateError("the chat template doesn't let a turn that calls tools be told from the rest")
            else:
                spans.append(self._content_turn(text, *content))
        return text, spans

    def _whole_turn(self, messages: Sequence[Message], place: int, text: str, tools: Any) -> Span | None:
        """A turn with everything that the model writes in it; None where it can't be told from what surrounds it."""
        before = messages[:place]
        prompt = self._render(before, tools, generation=True)
        if prompt == self._render(before, tools) or not text.startswith(prompt):
            return None
        stop = self._stop.search(text, len(prompt))
        return (
            (len(prompt), stop.end())
            if stop and stop.end() <= self._next_begins(messages, place, text, tools)
            else None
        )

    def _next_begins(self, messages: Sequence[Message], place: int, text: str, tools: Any) -> int:
        """Where the content of the message after `place` begins; 0 where that can't be seen."""
        if place + 1 == len(messages):
            return len(text)
        following = messages[place + 1]
        marked = {**following, "content": f"{_BEGIN}{following.get('content') or ''}"}
        begins = self._render([*messages[: place + 1], marked, *messages[place + 2 :]], tools).partition(_BEGIN)[0]
        return len(begins) if text.startswith(begins) and len(begins) < len(text) else 0

    def _content_turn(self, text: str, begin: int, end: int) -> Span:
        """A turn of plain content, with the special tokens that the model writes before and after it."""
        if self._preamble and text.endswith(self._preamble, 0, begin):
            begin -= len(self._preamble)
        if found := self._end_of_turn.match(text, end):
            return begin, found.end()
        rest = text[end : end + 40]
        follows = f"then comes {rest!r}" if rest else "then comes nothing"
        raise DataError(
            "with this chat template no token at which the model stops ends an assistant's turn: "
            f"{follows}; it stops at {', '.join(sorted(self.stops)) or 'none'}",
            fix=STOP_FIX,
        )

    def _wants_parts(self) -> bool:
        """Whether the template, made for images too, takes contents only as lists of parts."""
        try:
            return _PROBE[1]["content"] not in self._render(_PROBE)
        except TemplateError:
            return True

    def _refuses_system(self) -> bool:
        try:
            return _SYSTEM["content"] not in self._render([_SYSTEM, *_PROBE])
        except TemplateError:
            return True

    def _find_preamble(self) -> str:
        """Special tokens that stand between the generation prompt and every content: the model has to write them."""
        try:
            prompt, text = self._render(_PROBE[:1], generation=True), self._render(_PROBE)
        except TemplateError:
            return ""
        between = text[len(prompt) : text.find(_PROBE[1]["content"])]
        return between if text.startswith(prompt) and self._only_special.fullmatch(between) else ""

    def _render(self, messages: Sequence[Message], tools: Any = None, *, generation: bool = False) -> str:
        shown = [_as_templates_know_it(message) for message in messages]
        if self.folds_system:
            shown = _folded(shown)
        if self._in_parts:
            shown = [_parted(message) for message in shown]
        try:
            text: str = self.tokenizer.apply_chat_template(
                shown, tools=tools, tokenize=False, add_generation_prompt=generation
            )
        except Exception as error:  # a template is a program of its own and may raise whatever it likes
            raise TemplateError(f"{type(error).__name__}: {error}") from error
        return text


def special_tokens(tokenizer: Any) -> re.Pattern[str]:
    """Matches what the tokenizer takes for a special token wherever it stands, in a user's text too."""
    texts = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    return re.compile("|".join(re.escape(text) for text in sorted(texts, key=len, reverse=True)) or r"(?!)")


def stops(tokenizer: Any, model_dir: Path) -> frozenset[str]:
    """Texts of the tokens at which a model stops: ``eos_token``, and the ``eos_token_id`` (one or a list) of
    ``generation_config.json``. That of ``config.json`` doesn't count: the library overwrites it (model.py:479@0.16.2).
    """
    file = model_dir / "generation_config.json"
    value = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id") if file.exists() else None
    ids = {tokenizer.eos_token_id, *(value if isinstance(value, list) else [value])} - {None}
    return frozenset(tokenizer.convert_ids_to_tokens(sorted(ids)))


def _has_content(message: Message) -> bool:
    return message["role"] == "assistant" and bool(message.get("content"))


def _marked(message: Message, *, strip: bool = False) -> Message:
    if not _has_content(message):
        return message
    content = message["content"].strip() if strip else message["content"]
    return {**message, "content": f"{_BEGIN}{content}{_END}"}


def _parted(message: Message) -> Message:
    content = message.get("content")
    return {**message, "content": [{"type": "text", "text": content}]} if content else message


def _as_templates_know_it(message: Message) -> Message:
    """A turn that only calls tools has no content, in OpenAI's spelling: some templates write an empty one."""
    return {**message, "content": message["content"] or None} if message.get("tool_calls") else message


def _folded(messages: Sequence[Message]) -> list[Message]:
    if len(messages) < 2 or messages[0]["role"] not in SYSTEM_ROLES:
        return list(messages)
    system, user, *rest = messages
    return [{**user, "content": f"{system['content']}\n\n{user['content']}"}, *rest]


def _unmarked(text: str) -> str:
    return text.replace(_BEGIN, "").replace(_END, "")


def _spans(marked: str) -> list[Span]:
    """Where marked contents lie once the marks are taken out."""
    spans, taken_out, at = [], 0, marked.find(_BEGIN)
    while at >= 0:
        end = marked.find(_END, at)
        if end < 0:
            return []
        spans.append((at - taken_out, end - taken_out - 1))
        taken_out += 2
        at = marked.find(_BEGIN, end)
    return spans
