"""The scores of the held-out split: means over tokens and turns with the error of a ratio."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from sft import sample_values
from sft.adapters.evaluation.aggregate import corpus_values, mean, publish
from sft.adapters.evaluation.text_metrics import BLEU_COUNTS, TextMetrics
from sft.errors import StageError
from sft.scores import TEXT_METRICS, TOKEN_METRICS


def turn(loss: float, num_tokens: int, num_correct: int, prompt: str = "", **written: Any) -> dict[str, Any]:
    return {"prompt": prompt, "loss": loss, "num_tokens": num_tokens, "num_correct": num_correct, **written}


def scores(folder: Path, *samples: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    rows = [{"sample": number, "turns": turns} for number, turns in enumerate(samples)]
    kept = {"bleu" if name == BLEU_COUNTS else name for name in samples[0][0]}
    metrics = [*TOKEN_METRICS, *(name for name in TEXT_METRICS if name in kept)]
    return {score["metric"]: score for score in publish(rows, "support", folder / "samples.jsonl", metrics)}


def test_loss_is_a_mean_over_tokens_and_text_metrics_over_turns(tmp_path: Path) -> None:
    first = [turn(2.0, 2, 1, exact_match=1.0), turn(4.0, 2, 0, exact_match=0.0)]
    found = scores(tmp_path, first, [turn(1.0, 6, 6, exact_match=1.0)])
    assert found["loss"]["value"] == pytest.approx(7 / 10)
    assert found["token_accuracy"]["value"] == pytest.approx(7 / 10)
    assert found["exact_match"]["value"] == pytest.approx(2 / 3)
    assert found["perplexity"]["value"] == pytest.approx(math.exp(0.7))
    assert found["perplexity"]["stderr"] == pytest.approx(found["loss"]["stderr"] * math.exp(0.7))
    assert {name: score["higher_is_better"] for name, score in found.items()} == {
        "loss": False, "perplexity": False, "token_accuracy": True, "exact_match": True,
    }  # fmt: skip
    assert {score["num_samples"] for score in found.values()} == {2}


def test_turns_are_written_in_the_splits_order(tmp_path: Path) -> None:
    scores(tmp_path, [turn(1.0, 1, 1), turn(2.0, 1, 1)], [turn(3.0, 1, 1)])
    rows = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert [(row["sample"], row["loss"]) for row in rows] == [(0, 1.0), (0, 2.0), (1, 3.0)]


def test_bleu_is_sacrebleus_of_the_corpus_and_its_error_the_jackknifes(tmp_path: Path) -> None:
    from sacrebleu.metrics.bleu import BLEU

    references = [f"the cat number {n} sat on the mat and looked at {n} dogs" for n in range(9)]
    written = [text.replace("cat", "dog") if n % 3 else text[: 20 + n] for n, text in enumerate(references)]
    compare = TextMetrics(["bleu"]).compare
    turns = [[turn(1.0, 1, 1, **compare(*pair))] for pair in zip(references, written, strict=True)]
    found = scores(tmp_path, *turns)["bleu"]

    def of_corpus(left_out: int | None = None) -> float:
        kept = [n for n in range(9) if n != left_out]
        return float(BLEU().corpus_score([written[n] for n in kept], [[references[n] for n in kept]]).score)

    without = [of_corpus(n) for n in range(9)]
    jackknife = math.sqrt(8 / 9 * math.fsum((one - math.fsum(without) / 9) ** 2 for one in without))
    assert found["value"] == pytest.approx(of_corpus())
    assert found["stderr"] == pytest.approx(jackknife)
    kept = sample_values.read(tmp_path)["support.bleu"]
    assert kept.value == pytest.approx(of_corpus())


def test_values_of_a_corpus_metric_that_is_a_mean_are_the_samples_own() -> None:
    values = corpus_values(lambda counts: counts[0] / counts[1], [(2, 1), (5, 1), (11, 1)])
    assert values == pytest.approx([2, 5, 11])


def test_metrics_that_nobody_asked_for_are_no_scores(tmp_path: Path) -> None:
    assert [*scores(tmp_path, [turn(1.0, 1, 1)])] == ["loss", "perplexity", "token_accuracy"]


def test_what_each_conversation_adds_to_a_score_is_kept_and_gives_the_score(tmp_path: Path) -> None:
    turns = [turn(2.0, 2, 1, exact_match=1.0), turn(4.0, 2, 0, exact_match=0.0)]
    found = scores(tmp_path, turns, [], [turn(1.0, 6, 6, exact_match=1.0)])
    kept = sample_values.read(tmp_path)
    assert {name: values.value for name, values in kept.items()} == {
        f"support.{metric}": pytest.approx(score["value"]) for metric, score in found.items()
    }
    loss = kept["support.loss"]
    assert (loss.units, loss.sums, loss.counts) == ([0, 2], [6.0, 1.0], [4.0, 6.0])
    assert kept["support.exact_match"].counts == [2.0, 1.0]


def test_conversations_with_one_prompt_are_a_cluster(tmp_path: Path) -> None:
    scores(tmp_path, [turn(1.0, 1, 1, "a")], [turn(1.0, 1, 1, "b")], [turn(1.0, 1, 1, "a")])
    assert sample_values.read(tmp_path)["support.loss"].clusters == [0, 1, 0]


def test_a_loss_without_a_perplexity_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"support: a loss of 800\.0 per token has no perplexity"):
        scores(tmp_path, [turn(800.0, 1, 0)])


def test_one_conversation_has_no_error(tmp_path: Path) -> None:
    found = scores(tmp_path, [turn(1.0, 1, 1)])
    assert {score["stderr"] for score in found.values()} == {None}


def test_conversations_of_one_ratio_have_no_error_whatever_their_lengths() -> None:
    assert mean([1.0, 2.0, 4.0], [2, 4, 8]) == (0.5, 0.0)
