"""Whether a run, or a model's folder wherever it was copied to, is still what its record says. Reads files only.

A run: ``run.json`` carries its own digest; every file of every step is hashed again; each step's inputs are what
earlier steps made; the manifests in the store, ``sft.json`` in the model's folder and the record tell the same.

A model's folder: ``sft.json`` carries its own digest and that of each file. Who changes all of them is found out by the
folder's digest, which a registry holds, or by a signature. Numbers that a hashed file holds, too, are compared with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from sft import record, self_hashed_json
from sft.adapters import signing
from sft.adapters.checkpoint_files import files_of
from sft.adapters.instructlab.layout import METRICS
from sft.artifacts import LOGS_NAME, MANIFEST_NAME
from sft.config.schema import RunConfig
from sft.errors import DataError, SftError, StageError
from sft.files import read_document
from sft.planning.environment import Environment
from sft.planning.plan import build_plan
from sft.redaction import redacted
from sft.runner.result_links import ADAPTER, MODEL_LINK
from sft.runner.verification import (
    Run,
    Verification,
    check_chain,
    entries,
    is_file,
    is_folder,
    json_object,
    say_ways_out,
)
from sft.runner.verify_model import check_model, check_weights
from sft.stages import compare, evaluate, judge
from sft.stages.model import FILES_NAME
from sft.stages.package import FACTS
from sft.stages.upload import UPLOAD

_REPORTS = {
    "evaluate": evaluate.REPORT_NAME,
    "judge": judge.REPORT_NAME,
    "compare": compare.REPORT_NAME,
    "gates": "gates.json",
    "register": "registration.json",
}
"""Files that hold what a stage's facts say, too."""
_ROWS = {"dataset": {"train.jsonl": "num_train", "eval.jsonl": "num_eval"}, "tokenize": {"data.jsonl": "num_samples"}}
"""Files of which a stage's facts count the lines."""
_OF_THE_RUN = ("run_id", "command", "started_at", "git_commit", "versions", "machine", "resources")
"""What a model's own record says of the run that made it, besides its steps."""
_UNTIL = {"--until"[:length] for length in range(3, 8)}
"""How that option may be written: the beginning of its name will do."""
_AGAIN = re.compile(r"(upload|register):\d+")
_TOLD_TWICE = ("key", "inputs", "files", "facts", "settings", "seconds")
"""What manifest and record both say of an artifact."""


def verify(path: Path, *, trusted: signing.Trusted | None = None) -> Verification:
    """Check a run or a model.

    Args:
        path: A run's folder or its ``run.json``; a model's folder or its ``sft.json``.
        trusted: Who should have signed the model.

    Raises:
        DataError: There is neither a run nor a model.
    """
    folder = path.parent if path.name in {record.NAME, FACTS} else path
    if folder.name in {"", ".."}:  # of the working folder the store would be looked for inside
        folder = folder.resolve()
    if (folder / record.NAME).is_file():
        return _run(folder, trusted)
    for model in (folder, folder / "model"):
        if (model / FACTS).is_file():
            verification = Verification(f"model {model}")
            check_model(verification, model, trusted)
            return verification
    fix = record.nearest_run(path, "a run's folder, or a model's folder")
    raise DataError(f"{path}: neither {record.NAME} nor {FACTS} is there", fix=fix)


def _run(folder: Path, trusted: signing.Trusted | None) -> Verification:
    verification = Verification(f"run {folder}")
    facts = verification.unsealed(folder / record.NAME, Run)
    if facts is None:
        return verification
    say_ways_out(verification, facts["config"])
    _account(verification, folder / record.NAME, facts)
    if trusted:
        _check_signature(verification, folder / record.NAME, trusted)
    done = [step for step in facts["steps"] if step["output"]]
    check_chain(verification, str(folder / record.NAME), done)
    for step in done:
        _artifact(verification, folder.parent / "store" / step["name"].partition(":")[0] / step["key"], step)
    sources = [s["facts"].get("source_files") for s in done if s["name"].partition(":")[0] == "dataset"]
    for name, digest in (item for files in sources if isinstance(files, dict) for item in files.items()):
        source = Path(facts["cwd"], name.removeprefix("file://"))
        if is_file(source) and verification.hash(source) != digest:
            verification.notes.append(
                f"{source}: is no longer what the dataset was made of; the dataset itself is in the store"
            )
    for step in facts["steps"]:
        if not step["output"]:
            verification.notes.append(f"{step['name']} is {step['status']}: nothing to check")
    steps = {step["name"]: step for step in done}
    packaged = steps.get("package", {}).get("files", {})
    _check_links(verification, folder, steps)
    for step in done:
        if step["name"].partition(":")[0] == "upload":
            _uploaded(verification, folder.parent / "store" / "upload" / step["key"] / UPLOAD, packaged)
    if package := steps.get("package"):
        model = folder.parent / "store" / "package" / package["key"] / "model"
        carried = check_model(verification, model, trusted) if (model / FACTS).is_file() else None
        if carried is not None:
            for step in carried["steps"]:
                recorded = {key: steps.get(step["name"], {}).get(key) for key in ("output", *_TOLD_TWICE)}
                verification.same(f"{model / FACTS}: {step['name']}", {key: step[key] for key in recorded}, recorded)
            verification.same(f"{model / FACTS}: config", carried["config"], facts["config"])
            _same_run(verification, model / FACTS, carried, facts, is_reused=bool(package.get("reused")))
    return verification


