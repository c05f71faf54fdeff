"""Compare two models' answers to a held-out set by asking a judge: ``python -m sft.adapters.evaluation.judge``.

Each pair is shown twice, the second time with the answers swapped, because judges prefer a place (Zheng et al., 2023,
"Judging LLM-as-a-Judge with MT-Bench and Chatbot Arena", arXiv:2306.05685, section 3.4). A model wins a pair only if
both verdicts say so; all else is a tie. What came back lies in a journal with a digest of what was asked and who says
that it answered, so a killed try asks nothing twice, and no two judges share a report.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sft.adapters.chat_completions import ChatServer
from sft.adapters.evaluation.aggregate import mean
from sft.adapters.evaluation.judge_pairs import Pair, read_pairs
from sft.adapters.evaluation.progress_file import ProgressFile
from sft.adapters.evaluation.sample_log import SampleLog
from sft.adapters.os import child
from sft.adapters.retry import RetryPolicy
from sft.errors import StageError
from sft.sample_values import NAME, SampleValues, append
from sft.scores import JUDGE, WIN_RATE

JUDGMENTS = "judgments.jsonl"
_USUAL = {"temperature": 0, "max_tokens": 1024}
"""Of a request, unless `eval.judge.parameters` says otherwise."""
_VERDICT = re.compile(r"\[\[\s*(A|B|TIE)\s*\]\][\s*_.`]*\Z", re.IGNORECASE)
"""What a judgment ends with: the answers may hold such a mark too, and a judge may quote them."""
_VALUES = {"win": 1.0, "tie": 0.5, "loss": 0.0}


def _judge(request: dict[str, Any]) -> Mapping[str, Any]:
    """Judge as `sft.stages.judge.request_of` says."""
    pairs = read_pairs(request)
    meter, journal = ProgressFile(Path(request["progress"])), SampleLog(Path(request["journal"]))
    try:
        _ask(request, pairs, journal, meter)
        judgments = _kept(request, pairs, journal)
    finally:
        journal.close()
    rows = [_row(pair, judgments.get(2 * place), judgments.get(2 * place + 1)) for place, pair in enumerate(pairs)]
    result = summary(rows, request["max_unparsable"], request["metric"])
    out = Path(request["out"])
    (out / NAME).unlink(missing_ok=True)
    append(out, [sample_values(rows, request["metric"])])
    with (out / JUDGMENTS).open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    Path(request["journal"]).unlink()
    answered_by = sorted({row["model"] for row in judgments.values() if row["model"]})
    return {**result, "answered_by": answered_by, "notes": meter.notes}


def _ask(request: Mapping[str, Any], pairs: Sequence[Pair], journal: SampleLog, meter: ProgressFile) -> None:
    """Ask for each judgment that is not in the journal with a verdict.

    A server may have another model by now. So one is asked for first, and those of other models are asked for again.

    Raises:
        StageError: The key is missing, or the server refuses or keeps failing.
    """
    asked = [place for place, pair in enumerate(pairs) for place in (2 * place, 2 * place + 1) if not pair.is_equal]
    kept = {place: row for place, row in _kept(request, pairs, journal).items() if verdict(row["text"], swapped=False)}
    new = [place for place in asked if place not in kept]
    meter.begins("judgments", len(asked), len(asked) - len(new))
    server = ChatServer(
        address=request["address"],
        key=os.environ[request["key_env"]] if request["key_env"] else None,
        timeout_seconds=request["timeout_seconds"],
        retry=RetryPolicy(max_attempts=request["max_attempts"], first_wait_seconds=request["first_wait_seconds"]),
        num_connections=request["concurrency"],
    )
    one_at_a_time = threading.Lock()

    def ask(place: int) -> str:
        body = _body(request, pairs, place)
        answer = server.ask(body)
        with one_at_a_time:
            journal.add({"sample": place, "asked": _digest(body), **asdict(answer)})
            meter.add(1)
        return answer.model

    if kept and (new or len({row["model"] for row in kept.values()}) > 1):
        answering = ask(new.pop(0) if new else next(iter(kept)))
        if of_others := [place for place, row in kept.items() if row["model"] != answering]:
            meter.note(f"the judge is {answering} now: {len(of_others)} judgments of another are asked for again")
            meter.begins("judgments", len(asked), len(asked) - len(new) - len(of_others))
            new += of_others
    with ThreadPoolExecutor(request["concurrency"]) as threads:
        try:
            for done in as_completed([threads.submit(ask, place) for place in new]):
                done.result()
        finally:
            threads.shutdown(cancel_futures=True)  # what is under way ends, and is kept


def _body(request: Mapping[str, Any], pairs: Sequence[Pair], place: int) -> dict[str, Any]:
    """Return the request of a judgment: of the pair at half its place, swapped if that is odd."""
    parameters = {"seed": request["seed"], **_USUAL, **request["parameters"]}
    given = {name: value for name, value in parameters.items() if value is not None}
    messages = pairs[place // 2].messages(request["prompt"], swapped=bool(place % 2))
    return {"model": request["model"], **given, "messages": messages}


def _digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _kept(request: Mapping[str, Any], pairs: Sequence[Pair], journal: SampleLog) -> dict[int, dict[str, Any]]:
    """Return the judgments of the journal that answer what is asked, by place."""
    rows = {row["sample"]: row for row in journal.in_order() if row["sample"] < 2 * len(pairs)}
    return {place: row for place, row in rows.items() if row.get("asked") == _digest(_body(request, pairs, place))}


def verdict(text: str, *, swapped: bool) -> str | None:
    """Return ``base``, ``tuned`` or ``tie`` as a judgment says; None if it ends without a verdict."""
    match = _VERDICT.search(text)
    if match is None:
        return None
    first, second = ("tuned", "base") if swapped else ("base", "tuned")
    return {"A": first, "B": second, "TIE": "tie"}[match[1].upper()]


def _row(pair: Pair, first: Mapping[str, Any] | None, second: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return a line of `JUDGMENTS`: the answers, what was said of them, and what follows."""
    row = {
        "sample": pair.sample,
        "turn": pair.turn,
        "reference": pair.reference,
        "base": pair.base,
        "tuned": pair.tuned,
    }
    if first is None or second is None:
        return {**row, "outcome": "tie", "value": _VALUES["tie"], "verdicts": [], "judgments": []}
    verdicts = [verdict(first["text"], swapped=False), verdict(second["text"], swapped=True)]
    outcome = {"tuned": "win", "base": "loss"}.get(verdicts[0] or "", "tie") if verdicts[0] == verdicts[1] else "tie"
    judgments = [{name: value for name, value in said.items() if name != "sample"} for said in (first, second)]
    return {**row, "outcome": outcome, "value": _VALUES[outcome], "verdicts": verdicts, "judgments": judgments}


