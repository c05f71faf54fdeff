"""Settings of the group `eval.judge`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sft.config.schema.bounds import number, setting, tree
from sft.config.schema.rules import Each, Text
from sft.config.schema.texts import FREE, LINE, matches, not_empty

_ADDRESS = Text(matches(r"https?://[^\s/?#]+(/[^\s?#]*)?", "must be http://HOST/… or https://HOST/…, without a query"))
_VARIABLE = Text(matches("[A-Za-z_][A-Za-z0-9_]{0,254}", "must be the name of an environment variable"))

DEFAULT_PROMPT = """\
You compare two answers that AI assistants gave to the same user. Say which one serves the user better. A correct \
answer is better than a wrong one. Among answers that are equally correct, the better one does what was asked, is \
clear, and leaves out what the user does not need. Neither the length of an answer nor its place says anything about \
its quality."""


@dataclass(kw_only=True)
class JudgeConfig:
    """Compare the base model's answers with the tuned model's, on held-out sets, by asking a third model."""

    address: str | None = setting(None, _ADDRESS)
    """Of a server of OpenAI-compatible chat completions, up to and with `/v1`, as clients call `base_url`:
    `http://localhost:8000/v1`. null = there is no judge."""
    model: str = setting("", Text())
    """What that server calls the model."""
    version: str = setting("", FREE)
    """Your name for what stands behind the address: with another one everything is asked anew. For a judge that was
    changed and is still called as before."""
    holdouts: list[str] | None = setting(None, Each(LINE))
    """Held-out sets that are judged, `holdout` being the evaluation split; null = all that are scored."""
    prompt: str = setting(DEFAULT_PROMPT, Text(not_empty))
    """What is asked, in your own words. The conversation, the answers and the form of a verdict are added to it."""
    show_reference: bool = True
    """Also show the judge the held-out answer, as a reference."""
    limit: int | None = number(None, at_least=1)
    """Judge so many of the samples of each set that are scored, drawn with `eval.seed`; null = all. Each turn takes
    two requests."""
    parameters: dict[str, Any] = tree()
    """Added to each request as they are (`max_completion_tokens` …). `temperature` is 0 and `max_tokens` 1024 unless
    they are given here; null leaves one out."""
    key_env: str | None = setting(None, _VARIABLE)
    """Environment variable that holds the server's key; null = it needs none. The key itself is never a setting."""
    concurrency: int = number(4, at_least=1, at_most=256)
    """Requests at once."""
    timeout_seconds: int = number(120, at_least=1, at_most=86_400)
    """Longest time for one request. One that takes longer is repeated."""
    max_attempts: int = number(5, at_least=1, at_most=100)
    """Attempts for one request, where the server is busy, fails or can't be reached."""
    max_unparsable: float = number(0.05, at_least=0, at_most=1)
    """Largest part of the judgments that may end without a verdict; such a pair is a tie. With more, the run ends."""