def _check_links(verification: Verification, folder: Path, steps: Mapping[str, Mapping[str, Any]]) -> None:
    """Check what lies under the names that a run's folder has for its model: links to it, or copies of its files."""
    for name, prefixes in {MODEL_LINK: ("model/",), ADAPTER: ("model/adapter/", "adapter/")}.items():
        path, made = folder / name, next(_made(folder, steps, prefixes), None)
        if path.is_symlink():
            if made is None or path.resolve() != made[0].resolve():
                verification.problems.append(f"{path}: leads to {path.readlink()}, of which the record does not tell")
        elif path.exists():
            verification.files(path, made[1] if made else {}, entries(path))


def _made(
    folder: Path, steps: Mapping[str, Mapping[str, Any]], prefixes: Sequence[str]
) -> Iterator[tuple[Path, dict[str, str]]]:
    """Yield folders of the model that a run has made, the one to be used first, with the digests of their files."""
    for step in ("package", "select", "train"):
        for prefix in prefixes if step in steps else ():
            files = {n.removeprefix(prefix): d for n, d in steps[step]["files"].items() if n.startswith(prefix)}
            if files:
                yield folder.parent / "store" / step / steps[step]["key"] / prefix, files


def _artifact(verification: Verification, root: Path, step: Mapping[str, Any]) -> None:
    """Check one step's artifact in the store, and the base model elsewhere if it names one."""
    if root.is_symlink():
        verification.problems.append(f"{root}: became a link, to {root.readlink()}")
        return
    if not root.is_dir():
        verification.problems.append(f"{root}: is gone")
        return
    names = (n for n in entries(root) if n != MANIFEST_NAME and not n.startswith(f"{LOGS_NAME}/"))
    stage = step["name"].partition(":")[0]
    verification.files(
        root, step["files"], names, may_link=stage == "model"
    )  # with another template, a folder of links
    _numbers(verification, stage, root, step["facts"])
    try:
        manifest = msgspec.json.decode(read_document(root / MANIFEST_NAME), type=dict[str, Any])
    except (OSError, *self_hashed_json.NOT_JSON) as error:
        verification.problems.append(f"{root / MANIFEST_NAME}: unreadable ({error})")
    else:
        carried = {key: manifest.get(key) for key in ("digest", "stage", *_TOLD_TWICE)}
        told = {"digest": step["output"], "stage": stage, **{k: step[k] for k in _TOLD_TWICE}}
        verification.same(str(root / MANIFEST_NAME), carried, told)
        found = {name: (root / name).stat().st_size for name in step["files"] if is_file(root / name)}
        sizes = manifest.get("sizes")
        if not isinstance(sizes, dict) or sizes.keys() != step["files"].keys() or not found.items() <= sizes.items():
            verification.problems.append(f"{root / MANIFEST_NAME}: its sizes are not those of the files")
    external = step["facts"].get("external_dir") or step["facts"].get("unmerged_dir")
    if isinstance(external, str) and is_folder(external) and (root / FILES_NAME).is_file():
        recorded = json_object(root / FILES_NAME) or {}
        present = (file.relative_to(external).as_posix() for file in files_of(Path(external)))
        verification.files(Path(external), recorded, present, may_link=True)
        check_weights(verification, Path(external), recorded)
    elif external:
        verification.notes.append(f"the base model is no longer at {external}: not checked")


def _uploaded(verification: Verification, file: Path, packaged: Mapping[str, str]) -> None:
    """Check that what was uploaded is what was packaged. The upload compared it there; this asks no server."""
    if file.is_file():  # else it is said to be gone
        carried = (json_object(file) or {}).get("files")
        files = {f"model/{name}": digest for name, digest in carried.items()} if isinstance(carried, dict) else None
        verification.same(str(file), files, dict(packaged))


