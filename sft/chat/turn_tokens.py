"""Where an assistant's turns lie in the tokens of a conversation, such that what precedes each is what generation
starts from.

The library's `unmask_sample` knows only `eos_token` as a terminator (data_process.py:721@0.16.2), so that Gemma, Phi or
GLM models learn never to stop, or learn the next header (trap 2), and it labels what a template strips (trap 10). Here
a turn begins where the generation prompt ends, and ends with the first token at which the model stops: that is what the
model has to write.
"""

from __future__ import annotations

import functools
import re
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sft.chat.reasoning import check_marks, ends_a_thought, num_before, reasoning_of
from sft.chat.special_tokens import special_tokens
from sft.chat.template import PROBE, Message, Renderer, TemplateError
from sft.errors import DataError

STOP_FIX = (
    "the token that ends a turn in the chat template must be the tokenizer's eos_token, or among the eos_token_id of "
    "generation_config.json"
)
_SHOWN_CHARACTERS = 60
SPLIT_FIX = "remove split_special_tokens from tokenizer_config.json, or take a tokenizer in which it is one token"


@dataclass(frozen=True)
class Turn:
    """An assistant's turn in a sequence of tokens.

    Attributes:
        number: Its place among the messages, from 0.
        prompt: From which generation starts; its tokens are exactly those before `places`.
        places: Of its tokens, terminator included.
        reasoning: Those of them that spell its reasoning, without the marks that the template puts around it; None
            where the template rewrites the reasoning, so that it can't be told from the rest.
    """

    number: int
    prompt: str
    places: range
    reasoning: range | None


@dataclass(frozen=True)
class TokenSequence:
    """Tokens of a conversation, and those of the assistant's turns that are seen in it as the model writes them."""

    token_ids: list[int]
    turns: list[Turn]


@dataclass(frozen=True)
class TurnText:
    """A turn as the template renders it when it is the last one, before it is tokenised.

    Attributes:
        number: Its place among the messages, from 0.
        prompt: From which generation starts.
        text: Begins with `prompt`.
        end: Where the turn ends in `text`, terminator included.
    """

    number: int
    prompt: str
    text: str
    end: int


