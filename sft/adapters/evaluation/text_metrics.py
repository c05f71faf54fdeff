"""Owns comparing a generated text with its reference. Only here: rouge-score and sacrebleu.

- ``exact_match``: 1 if the texts are equal except for white space around them, else 0.
- ``extracted_match``: 1 if what a pattern takes out of both is equal, else 0.
- ``rouge_1``, ``rouge_2``, ``rouge_l``: F-measure of the words, pairs of words, and longest common subsequence of words
  that both have, 0 to 1 (Lin, *ROUGE*, 2004, sections 2 and 3), by rouge-score.
- ``bleu``: BLEU of all texts together, 0 to 100 (Papineni et al., *BLEU*, 2002), by sacrebleu (Post, *A Call for
  Clarity in Reporting BLEU Scores*, 2018) with its default tokenizer. It is no mean over texts: each gives counts.
- ``chrf``: mean of each text's F2 of character n-grams up to 6, 0 to 100 (Popović, *chrF*, 2015), by sacrebleu.
"""

from __future__ import annotations

import functools
import re
import string
import unicodedata
from collections.abc import Callable, Collection, Mapping, Sequence
from decimal import Decimal
from typing import Any

from sft.errors import StageError

EXTRACT_SECONDS = 2.0
"""How long a pattern may search one text."""
BLEU_COUNTS = "bleu_counts"
_NUMBER = re.compile(r"[+-]?(\d{1,3}(,\d{3})+|\d+)?(\.\d+)?")
_ROUGE = {"rouge_1": "rouge1", "rouge_2": "rouge2", "rouge_l": "rougeL"}
_MAX_NGRAM = 4


class _Words:
    """Splits into words; rouge-score's own tokenizer keeps only a to z and digits: no German umlaut, no Chinese."""

    def tokenize(self, text: str) -> list[str]:
        return re.findall(r"\w+", text.lower())


class TextMetrics:
    """Compares texts by some metrics.

    Args:
        names: The metrics'.
        ignored: What is not compared by ``exact_match``: ``case``, ``punctuation``, ``white_space``.
        pattern: Of ``extracted_match``, with one group; its last match counts.
    """

    def __init__(self, names: Collection[str], ignored: Collection[str] = (), pattern: str | None = None) -> None:
        self._ignored = frozenset(ignored)
        makers: dict[str, Callable[[], Callable[[str, str], Mapping[str, Any]]]] = {
            "exact_match": lambda: self._exact_match,
            "extracted_match": lambda: functools.partial(_extracted_match, _compiled(pattern or "")),
            "bleu": _bleu,
            "chrf": _chrf,
        }
        self._compare = [makers[name]() for name in makers if name in names]
        if rouge := {name: kind for name, kind in _ROUGE.items() if name in names}:
            self._compare.append(_rouge(rouge))

    def compare(self, reference: str, written: str) -> dict[str, Any]:
        """Return a value by each metric's name; None where it says nothing of this pair; for BLEU its counts.

        Raises:
            StageError: The pattern takes too long.
        """
        return {name: value for compare in self._compare for name, value in compare(reference, written).items()}

    def _exact_match(self, reference: str, written: str) -> Mapping[str, float]:
        return {"exact_match": float(normalised(reference, self._ignored) == normalised(written, self._ignored))}


def normalised(text: str, ignored: Collection[str]) -> str:
    """Return a text without white space around it, and without what is ignored."""
    if "case" in ignored:
        text = text.casefold()
    if "punctuation" in ignored:
        text = "".join(c for c in text if c not in string.punctuation and not unicodedata.category(c).startswith("P"))
    return " ".join(text.split()) if "white_space" in ignored else text.strip()


def _rouge(kinds: Mapping[str, str]) -> Callable[[str, str], Mapping[str, float]]:
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(list(kinds.values()), tokenizer=_Words())

    def compare(reference: str, written: str) -> Mapping[str, float]:
        scores = scorer.score(reference, written)
        return {name: float(scores[kind].fmeasure) for name, kind in kinds.items()}

    return compare


def _chrf() -> Callable[[str, str], Mapping[str, float]]:
    from sacrebleu.metrics.chrf import CHRF

    scorer = CHRF()
    return lambda reference, written: {"chrf": float(scorer.sentence_score(written, [reference]).score)}


def _bleu() -> Callable[[str, str], Mapping[str, list[int]]]:
    from sacrebleu.metrics.bleu import BLEU

    scorer = BLEU()

    def compare(reference: str, written: str) -> Mapping[str, list[int]]:
        score = scorer.corpus_score([written], [[reference]])
        return {BLEU_COUNTS: [*score.counts, *score.totals, score.sys_len, score.ref_len]}

    return compare


def bleu(counts: Sequence[float]) -> float:
    """Return BLEU of texts from the sum of their counts: n-grams that match, all n-grams, and both lengths in words."""
    from sacrebleu.metrics.bleu import BLEU

    matches, totals = counts[:_MAX_NGRAM], counts[_MAX_NGRAM : 2 * _MAX_NGRAM]
    written, reference = map(int, counts[2 * _MAX_NGRAM :])
    score = BLEU.compute_bleu([*map(int, matches)], [*map(int, totals)], written, reference, smooth_method="exp")
    return float(score.score)


def _compiled(pattern: str) -> Any:
    import regex

    return regex.compile(pattern)


def _extracted_match(pattern: Any, reference: str, written: str) -> Mapping[str, float | None]:
    expected, found = _extracted(pattern, reference), _extracted(pattern, written)
    if expected is None:
        return {"extracted_match": None}
    return {"extracted_match": float(found is not None and _value(found) == _value(expected))}


def _extracted(pattern: Any, text: str) -> str | None:
    """Return what the group of the last match holds; None without a match."""
    last = None
    try:
        for match in pattern.finditer(text, timeout=EXTRACT_SECONDS):
            last = match[1]
    except TimeoutError as error:
        raise StageError(
            f"eval.holdout.extract: the pattern takes over {EXTRACT_SECONDS:.0f} s on a text of {len(text):,} "
            f"characters: {text[:100]!r}",
            fix="a pattern without a repetition inside a repetition",
        ) from error
    return last


def _value(text: str) -> str | Decimal:
    """Return a number as a number, so that 1,000 and 1000.0 are equal; any other text as it stands."""
    text = text.strip()
    is_number = any(map(str.isdigit, text)) and text.isascii() and _NUMBER.fullmatch(text)
    return Decimal(text.replace(",", "")) if is_number else text