def _check_signature(verification: Verification, file: Path, trusted: signing.Trusted) -> None:
    if not file.with_name(file.name + signing.FILE_SUFFIX).is_file():
        verification.problems.append(f"{file}: is not signed: what only it tells is not proven, a registration for one")
        return
    try:
        signing.check_file(file, trusted)
    except StageError as error:
        verification.problems.append(f"{file}: {error.message}")


def _account(verification: Verification, file: Path, facts: Mapping[str, Any]) -> None:
    """Check that a record has every step that its settings ask for, and tells one story of them."""
    steps = facts["steps"]
    for step in steps:
        is_done = step["status"] == "done"
        verification.same(f"{file}: {step['name']}: status", bool(step["output"]), is_done)
        place = PurePosixPath(step["name"].partition(":")[0], str(step["key"]))
        if is_done and PurePosixPath(str(step["path"])).parts[-2:] != place.parts:
            verification.problems.append(f"{file}: {step['name']}: path is not that of its artifact")
    if facts["status"] == "done":
        first = [step for step in steps if not _AGAIN.fullmatch(step["name"])]  # a later registration may have failed
        verification.same(f"{file}: status", all(step["status"] == "done" for step in first), True)
    verification.same(f"{file}: schema", facts["schema"], record.SCHEMA)
    if not _is_whole(facts["command"]):
        return
    other_version = f"{file}: its settings are of another version: a removed step would not show"
    try:
        cfg = msgspec.convert(facts["config"], RunConfig)
        if not _is_complete(cfg):
            verification.notes.append(other_version)
            return
        wanted = [step.name for step in build_plan(cfg, Environment(versions={})).steps]
    except (msgspec.ValidationError, SftError) as error:
        verification.notes.append(f"{other_version} ({error})")
        return
    if removed := [name for name in wanted if name not in {step["name"] for step in steps}]:
        verification.problems.append(f"{file}: its settings ask for {', '.join(removed)}, which it does not tell of")


def _is_whole(command: Sequence[str]) -> bool:
    """Return whether a command asked for all that its settings say: no part of a plan, and no other command's."""
    words = [word for word in command[1:] if word != "--debug"]
    return words[:1] == ["run"] and not any(word.partition("=")[0] in _UNTIL for word in words)


def _is_complete(settings: Any) -> bool:
    """Return whether a record has each setting that there is now: what it lacks, msgspec leaves out of the group."""
    if not is_dataclass(settings):
        return True
    given = vars(settings)
    return all(field.name in given and _is_complete(given[field.name]) for field in fields(settings))


def _same_run(
    verification: Verification, file: Path, carried: Mapping[str, Any], facts: Mapping[str, Any], *, is_reused: bool
) -> None:
    """Compare what a run's record and that in its model say of the run; a model that was there already is another's."""
    other = [key for key in _OF_THE_RUN if carried.get(key) != facts.get(key)]
    if other and is_reused:
        only = ", ".join(other)
        verification.notes.append(f"{file}: tells of the run that made the model; only {record.NAME} says {only}")
    elif other:
        verification.problems += [f"{file}: {key} is not what the record says" for key in other]


def _numbers(verification: Verification, stage: str, root: Path, facts: Mapping[str, Any]) -> None:
    """Compare facts with the files that they are of: who changes a number in every record has not changed those."""
    if (name := _REPORTS.get(stage)) and (report := json_object(root / name)) is not None:
        told = {key: value for key, value in redacted(report).items() if key in facts}
        verification.same(f"{root / name}", told, {key: facts[key] for key in told})
    for name, key in _ROWS.get(stage, {}).items():
        if (root / name).is_file():
            with (root / name).open("rb") as lines:
                verification.same(f"{root / name}: {key}", sum(1 for _ in lines), facts.get(key))
    metrics = root / LOGS_NAME / METRICS
    if stage in {"train", "select"} and metrics.is_file():
        rows = metrics.read_bytes().splitlines()
        try:
            last = msgspec.json.decode(rows[-1], type=dict[str, Any]).get("loss") if rows else None
        except self_hashed_json.NOT_JSON as error:
            verification.problems.append(f"{metrics}: unreadable ({error})")
            return
        verification.same(
            f"{metrics}: steps and loss", [len(rows), last], [facts.get("num_steps"), facts.get("final_loss")]
        )