class TurnFinder:
    """Finds turns in texts and tokens.

    Args:
        renderer: The tokenizer with its chat template.
    """

    def __init__(self, renderer: Renderer) -> None:
        self.renderer = renderer
        self._tokenizer = renderer.tokenizer
        self._stop = re.compile("|".join(map(re.escape, sorted(renderer.stops))) or r"(?!)")
        self._stop_ids = {*renderer.tokenizer.convert_tokens_to_ids(sorted(renderer.stops))}
        self._special = special_tokens(renderer.tokenizer)
        self._ids_of_tail = functools.lru_cache(1024)(self._ids)

    def sequences(
        self, messages: Sequence[Message], whole: str, tools: Any, numbers: Iterable[int]
    ) -> tuple[TokenSequence, list[TokenSequence]]:
        """Return the tokens of the whole conversation, and a sequence for each turn that needs one of its own.

        A turn needs its own sequence if the template shows it otherwise once a conversation goes on (Qwen3 drops its
        reasoning, gpt-oss changes its terminator), or if the tokenizer merges its beginning with the prompt's end.

        Args:
            messages: The conversation.
            whole: All of it, rendered.
            tools: Descriptions of tools.
            numbers: The turns to find, by their places among the messages.

        Raises:
            TemplateError: The conversation can't be rendered, or it can't be proved where a turn lies.
            DataError: No conversation can be trained with this template.
        """
        encoded = self._encoded(whole)
        shared, own = [], []
        for number in numbers:
            turn = self.find(messages, number, whole, tools)
            reasoning = reasoning_of(messages[number])
            in_whole = whole.startswith(turn.text[: turn.end]) and self._first_token(encoded, turn.prompt) is not None
            if in_whole:
                shared.append(self._turn(encoded, turn, reasoning))
            else:
                own.append(self._own_sequence(turn, reasoning))
        return TokenSequence(encoded["input_ids"], shared), own

    def find(self, messages: Sequence[Message], number: int, whole: str, tools: Any = None) -> TurnText:
        """Return a turn's text, from the end of the generation prompt to the first token at which the model stops.

        Args:
            messages: The conversation.
            number: The turn's place among them.
            whole: The whole conversation, rendered.
            tools: Descriptions of tools.

        Raises:
            TemplateError: The template raises, drops or changes the turn, or its generation prompt is another text.
            DataError: No token at which the model stops ends the turns of this template.
        """
        prompt = self.renderer.prompt(messages[:number], tools)
        is_last = number + 1 == len(messages)
        text = whole if is_last else self.renderer.text(messages[: number + 1], tools)
        if not text.startswith(prompt):
            text = _after_prompt(prompt, text)
        stop = self._stop.search(text, len(prompt))
        if stop is None:
            raise self._never_stops(text, messages[number])
        if not _holds(text[len(prompt) : stop.start()], messages[number].get("content") or ""):
            raise TemplateError("the chat template drops or changes an assistant's turn")
        if ends_a_thought(messages[number]):
            header = max((match.end() for match in self._stop.finditer(prompt)), default=0)
            check_marks(messages[number], text[header : stop.start()])
        return TurnText(number, prompt, text, stop.end())

    def _never_stops(self, text: str, message: Message) -> Exception:
        """Return the error for a turn: of the row if other turns stop, else of the template."""
        content = message.get("content")
        after = text.rpartition(content)[2] if content else ""
        follows = f"then comes {after[:40]!r}" if after else "then comes nothing"
        stops = ", ".join(sorted(self.renderer.stops)) or "none"
        if self._plain_turns_stop():
            return TemplateError(f"no token at which the model stops ends the turn: {follows}; it stops at {stops}")
        return DataError(
            "with this chat template no token at which the model stops ends an assistant's turn: "
            f"{follows}; it stops at {stops}",
            fix=STOP_FIX,
        )

    def _plain_turns_stop(self) -> bool:
        prompt, text = self.renderer.prompt(PROBE[:1]), self.renderer.text(PROBE)
        return self._stop.search(text, _common(prompt, text)) is not None

    def _own_sequence(self, turn: TurnText, reasoning: str) -> TokenSequence:
        """Return the tokens of a turn as the last one. Its prompt is tokenised alone where the two would merge."""
        text = turn.text[: turn.end]
        encoded = self._encoded(text)
        if self._first_token(encoded, turn.prompt) is None:
            encoded = self._tokenised_apart(text, turn.prompt, encoded["input_ids"])
        return TokenSequence(encoded["input_ids"], [self._turn(encoded, turn, reasoning)])

    def _tokenised_apart(self, text: str, prompt: str, together: list[int]) -> dict[str, Any]:
        """Return the tokens of a prompt, then those of what follows it.

        Raises:
            TemplateError: They don't spell the text.
        """
        first, second = self._encoded(prompt), self._encoded(text[len(prompt) :])
        ids = first["input_ids"] + second["input_ids"]
        if self._decode(ids) != self._decode(together):
            answer = text[len(prompt) :][:_SHOWN_CHARACTERS]
            raise TemplateError(
                f"the tokenizer merges the end of the generation prompt with the beginning of {answer!r}, and spells "
                "them differently when they are apart"
            )
        moved = [(begin + len(prompt), end + len(prompt)) for begin, end in second["offset_mapping"]]
        return {"input_ids": ids, "offset_mapping": [*first["offset_mapping"], *moved]}

    def _turn(self, encoded: dict[str, Any], turn: TurnText, reasoning: str) -> Turn:
        """Return where a turn lies in the tokens of a text, proved by decoding them.

        Raises:
            TemplateError: The tokens there spell something else.
            DataError: The tokenizer makes several tokens of that at which the model stops.
        """
        places = _places(encoded["offset_mapping"], len(turn.prompt), turn.end)
        if encoded["input_ids"][places.stop - 1] not in self._stop_ids:
            stop = turn.text[: turn.end][-_SHOWN_CHARACTERS:]
            raise DataError(
                f"the tokenizer makes several tokens of what ends {stop!r}: the model would never learn to stop",
                fix=SPLIT_FIX,
            )
        written = self._decode(encoded["input_ids"][places.start : places.stop])
        expected = turn.text[len(turn.prompt) : turn.end]
        if written != expected and _squeezed(written) != _squeezed(self._normalised(expected)):
            raise TemplateError(
                f"the tokens of an assistant's turn spell {written[:_SHOWN_CHARACTERS]!r}, "
                f"not {expected[:_SHOWN_CHARACTERS]!r}"
            )
        return Turn(turn.number, turn.prompt, places, _reasoning_places(encoded["offset_mapping"], turn, reasoning))

    def _first_token(self, encoded: dict[str, Any], prompt: str) -> int | None:
        """Return the place of the first token after a prompt with which the text begins.

        None if the tokens before it aren't those of the prompt alone. What stands before a special token is tokenised
        apart from what follows, so only what comes after the last special token is compared.
        """
        offsets = encoded["offset_mapping"]
        first = bisect_left(offsets, len(prompt), key=_begin)
        if first and offsets[first - 1][1] > len(prompt):
            return None
        begin = max((match.start() for match in self._special.finditer(prompt)), default=0)
        tail = self._ids_of_tail(prompt[begin:])
        return first if encoded["input_ids"][bisect_left(offsets, begin, key=_begin) : first] == tail else None

    def _encoded(self, text: str) -> dict[str, Any]:
        encoded = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return {"input_ids": encoded["input_ids"], "offset_mapping": encoded["offset_mapping"]}

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return ids

    def _decode(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        return text

    def _normalised(self, text: str) -> str:
        """Return a text as the tokenizer normalises it before it looks for tokens (Qwen2's to Unicode's NFC)."""
        normalizer = self._tokenizer.backend_tokenizer.normalizer
        return text if normalizer is None else str(normalizer.normalize_str(text))


def _after_prompt(prompt: str, text: str) -> str:
    """Return `text` such that it begins with the prompt, where only white space at the prompt's end is missing in it.

    Raises:
        TemplateError: More is missing, so that training would begin with another text than generation.
    """
    common = _common(prompt, text)
    if missing := prompt[common:].strip():
        raise TemplateError(
            f"generation starts after {prompt[-20:]!r}, but the chat template doesn't render "
            f"{missing[-_SHOWN_CHARACTERS:]!r} before this answer: the model would be trained on another beginning "
            "than it gets (model.chat_template, model.chat_template_kwargs)"
        )
    return prompt + text[common:]


def _common(one: str, other: str) -> int:
    """Return how many characters two texts have in common at their beginning."""
    shorter = min(len(one), len(other))
    return next((place for place in range(shorter) if one[place] != other[place]), shorter)


def _holds(text: str, content: str) -> bool:
    """Return whether a rendered turn holds a content, white space aside, which templates strip."""
    return content in text or _squeezed(content) in _squeezed(text)


def _squeezed(text: str) -> str:
    """Return a text without white space, which templates strip and tokenizers normalise."""
    return "".join(text.split())


def _begin(offset: tuple[int, int]) -> int:
    return offset[0]


def _reasoning_places(offsets: Sequence[tuple[int, int]], turn: TurnText, reasoning: str) -> range | None:
    first = len(turn.prompt) + num_before(turn.text[len(turn.prompt) : turn.end])
    begin = turn.text.find(reasoning, first, turn.end) if reasoning else -1
    if begin >= 0:
        return _places(offsets, begin, begin + len(reasoning), partly=True)
    return None if reasoning and _holds(turn.text[len(turn.prompt) : turn.end], reasoning) else range(0)


def _places(offsets: Sequence[tuple[int, int]], begin: int, end: int, *, partly: bool = False) -> range:
    """Return the tokens whose characters lie from `begin` to `end`; with `partly` also one that only begins before."""
    first = bisect_left(offsets, begin, key=_begin)
    if partly and first and offsets[first - 1][1] > begin:
        first -= 1
    return range(first, bisect_left(offsets, end, key=_begin))
