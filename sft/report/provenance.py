"""Where a model comes from: digests, sources, versions, machine, settings; and how to make it again."""

from __future__ import annotations

import html
import shlex
from collections.abc import Iterator

import yaml

from sft.artifacts import DatasetArtifact, ModelArtifact
from sft.config.ways_out import ways_out
from sft.files import path_from_here
from sft.report.page import details, pairs, section, table
from sft.report.run_view import RunView

_GIB = 2**30


def sections(view: RunView) -> Iterator[str]:
    """Yield the sections on what made a run's model, and the commands that make it again or go on.

    Args:
        view: The run.
    """
    made = view.record
    steps = [(step.name, step.output or "", step.key or "", _inputs(view, step.inputs)) for step in made.steps]
    content = pairs(dict(_facts(view)))
    content += "<h3>Steps</h3>" + table(("step", "sha256 of what it made", "key in the store", "made of"), steps)
    if resources := made.resources:
        rows = ((name, _plain(why["value"]), why["reason"]) for name, why in resources.items())
        content += details("resources", "What the training ran on, and why", table(("", "value", "reason"), rows))
    content += details("versions", "Versions of packages", pairs(dict(made.versions)))
    settings = html.escape(yaml.safe_dump(made.config, sort_keys=False, allow_unicode=True))
    content += details("settings", "Every setting", f'<pre class="block">{settings}</pre>', is_long=True)
    yield section("Where it comes from", content, "run.json says all of it, with the sha256 of every file.")


def _facts(view: RunView) -> Iterator[tuple[str, str]]:
    made, machine = view.record, view.record.machine
    yield "recipe", made.recipe
    yield "git commit", made.git_commit or "outside of a repository"
    if rows := view.made("dataset", DatasetArtifact):
        yield "data", f"{rows.source}{f' at {rows.source_version}' if rows.source_version else ''}"
        for name, digest in rows.source_files.items():
            yield f"sha256 of {name}", digest
    if base := view.made("model", ModelArtifact):
        yield "base model", f"{base.source}{f' at {base.revision}' if base.revision else ''}"
    gpus = machine.get("gpus") or []
    cores, memory = machine.get("num_cpus"), machine.get("memory_bytes", 0) / _GIB
    yield "machine", ", ".join([*gpus, str(machine.get("processor", "")), f"{cores} cores", f"{memory:.0f} GiB"])
    for meaning in ways_out(made.config).values():
        yield "to know", meaning


def _inputs(view: RunView, inputs: dict[str, str]) -> str:
    """Return the inputs of a step by name, and of one that is not what the run itself has made its digest."""
    outputs = {step.name: step.output for step in view.record.steps}
    return ", ".join(name if outputs.get(name) == digest else f"{name} {digest}" for name, digest in inputs.items())


def commands(view: RunView) -> str:
    """Return the section with the commands of a run: to continue or repeat it, to check it.

    Args:
        view: The run.
    """
    run = shlex.quote(str(path_from_here(view.folder)))
    begun = "it is at work" if view.is_at_work else "does nothing again that is done"
    lines = {f"the same command; {begun}": shlex.join(view.record.command)}
    if view.record.status == "done":
        lines["all of it anew, and compared"] = f"sft run --from {run} run_root=again"
        lines["is everything still what the record says?"] = f"sft verify {run}"
    else:
        lines["an archive for an issue, without data"] = f"sft debug {run}"
    parts = (f'<p>{html.escape(what)}</p><pre class="block">{html.escape(line)}</pre>' for what, line in lines.items())
    return section("To repeat it", "".join(parts))


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else "" if value is None else str(value)
