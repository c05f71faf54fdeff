"""Owns what an exported model says of itself: its record ``export.json`` and its card ``README.md``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import msgspec
import yaml

from sft import self_hashed_json
from sft.artifacts import EvalReport, ModelComparison, hash_files
from sft.scores import format_score, score_row
from sft.stages.model_card import CARD

RECORD = "export.json"
SCHEMA = 1


class ExportFormat(Enum):
    """What a run's model is exported to."""

    gguf = "gguf"
    ollama = "ollama"
    fp8 = "fp8"
    int8 = "int8"
    int4 = "int4"
    kserve = "kserve"


class Outcome(Enum):
    """What became of an export once it was scored."""

    passed = "passed"
    failed = "failed"
    no_gates = "scored, without gates"
    not_scored = "not scored"
    unchanged = "the run's own files, as the run scored them"


@dataclass(frozen=True, kw_only=True)
class ExportScores:
    """How an export compares with the run's model.

    Attributes:
        tuned: Scores of the run's model; None where the run scored none, and then neither is the export.
        report: Scores of the export.
        comparison: How they differ, by paired tests on the same samples.
        passed: A line for each gate that holds.
        missed: A line for each that doesn't.
        is_unchanged: Whether the export uses the run's own files, so that there is nothing to score again.
        otherwise: What was otherwise than when the run's model was scored: versions, the machine.
    """

    tuned: EvalReport | None = None
    report: EvalReport | None = None
    comparison: ModelComparison | None = None
    passed: tuple[str, ...] = ()
    missed: tuple[str, ...] = ()
    is_unchanged: bool = False
    otherwise: tuple[str, ...] = ()

    @property
    def outcome(self) -> Outcome:
        if self.is_unchanged and self.tuned:
            return Outcome.unchanged
        if self.report is None:
            return Outcome.not_scored
        if self.missed:
            return Outcome.failed
        return Outcome.passed if self.passed else Outcome.no_gates

    def lines(self) -> Iterator[str]:
        """Yield a line for each score: the run's model's, the export's, and the paired difference."""
        for name, before, after, difference in self.rows():
            yield f"{name:<24}  {before} → {after}  {difference}"

    def rows(self) -> Iterator[tuple[str, str, str, str]]:
        """Yield each score's name, its value before and after the export, and the paired difference, as text."""
        for score in self.report.scores if self.report else ():
            before = self.tuned.score(score.name) if self.tuned else None
            row = score_row(score, before, self.comparison.change(score.name) if self.comparison else None)
            yield row.name, row.before, row.after, row.difference


@dataclass(frozen=True, kw_only=True)
class ExportFacts:
    """Where an export came from, and how it was made.

    Attributes:
        format: As of ``--to``.
        kind: Type of the numbers in it: ``q8_0``; empty where nothing was converted.
        title: The model's name.
        license_name: As the hub names it; None = not said.
        source: Run id, and the digests of its record, its package and its checkpoint.
        versions: Of what made it.
        details: What the format's own steps found.
        scored_as: What was scored, in words.
        use: How the files are used: a command.
        notes: What the format doesn't carry, or does otherwise, a line each.
    """

    format: ExportFormat
    kind: str
    title: str
    license_name: str | None
    source: Mapping[str, str]
    versions: Mapping[str, str]
    details: Mapping[str, Any]
    scored_as: str
    use: str
    notes: Sequence[str] = ()


def write(folder: Path, facts: ExportFacts, scores: ExportScores) -> None:
    """Write card and record into an export's folder; the record last, with the digest of every other file."""
    (folder / CARD).write_text(_card(facts, scores), encoding="utf-8")
    changes = scores.comparison.changes if scores.comparison else ()
    record = {
        "schema": SCHEMA,
        "outcome": scores.outcome.value,
        "format": facts.format.value,
        "type": facts.kind,
        "source": facts.source,
        "versions": facts.versions,
        "details": facts.details,
        "notes": list(facts.notes),
        "scored_as": facts.scored_as,
        "scores": {
            "run": {score.name: score.value for score in (scores.tuned.scores if scores.tuned else ())},
            "export": {score.name: score.value for score in (scores.report.scores if scores.report else ())},
            "differences": {change.score: msgspec.to_builtins(change) for change in changes},
            "explained": scores.comparison.explained if scores.comparison else "",
            "scored_otherwise": list(scores.otherwise),
        },
        "gates": {"passed": list(scores.passed), "missed": list(scores.missed)},
        "files": hash_files(folder),
    }
    (folder / RECORD).write_bytes(self_hashed_json.dump_with_digest(record))


def _card(facts: ExportFacts, scores: ExportScores) -> str:
    tags = ["sft", facts.format.value]
    front = {"license": facts.license_name, "pipeline_tag": "text-generation", "tags": tags}
    kept = yaml.safe_dump({key: value for key, value in front.items() if value}, sort_keys=False, allow_unicode=True)
    kind = "" if facts.kind in ("", facts.format.value) else f", {facts.kind}"
    title = f"{facts.title}: {facts.format.value}{kind}"
    came = "\n".join(f"- {name}: `{value}`" for name, value in facts.source.items())
    made = ", ".join(f"{name} {version}" for name, version in facts.versions.items())
    sections = [f"# {title}", *_failed(scores), f"```sh\n{facts.use}\n```", *_scores(facts, scores)]
    if facts.notes:
        sections.append("## Otherwise than the original\n\n" + "\n".join(f"- {note}" for note in facts.notes))
    sections.append(f"## Where it came from\n\n{came}\n- made with {made}\n\n`{RECORD}` holds all of this.")
    return f"---\n{kept}---\n\n" + "\n\n".join(sections) + "\n"


def _failed(scores: ExportScores) -> Iterator[str]:
    if scores.outcome is Outcome.failed:
        yield "**This export failed its gates.** It was kept by `--keep`.\n\n" + "\n".join(
            f"- {line}" for line in scores.missed
        )


def _scores(facts: ExportFacts, scores: ExportScores) -> Iterator[str]:
    yield "## Scores"
    if scores.report is None and scores.tuned:
        rows = [f"| {one.name} | {format_score(one.value, one.stderr)} |" for one in scores.tuned.scores]
        yield "\n".join(["| score | the run's model |", "|---|---|", *rows])
    if scores.report is None:
        yield f"{facts.scored_as[:1].upper()}{facts.scored_as[1:]}."
        return
    rows = ["| score | the run's model | this export | difference |", "|---|---|---|---|"]
    rows += [f"| {' | '.join(cell or '–' for cell in cells)} |" for cells in scores.rows()]
    yield "\n".join(rows)
    if scores.comparison:
        yield f"Differences: {scores.comparison.explained}."
    yield f"Scored: {facts.scored_as}."
    if scores.otherwise:
        yield "Otherwise than when the run's model was scored: " + "; ".join(scores.otherwise) + "."
    if scores.passed and not scores.missed:
        yield "It passed these gates:\n\n" + "\n".join(f"- {line}" for line in scores.passed)