def sample_values(rows: Sequence[Mapping[str, Any]], metric: str = WIN_RATE) -> SampleValues:
    """Return what each conversation adds to the win rate: what its turns won, and how many they are."""
    by_sample: dict[int, list[float]] = defaultdict(list)
    for row in rows:
        by_sample[row["sample"]].append(row["value"])
    return SampleValues(
        score=f"{JUDGE}.{metric}",
        units=list(by_sample),
        sums=[sum(values) for values in by_sample.values()],
        counts=[len(values) for values in by_sample.values()],
    )


def summary(rows: Sequence[Mapping[str, Any]], max_unparsable: float, metric: str = WIN_RATE) -> dict[str, Any]:
    """Return the counts, and the win rate as the fields of a `sft.scores.Score`.

    A tie is half a win. The rate is the mean over turns, and its error respects that the turns of one conversation
    belong together (`sft.adapters.evaluation.aggregate.mean`).

    Args:
        rows: Lines of `JUDGMENTS`.
        max_unparsable: Largest part of the judgments without a verdict.
        metric: What the rate is called among the judge's scores.

    Raises:
        StageError: More of them have none.
    """
    verdicts = [one for row in rows for one in row["verdicts"]]
    unparsable = verdicts.count(None)
    if unparsable > max_unparsable * len(verdicts):
        without = [said for row in rows for one, said in zip(row["verdicts"], row["judgments"], strict=True) if not one]
        cut = sum(said["finish_reason"] == "length" for said in without)
        raise StageError(
            f"eval.judge: {unparsable} of {len(verdicts)} judgments end without a verdict (a last line of [[A]], [[B]] "
            f"or [[TIE]]), {cut} of them because they were cut; the first ends with: {without[0]['text'][-200:]!r}",
            fix="raise eval.judge.parameters.max_tokens, take another judge, or raise eval.judge.max_unparsable; "
            "the same command asks for those without a verdict again, eval.judge.version=2 for all",
        )
    outcomes = Counter(row["outcome"] for row in rows)
    values = sample_values(rows)
    rate, error = mean(values.sums, values.counts)
    return {
        "score": {
            "task": JUDGE,
            "metric": metric,
            "value": rate,
            "stderr": error,
            "num_samples": len(values.units),
            "higher_is_better": True,
        },
        "num_wins": outcomes["win"],
        "num_ties": outcomes["tie"],
        "num_losses": outcomes["loss"],
        "num_equal": sum(not row["verdicts"] for row in rows),
        "num_disagreements": sum(None not in row["verdicts"] and len({*row["verdicts"]}) == 2 for row in rows),
        "num_unparsable": unparsable,
    }


if __name__ == "__main__":
    child.main(_judge)
