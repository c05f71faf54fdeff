"""Whether a run, or a model's folder wherever it was copied to, is still what its record says. Reads files only.

A run: ``run.json`` carries its own digest; every file of every step is hashed again; each step's inputs are what
earlier steps made; the manifests in the store, ``sft.json`` in the model's folder and the record tell the same.

A model's folder: ``sft.json`` carries its own digest and that of each file. Who changes all of them is found out by the
folder's digest, which a registry holds, or by a signature. Numbers that a hashed file holds, too, are compared with it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from sft import record, self_hashed_json
from sft.adapters import signing
from sft.adapters.checkpoint_files import CONFIG, INDEX, files_of
from sft.adapters.instructlab.layout import METRICS
from sft.artifacts import LOGS_NAME, MANIFEST_NAME, digest_of
from sft.config.schema import RunConfig
from sft.config.ways_out import ways_out
from sft.errors import DataError, SftError, StageError
from sft.logs import redacted
from sft.planning.plan import build_plan
from sft.planning.stage_spec import Environment
from sft.runner.verification import ModelFacts, Run, Verification, entries
from sft.stages import evaluate, judge
from sft.stages.model import FILES_NAME
from sft.stages.package import FACTS
from sft.stages.upload import UPLOAD

_ATTRIBUTES = ".gitattributes"
_LFS = re.compile(r"(\S+ filter=lfs diff=lfs merge=lfs -text\s*|#.*|\s*)")
_CACHE = re.compile(
    r"\.cache/huggingface/(\.gitignore|CACHEDIR\.TAG|(download|upload)/(\.gitignore|.+\.(metadata|lock|incomplete)))"
)
"""What the hub's client keeps beside a model's files."""
_REPORTS = {"evaluate": evaluate.REPORT_NAME, "judge": judge.REPORT_NAME}
"""Files that hold what a stage's facts say, too."""
_ROWS = {"dataset": {"train.jsonl": "num_train", "eval.jsonl": "num_eval"}, "tokenize": {"data.jsonl": "num_samples"}}
"""Files of which a stage's facts count the lines."""
_OF_THE_RUN = ("run_id", "command", "started_at", "git_commit", "versions", "machine", "resources")
"""What a model's own record says of the run that made it, besides its steps."""
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
    if (folder / record.NAME).is_file():
        return _run(folder, trusted)
    for model in (folder, folder / "model"):
        if (model / FACTS).is_file():
            verification = Verification(f"model {model}")
            _model(verification, model, trusted)
            return verification
    raise DataError(f"{path}: neither {record.NAME} nor {FACTS} is there", fix="a run's folder, or a model's folder")


