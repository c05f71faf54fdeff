"""Metrics of texts against values worked out by hand, and against the libraries' own documentation."""

from __future__ import annotations

import pytest

from sft.adapters.evaluation.text_metrics import comparisons
from sft.scores import TEXT_METRICS

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def test_exact_match_ignores_white_space_around_the_text_only() -> None:
    exact = comparisons()["exact_match"]
    assert exact("one two", " one two\n") == 1.0
    assert exact("one two", "one  two") == 0.0


def test_rouge_l_is_the_f_measure_of_the_longest_common_subsequence_of_words() -> None:
    rouge = comparisons()["rouge_l"]
    # Lin (2004), section 3.1: "police killed the gunman" and "police kill the gunman" share "police the gunman".
    assert rouge("police killed the gunman", "police kill the gunman") == pytest.approx(3 / 4)
    assert rouge("Straße über Österreich", "straße ÜBER österreich") == 1.0
    assert rouge("日本 語", "日本") == pytest.approx(2 / 3)


def test_chrf_is_sacrebleus_for_a_sentence() -> None:
    chrf = comparisons()["chrf"]
    assert chrf("a b c d", "a b c d") == pytest.approx(100.0)
    assert chrf("abc", "xyz") == 0.0
    # abcd against abce: 3/4 of 1-grams, 2/3 of 2-grams, 1/2 of 3-grams, 0 of the only 4-gram; no longer ones count.
    assert chrf("abcd", "abce") == pytest.approx(100 * (3 / 4 + 2 / 3 + 1 / 2 + 0) / 4, abs=1e-6)


def test_every_text_metric_of_the_table_is_compared_and_no_other() -> None:
    assert set(comparisons()) == set(TEXT_METRICS)
