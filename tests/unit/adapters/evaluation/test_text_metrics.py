"""Metrics of texts against values worked out by hand, and against the libraries' own documentation."""

from __future__ import annotations

from typing import Any

import pytest

from sft.adapters.evaluation import text_metrics
from sft.adapters.evaluation.text_metrics import BLEU_COUNTS, TextMetrics, bleu
from sft.config.schema import HoldoutMetric, NotCompared
from sft.errors import StageError
from sft.scores import TEXT_METRICS, TOKEN_METRICS

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
GSM8K = r"#### (-?[\d,]+)"


def value(metric: str, reference: str, written: str, **settings: Any) -> Any:
    [(name, found)] = TextMetrics([metric], **settings).compare(reference, written).items()
    assert name == metric
    return found


def test_exact_match_ignores_white_space_around_the_text_only() -> None:
    assert value("exact_match", "one two", " one two\n") == 1.0
    assert value("exact_match", "one two", "one  two") == 0.0


@pytest.mark.parametrize(
    ("ignored", "reference", "written"),
    [
        ("case", "Straße", "STRASSE"),
        ("punctuation", "Yes, it is: $5!", "Yes it is 5"),
        ("punctuation", "「はい」。", "はい"),
        ("white_space", "one two", "one\n\ttwo "),
    ],
)
def test_exact_match_ignores_what_it_is_told_and_nothing_else(ignored: str, reference: str, written: str) -> None:
    assert value("exact_match", reference, written, ignored=[ignored]) == 1.0
    others = {each.value for each in NotCompared} - {ignored}
    assert value("exact_match", reference, written, ignored=others) == 0.0


def test_rouge_is_the_f_measure_of_words_pairs_of_words_and_the_longest_common_subsequence() -> None:
    # Lin (2004), section 3.1: "police killed the gunman" and "police kill the gunman" share "police the gunman".
    killed, kill = "police killed the gunman", "police kill the gunman"
    assert value("rouge_l", killed, kill) == pytest.approx(3 / 4)
    assert value("rouge_1", killed, "the gunman kill police") == pytest.approx(3 / 4)
    assert value("rouge_l", killed, "the gunman kill police") == pytest.approx(2 / 4)
    assert value("rouge_2", killed, kill) == pytest.approx(1 / 3)  # of three pairs "the gunman"
    assert value("rouge_l", "Straße über Österreich", "straße ÜBER österreich") == 1.0
    assert value("rouge_l", "日本 語", "日本") == pytest.approx(2 / 3)


def test_chrf_is_sacrebleus_for_a_sentence() -> None:
    assert value("chrf", "a b c d", "a b c d") == pytest.approx(100.0)
    assert value("chrf", "abc", "xyz") == 0.0
    # abcd against abce: 3/4 of 1-grams, 2/3 of 2-grams, 1/2 of 3-grams, 0 of the only 4-gram; no longer ones count.
    assert value("chrf", "abcd", "abce") == pytest.approx(100 * (3 / 4 + 2 / 3 + 1 / 2 + 0) / 4, abs=1e-6)


def test_bleu_comes_from_counts_of_all_texts_as_papineni_says() -> None:
    found = TextMetrics(["bleu"]).compare("a b c d e", "a b c d")
    assert found == {BLEU_COUNTS: [4, 3, 2, 1, 4, 3, 2, 1, 4, 5]}
    assert bleu(found[BLEU_COUNTS]) == pytest.approx(100 * 2.718281828**-0.25)  # every n-gram, one word too short


@pytest.mark.parametrize(
    ("reference", "written", "expected"),
    [
        ("6 + 6 = 12\n#### 12", "so 5\n#### 5\nno: #### 12", 1.0),
        ("#### 1,000", "#### 1000", 1.0),
        ("#### 12", "12", 0.0),
        ("#### 12", "#### 13", 0.0),
        ("twelve", "#### 12", None),
    ],
)
def test_the_last_match_of_a_pattern_is_the_answer(reference: str, written: str, expected: float | None) -> None:
    assert value("extracted_match", reference, written, pattern=GSM8K) == expected


def test_numbers_are_equal_as_numbers_and_texts_as_texts() -> None:
    def same(one: str, other: str) -> bool:
        return bool(value("extracted_match", one, other, pattern="^(.*)$"))

    assert same("3.50", "3.5")
    assert same("+7", "7")
    assert not same("-7", "7")
    assert not same("1,00", "100")
    assert not same("B", "b")
    assert same("(B) ", "(B)")


def test_a_pattern_that_never_ends_is_stopped_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_metrics, "EXTRACT_SECONDS", 0.05)
    with pytest.raises(StageError, match=r"eval\.holdout\.extract: the pattern takes over"):
        value("extracted_match", "a" * 60 + "b", "", pattern="((?:a|aa)+)$")


def test_every_metric_that_a_recipe_can_choose_is_one_that_is_scored() -> None:
    assert [metric.value for metric in HoldoutMetric] == [*TOKEN_METRICS, *TEXT_METRICS]
    named = {BLEU_COUNTS if name == "bleu" else name for name in TEXT_METRICS}
    assert set(TextMetrics(TEXT_METRICS, pattern="(a)").compare("a", "b")) == named