def _run(folder: Path, trusted: signing.Trusted | None) -> Verification:
    verification = Verification(f"run {folder}")
    facts = verification.unsealed(folder / record.NAME, Run)
    if facts is None:
        return verification
    _say_ways_out(verification, facts["config"])
    _account(verification, folder / record.NAME, facts)
    if trusted:
        _check_signature(verification, folder / record.NAME, trusted)
    done = [step for step in facts["steps"] if step["output"]]
    _chain(verification, str(folder / record.NAME), done)
    for step in done:
        _artifact(verification, folder.parent / "store" / step["name"].partition(":")[0] / step["key"], step)
    sources = [s["facts"].get("source_files", {}) for s in done if s["name"].partition(":")[0] == "dataset"]
    for name, digest in (item for files in sources for item in files.items()):
        source = Path(facts["cwd"], name.removeprefix("file://"))
        if source.is_file() and verification.hash(source) != digest:
            verification.notes.append(
                f"{source}: is no longer what the dataset was made of; the dataset itself is in the store"
            )
    for step in facts["steps"]:
        if not step["output"]:
            verification.notes.append(f"{step['name']} is {step['status']}: nothing to check")
    steps = {step["name"]: step for step in done}
    for step in done:
        if step["name"].partition(":")[0] == "upload":
            _uploaded(
                verification, folder.parent / "store" / "upload" / step["key"] / UPLOAD, steps["package"]["files"]
            )
    if package := steps.get("package"):
        model = folder.parent / "store" / "package" / package["key"] / "model"
        carried = _model(verification, model, trusted) if (model / FACTS).is_file() else None
        if carried is not None:
            for step in carried["steps"]:
                recorded = {key: steps.get(step["name"], {}).get(key) for key in ("output", *_TOLD_TWICE)}
                verification.same(f"{model / FACTS}: {step['name']}", {key: step[key] for key in recorded}, recorded)
            verification.same(f"{model / FACTS}: config", carried["config"], facts["config"])
            _same_run(verification, model / FACTS, carried, facts, is_reused=bool(package.get("reused")))
    return verification


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
        manifest = msgspec.json.decode((root / MANIFEST_NAME).read_bytes(), type=dict[str, Any])
    except (OSError, *self_hashed_json.NOT_JSON) as error:
        verification.problems.append(f"{root / MANIFEST_NAME}: unreadable ({error})")
    else:
        carried = {key: manifest.get(key) for key in ("digest", *_TOLD_TWICE)}
        verification.same(
            str(root / MANIFEST_NAME), carried, {"digest": step["output"], **{k: step[k] for k in _TOLD_TWICE}}
        )
    external = step["facts"].get("external_dir")
    if external and Path(external).is_dir() and (root / FILES_NAME).is_file():
        recorded = msgspec.json.decode((root / FILES_NAME).read_bytes(), type=dict[str, str])
        present = (file.relative_to(external).as_posix() for file in files_of(Path(external)))
        verification.files(Path(external), recorded, present, may_link=True)
        _unhashed_weights(verification, Path(external), recorded)
    elif external:
        verification.notes.append(f"the base model is no longer at {external}: not checked")


def _uploaded(verification: Verification, file: Path, packaged: Mapping[str, str]) -> None:
    """Check that what was uploaded is what was packaged. The upload compared it there; this asks no server."""
    if file.is_file():  # else it is said to be gone
        carried = msgspec.json.decode(file.read_bytes(), type=dict[str, Any])
        verification.same(
            str(file), {f"model/{name}": digest for name, digest in carried["files"].items()}, dict(packaged)
        )


def _model(verification: Verification, folder: Path, trusted: signing.Trusted | None) -> dict[str, Any] | None:
    """Check a model's folder; return the record that it carries, None if that is broken."""
    there = [name for name in entries(folder) if not _is_of_the_hub(verification, folder, name)]
    facts = verification.unsealed(folder / FACTS, ModelFacts)
    if facts is not None:
        is_cached = folder.parent.name == "snapshots"  # the hub's cache holds links to the files
        present = (name for name in there if name not in {FACTS, signing.SIGNATURE})
        verification.files(folder, facts["files"], present, may_link=is_cached)
        _unhashed_weights(verification, folder, facts["files"])
        if verification.what.startswith("model"):
            _say_ways_out(verification, facts["record"]["config"])
        verification.same(
            f"{folder / FACTS}: record", self_hashed_json.digest_of(facts["record"]), facts["record_digest"]
        )
        _chain(verification, str(folder / FACTS), facts["record"]["steps"])
    verification.digest = digest_of(
        {f"model/{name}": verification.hash(folder / name) for name in there if (folder / name).is_file()}
    )
    signed = (folder / signing.SIGNATURE).is_file()
    if trusted and signed:
        try:
            signing.check(folder, trusted)
        except StageError as error:
            verification.problems.append(error.message)
    elif trusted:
        verification.problems.append(f"{folder}: is not signed")
    elif signed:
        verification.notes.append(
            f"{folder / signing.SIGNATURE}: not checked; say who signs: --key, or --identity and --issuer"
        )
    return facts["record"] if facts else None


def _chain(verification: Verification, where: str, steps: Iterable[Mapping[str, Any]]) -> None:
    """Check that each step's digest is that of its files, and each input is what an earlier step made.

    ``register:2``, a second registration, has taken what an ``upload:2`` made, where there is one.
    """
    outputs: dict[str, str] = {}
    for step in steps:
        verification.same(f"{where}: {step['name']}: output", digest_of(step["files"]), step["output"])
        suffix = "".join(step["name"].partition(":")[1:])
        inputs = {name: outputs.get(name + suffix, outputs.get(name)) for name in step["inputs"]}
        verification.same(f"{where}: {step['name']}: inputs", step["inputs"], inputs)
        outputs[step["name"]] = step["output"]


