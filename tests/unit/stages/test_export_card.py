"""What an exported model says of itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sft import self_hashed_json
from sft.artifacts import EvalReport, ModelComparison
from sft.files import sha256_file
from sft.scores import Change, Score, Verdict
from sft.stages.export_card import RECORD, ExportFacts, ExportFormat, ExportScores, Outcome, write

FACTS = ExportFacts(
    format=ExportFormat.gguf,
    kind="q8_0",
    title="speller",
    license_name="apache-2.0",
    source={"run": "speller-1a2b3c4d"},
    versions={"gguf": "0.19.0"},
    details={"pre": "qwen2"},
    scored_as="the file's own weights",
    use="llama-cli -m speller-Q8_0.gguf",
    notes=["the normalizer is not carried"],
)


def report(value: float) -> EvalReport:
    score = Score(
        task="holdout", metric="exact_match", value=value, stderr=0.01, num_samples=100, higher_is_better=True
    )
    return EvalReport(root=Path(), model_digest="d", scores=(score,))


@pytest.fixture
def scores() -> ExportScores:
    change = Change(
        score="holdout.exact_match",
        before=0.63,
        difference=-0.02,
        higher_is_better=True,
        verdict=Verdict.worse,
        num_units=100,
        stderr=0.005,
        p_value=0.001,
        interval=(-0.03, -0.01),
        corrected=(-0.03, -0.01),
    )
    comparison = ModelComparison(root=Path(), confidence=0.95, num_tests=1, changes=(change,))
    return ExportScores(tuned=report(0.63), report=report(0.61), comparison=comparison, passed=("it is: >= 0.6",))


def test_card_and_record_name_both_scores_and_their_paired_difference(tmp_path: Path, scores: ExportScores) -> None:
    (tmp_path / "speller-Q8_0.gguf").write_bytes(b"GGUF")
    write(tmp_path, FACTS, scores)
    card = (tmp_path / "README.md").read_text()
    row = "| holdout.exact_match | 0.6300 ± 0.0100 | 0.6100 ± 0.0100 | -0.0200, worse (-0.0300 to -0.0100) |"
    assert row in card
    for words in (
        "license: apache-2.0",
        "the normalizer is not carried",
        "- it is: >= 0.6",
        "- run: `speller-1a2b3c4d`",
    ):
        assert words in card
    record = self_hashed_json.load_checked((tmp_path / RECORD).read_bytes())
    assert record["outcome"] == "passed"
    assert record["scores"]["run"] == {"holdout.exact_match": 0.63}
    assert record["scores"]["export"] == {"holdout.exact_match": 0.61}
    assert record["scores"]["differences"]["holdout.exact_match"]["stderr"] == 0.005
    assert record["files"].keys() == {"README.md", "speller-Q8_0.gguf"}
    assert record["files"]["README.md"] == sha256_file(tmp_path / "README.md")


def test_one_that_failed_says_so_first(tmp_path: Path, scores: ExportScores) -> None:
    failed = ExportScores(report=scores.report, tuned=scores.tuned, missed=("it is 0.61, not >= 0.62",))
    assert failed.outcome is Outcome.failed
    write(tmp_path, FACTS, failed)
    assert "**This export failed its gates.**" in (tmp_path / "README.md").read_text().split("## Scores")[0]
    assert json.loads((tmp_path / RECORD).read_text())["gates"]["missed"] == ["it is 0.61, not >= 0.62"]


def test_one_that_was_not_scored_is_not_called_good(tmp_path: Path) -> None:
    assert ExportScores().outcome is Outcome.not_scored
    assert ExportScores(tuned=report(1), report=report(1)).outcome is Outcome.no_gates
    write(tmp_path, FACTS, ExportScores())
    assert json.loads((tmp_path / RECORD).read_text())["outcome"] == "not scored"


def test_unchanged_files_have_the_runs_own_scores(tmp_path: Path) -> None:
    unchanged = ExportScores(tuned=report(0.63), is_unchanged=True, passed=("it is: >= 0.6",))
    assert unchanged.outcome is Outcome.unchanged
    write(tmp_path, FACTS, unchanged)
    assert "| holdout.exact_match | 0.6300 ± 0.0100 |" in (tmp_path / "README.md").read_text()
