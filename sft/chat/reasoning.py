"""What of an assistant's turn is its reasoning, as the row says it and as a template renders it."""

from __future__ import annotations

from sft.chat.template import Message, TemplateError

_OPENS, _CLOSES = "<think>", "</think>"


def reasoning_of(message: Message) -> str:
    """Return a turn's reasoning: its ``reasoning_content``, or what its content begins with up to ``</think>``.

    Models return it without the first mark where the generation prompt has that already.
    """
    if reasoning := message.get("reasoning_content"):
        return str(reasoning).strip()
    before, mark, _ = (message.get("content") or "").partition(_CLOSES)
    thought = before.lstrip().removeprefix(_OPENS)
    return thought.strip() if mark and _OPENS not in thought else ""


def num_before(written: str) -> int:
    """Return how many characters of a rendered turn come before its reasoning: white space, and the first mark."""
    rest = written.lstrip()
    return len(written) - len(rest) + (len(_OPENS) if rest.startswith(_OPENS) else 0)


def ends_a_thought(message: Message) -> bool:
    """Return whether a turn's content holds the mark that ends its reasoning."""
    return _CLOSES in (message.get("content") or "")


def check_marks(message: Message, shown: str) -> None:
    """Check that a turn whose content ends a thought is not given a second one.

    Args:
        message: The turn.
        shown: As it is rendered, from the header that generation starts from.

    Raises:
        TemplateError: The template puts marks around nothing, and the reasoning into the answer.
    """
    own = message["content"].count(_CLOSES) + bool(message.get("reasoning_content"))
    if shown.count(_CLOSES) > own:
        raise TemplateError(
            f"the content has its reasoning before {_CLOSES}, and the chat template adds another {_CLOSES} to it: "
            "write the reasoning as reasoning_content"
        )