def _check_signature(verification: Verification, file: Path, trusted: signing.Trusted) -> None:
    if not file.with_name(file.name + signing.FILE_SUFFIX).is_file():
        verification.notes.append(f"{file}: is not signed; what only it tells is not proven, a registration for one")
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
        verification.same(f"{file}: status", all(step["status"] == "done" for step in steps), True)
    verification.same(f"{file}: schema", facts["schema"], record.SCHEMA)
    if "--until" in facts["command"] or facts["command"][1:2] != ["run"]:
        return  # a part of a plan, or another command's
    try:
        cfg = msgspec.convert(facts["config"], RunConfig)
        wanted = [step.name for step in build_plan(cfg, Environment(versions={})).steps]
    except (msgspec.ValidationError, SftError) as error:
        verification.notes.append(
            f"{file}: its settings are of another version ({error}): a removed step would not show"
        )
        return
    if removed := [name for name in wanted if name not in {step["name"] for step in steps}]:
        verification.problems.append(f"{file}: its settings ask for {', '.join(removed)}, which it does not tell of")


def _is_of_the_hub(verification: Verification, folder: Path, name: str) -> bool:
    """Return whether the hub or its client has put a file beside a model's; it is said, as no record holds it."""
    file = folder / name
    if name == _ATTRIBUTES and file.is_file() and not file.is_symlink():
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
        if all(_LFS.fullmatch(line) for line in lines):
            verification.notes.append(f"{file}: the hub's, which says how files are stored; not in the record")
            return True
    return _CACHE.fullmatch(name) is not None and not file.is_symlink()


def _say_ways_out(verification: Verification, config: Mapping[str, Any]) -> None:
    verification.notes += [f"{setting}: {meaning}" for setting, meaning in ways_out(config).items()]


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
    if (name := _REPORTS.get(stage)) and (report := _json(root / name)) is not None:
        told = {key: value for key, value in redacted(report).items() if key in facts}
        verification.same(f"{root / name}", told, {key: facts[key] for key in told})
    for name, key in _ROWS.get(stage, {}).items():
        if (root / name).is_file():
            with (root / name).open("rb") as lines:
                verification.same(f"{root / name}: {key}", sum(1 for _ in lines), facts.get(key))
    metrics = root / LOGS_NAME / METRICS
    if stage == "train" and metrics.is_file():
        rows = metrics.read_bytes().splitlines()
        try:
            last = msgspec.json.decode(rows[-1], type=dict[str, Any]).get("loss") if rows else None
        except self_hashed_json.NOT_JSON as error:
            verification.problems.append(f"{metrics}: unreadable ({error})")
            return
        verification.same(
            f"{metrics}: steps and loss", [len(rows), last], [facts.get("num_steps"), facts.get("final_loss")]
        )


def _unhashed_weights(verification: Verification, folder: Path, recorded: Mapping[str, str]) -> None:
    """Note where a config leads a loader to weights or code that the record does not hold."""
    for name in _named_files(folder):
        if name not in recorded:
            verification.problems.append(f"{folder}: its configuration loads {name}, which the record does not hold")


def _named_files(folder: Path) -> Iterator[str]:
    weights = (_json(folder / INDEX) or {}).get("weight_map")
    yield from sorted({str(shard) for shard in weights.values()}) if isinstance(weights, dict) else ()
    config = _json(folder / CONFIG) or {}
    if named := config.get("transformers_weights"):
        yield str(named)
    for key in ("attn_implementation", "_attn_implementation", "experts_implementation"):
        if "/" in str(config.get(key) or ""):
            yield str(config[key])
    code = config.get("auto_map")
    for references in code.values() if isinstance(code, dict) else ():
        for reference in references if isinstance(references, list) else [references]:
            if reference is not None:
                yield f"{str(reference).rpartition('.')[0]}.py"


def _json(file: Path) -> dict[str, Any] | None:
    """Return a JSON object; None if there is none."""
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None
