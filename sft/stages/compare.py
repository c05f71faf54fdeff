"""The compare stage: two evaluations in, what each score's difference says out, and the samples that changed most."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import msgspec

from sft import paired, sample_values
from sft.artifacts import EvalReport, ModelComparison
from sft.config.schema import EvalConfig
from sft.files import write_json
from sft.paired import NotPaired, PairedDifference
from sft.progress import Progress
from sft.sample_values import SampleValues
from sft.scores import Change, Score, Verdict
from sft.stages.changed_samples import most_changed

REPORT_NAME = "comparison.json"


@dataclass(frozen=True, kw_only=True)
class CompareInputs:
    """What the compare stage takes.

    Attributes:
        baseline: Scores of the base model.
        report: Scores of the tuned model.
    """

    baseline: EvalReport
    report: EvalReport


def compare(cfg: EvalConfig, inputs: CompareInputs, out: Path, progress: Progress) -> ModelComparison:
    """Say of each score whether it got better, worse, or neither as far as can be seen.

    Every score with an error is a test; scores that are one test in two forms, as loss and perplexity, count once.
    Verdicts are corrected for the number of tests (`sft.paired.holm`).

    Args:
        cfg: The evaluation settings.
        inputs: The scores.
        out: Private staging folder.
        progress: Told what is in doubt.
    """
    before, after = sample_values.read(inputs.baseline.root), sample_values.read(inputs.report.root)
    changes: dict[str, Change] = {}
    differences: dict[str, PairedDifference] = {}
    for score, old in _pairs(inputs):
        changes[score.name] = Change(
            score=score.name,
            before=old.value,
            difference=score.value - old.value,
            higher_is_better=score.higher_is_better,
            verdict=Verdict.none,
        )
        try:
            differences[score.name] = _difference(score.name, inputs, before, after)
        except NotPaired as error:
            changes[score.name] = replace(changes[score.name], reason=str(error))
    tests = _distinct(list(differences), before, after)
    levels = paired.holm([differences[names[0]].p_value for names in tests], cfg.confidence)
    for names, level in zip(tests, levels, strict=True):
        for name in names:
            try:
                changes[name] = judged(changes[name], differences[name], cfg.confidence, level)
            except NotPaired as error:
                changes[name] = replace(changes[name], reason=str(error))
    comparison = ModelComparison(
        root=out, confidence=cfg.confidence, num_tests=len(tests), changes=tuple(changes.values())
    )
    _say(comparison, progress)
    facts = {name: value for name, value in asdict(comparison).items() if name not in {"root", "digest"}}
    write_json(out / REPORT_NAME, msgspec.to_builtins(facts))
    lines = (msgspec.json.encode(sample) + b"\n" for sample in most_changed(inputs.baseline, inputs.report))
    comparison.samples_file.write_bytes(b"".join(lines))
    return comparison


def _pairs(inputs: CompareInputs) -> Iterator[tuple[Score, Score]]:
    for score in inputs.report.scores:
        if old := inputs.baseline.score(score.name):
            yield score, old


def _difference(
    name: str, inputs: CompareInputs, before: Mapping[str, SampleValues], after: Mapping[str, SampleValues]
) -> PairedDifference:
    """Return how a score differs.

    Raises:
        NotPaired: Nothing can be said of it.
    """
    if name not in before or name not in after:
        raise NotPaired("no mean over samples, so it has no paired error")
    other_data = {*inputs.report.other_data(inputs.baseline)}
    if name.partition(".")[0] in other_data or other_data & {*after[name].units}:
        raise NotPaired("its data changed since the base model was scored")
    return paired.compare(before[name], after[name])


def _distinct(
    names: list[str], before: Mapping[str, SampleValues], after: Mapping[str, SampleValues]
) -> list[list[str]]:
    """Return names, together those of scores with the same values: loss and perplexity, one metric in two filters."""
    tests: list[list[str]] = []
    for name in names:
        twin = next((test for test in tests if all(_is_same(of[name], of[test[0]]) for of in (before, after))), None)
        if twin is None:
            tests.append([name])
        else:
            twin.append(name)
    return tests


def _is_same(one: SampleValues, other: SampleValues) -> bool:
    return (one.units, one.sums, one.counts) == (other.units, other.sums, other.counts)


def judged(change: Change, difference: PairedDifference, confidence: float, level: float) -> Change:
    """Return a change with its verdict.

    Args:
        change: What is known without samples.
        difference: Of its samples.
        confidence: Of the interval of this score alone.
        level: Of the interval that decides.

    Raises:
        NotPaired: The interval of a perplexity has an end that is no number.
    """
    low, high = difference.interval(level)
    verdict = Verdict.no_difference
    if low > 0 or high < 0:
        verdict = Verdict.better if (low > 0) == change.higher_is_better else Verdict.worse
    return replace(
        change,
        verdict=verdict,
        num_units=difference.num_units,
        stderr=abs(difference.on_scale(difference.stderr)),
        p_value=difference.p_value,
        interval=difference.interval(confidence),
        corrected=(low, high),
        detectable=difference.detectable(level),
    )


def _say(comparison: ModelComparison, progress: Progress) -> None:
    counts = {verdict: sum(change.verdict is verdict for change in comparison.changes) for verdict in Verdict}
    told = ", ".join(f"{count} {verdict.value}" for verdict, count in counts.items() if count)
    progress.say(f"  {told} ({comparison.explained})")
