"""Owns comparing a generated text with its reference."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

Compare = Callable[[str, str], float]
"""Takes the reference, then the generated text."""


class _Words:
    """Splits into words; rouge-score's own tokenizer keeps only a to z and digits: no German umlaut, no Chinese."""

    def tokenize(self, text: str) -> list[str]:
        return re.findall(r"\w+", text.lower())


def comparisons() -> Mapping[str, Compare]:
    """Return the comparisons by their metric's name.

    - ``exact_match``: 1 if the texts are equal except for white space around them, else 0.
    - ``rouge_l``: F-measure of the longest common subsequence of words, 0 to 1 (Lin, *ROUGE*, 2004, section 3.1).
    - ``chrf``: F2 of character n-grams up to 6, 0 to 100 (Popović, *chrF*, 2015), sacrebleu's for a sentence.
    """
    from rouge_score.rouge_scorer import RougeScorer
    from sacrebleu.metrics.chrf import CHRF

    rouge, chrf = RougeScorer(["rougeL"], tokenizer=_Words()), CHRF()
    return {
        "exact_match": lambda target, written: float(target.strip() == written.strip()),
        "rouge_l": lambda target, written: float(rouge.score(target, written)["rougeL"].fmeasure),
        "chrf": lambda target, written: float(chrf.sentence_score(written, [target]).score),
    }
