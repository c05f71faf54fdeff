"""Whoever changes a byte of what made a model, or of the model, is found out."""

from __future__ import annotations

import copy
import json
import random
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import reduce
from pathlib import Path
from typing import Any

import pytest

from sft import self_hashed_json
from sft.adapters.signing import Trusted
from sft.files import sha256_file
from sft.runner.verify import verify
from tests.support.command import Answer, sft

pytestmark = [pytest.mark.slow, pytest.mark.long]


@pytest.fixture
def run(done: tuple[Path, Answer], tmp_path: Path) -> Path:
    """A finished run's folder, in a copy of its run root; links stay links."""
    subprocess.run(["cp", "-a", done[0] / "runs", tmp_path], check=True)
    return tmp_path / done[1].run


def only(run: Path, pattern: str) -> Path:
    """The file of this run's own artifacts."""
    record = json.loads((run / "run.json").read_text())
    made = [run.parent / "store" / step["name"].partition(":")[0] / step["key"] for step in record["steps"]]
    [file] = [file for root in made for file in root.parent.parent.glob(pattern) if file.is_relative_to(root)]
    return file


def flip(file: Path, place: int | None = None) -> None:
    """Changes one bit in the middle of a file, in place."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2 if place is None else place] ^= 1
    file.write_bytes(content)


def test_a_finished_run_and_its_model_are_as_recorded(run: Path, tmp_path: Path) -> None:
    answer = sft("verify", str(run), cwd=tmp_path)
    assert answer.status == 0, answer.err
    assert "files, everything is as recorded" in answer.out
    model = only(run, "package/*/model/sft.json").parent
    shutil.copytree(model, tmp_path / "elsewhere")
    alone = sft("verify", "elsewhere", cwd=tmp_path)
    assert alone.status == 0, alone.err
    manifest = json.loads((model.parent / "manifest.json").read_text())
    assert f"package.digest {manifest['digest']}" in alone.out


@pytest.mark.parametrize(
    "pattern",
    [
        "train/*/model/model.safetensors",
        "package/*/model/README.md",
        "dataset/*/train.jsonl",
        "tokenize/*/data.jsonl",
        "model/*/tokenizer.json",
        "register/*/registration.json",
    ],
)
def test_a_changed_byte_is_noticed_and_its_file_named(run: Path, pattern: str) -> None:
    file = only(run, pattern)
    flip(file)
    problems = verify(run).problems
    assert any(problem.startswith(f"{file}: differs: its sha256 is") for problem in problems)
    assert all("sha256" in problem or problem == f"{file} is not what the record says" for problem in problems)


def test_a_byte_of_linked_weights_is_noticed_on_both_sides(run: Path) -> None:
    flip(only(run, "train/*/model/model.safetensors"))
    package = only(run, "package/*/model/model.safetensors")
    assert any(problem.startswith(f"{package}: differs") for problem in verify(run).problems)
    assert verify(package.parent).problems[0].startswith(f"{package}: differs")


def test_any_byte_of_the_record_is_noticed(run: Path) -> None:
    file = run / "run.json"
    content = file.read_bytes()
    for place in range(0, len(content), 997):
        flip(file, place)
        [problem] = verify(run).problems
        assert problem.startswith(f"{file}: ")
        file.write_bytes(content)


@pytest.mark.parametrize("pattern", ["package/*/model/sft.json", "train/*/manifest.json"])
def test_a_byte_of_the_other_accounts_is_noticed(run: Path, pattern: str) -> None:
    file = only(run, pattern)
    flip(file)
    assert any(problem.startswith(str(file)) for problem in verify(run).problems)


def test_a_record_that_was_changed_together_with_its_digest_is_noticed(run: Path) -> None:
    file = run / "run.json"
    facts = self_hashed_json.load_checked(file.read_bytes())
    facts["config"]["training"]["learning_rate"] = 1e-6
    [step] = [step for step in facts["steps"] if step["name"] == "dataset"]
    step["facts"]["source"] = "s3://elsewhere"
    file.write_bytes(self_hashed_json.dump_with_digest(facts))
    told = only(run, "package/*/model/sft.json")
    assert [problem for problem in verify(run).problems if problem.startswith(str(told))] == [
        f"{told}: dataset is not what the record says",
        f"{told}: config is not what the record says",
    ]


def test_files_that_are_gone_or_were_added_are_named(run: Path) -> None:
    weights = only(run, "package/*/model/model.safetensors")
    weights.unlink()
    (weights.parent / "pytorch_model.bin").touch()
    assert verify(weights.parent).problems == [
        f"{weights}: is gone",
        f"{weights.parent / 'pytorch_model.bin'}: is not in the record",
    ]
    shutil.rmtree(weights.parents[1])
    assert f"{weights.parents[1]}: is gone" in verify(run).problems


def test_a_difference_exits_with_1_and_is_said(run: Path, tmp_path: Path) -> None:
    file = only(run, "dataset/*/eval.jsonl")
    flip(file)
    answer = sft("verify", str(run / "run.json"), cwd=tmp_path)
    assert answer.status == 1
    assert answer.err.startswith(f"error: run {run}: 1 difference\n  - {file}: differs: its sha256 is ")


def test_what_is_neither_run_nor_model_is_said(tmp_path: Path) -> None:
    answer = sft("verify", ".", cwd=tmp_path)
    assert answer.status == 1
    assert "neither run.json nor sft.json is there" in answer.err


def leaves(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Path and value of everything in a document that is no mapping and no list, or an empty one."""
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        if isinstance(value, dict | list) and value:
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key), value


def other(value: Any) -> Any:
    match value:
        case bool():
            return not value
        case int() | float():
            return value + 1
        case str():
            return f"{value[:-1]}{'1' if value[-1:] == '0' else '0'}"
    return "forged"


def test_what_is_forged_in_a_record_that_was_sealed_again_is_noticed(run: Path) -> None:
    file = run / "run.json"
    facts = self_hashed_json.load_checked(file.read_bytes())
    unproven = {"status", "recipe", "cwd", "ended_at", "reused", "started_at", "error"}  # docs/record.md says so
    unnoticed = set()
    for number, (path, value) in enumerate(leaves(facts)):
        if number % 5 and not isinstance(value, int | float):
            continue
        forged = copy.deepcopy(facts)
        reduce(lambda tree, key: tree[key], path[:-1], forged)[path[-1]] = other(value)
        file.write_bytes(self_hashed_json.dump_with_digest(forged))
        if not verify(run).problems:
            unnoticed.add(path[-1])
    assert unnoticed <= unproven
    for step in facts["steps"]:
        rest = [other for other in facts["steps"] if other is not step]
        file.write_bytes(self_hashed_json.dump_with_digest({**facts, "steps": rest}))
        assert verify(run).problems, step["name"]


def test_a_score_that_was_forged_in_every_record_is_not_what_the_report_says(run: Path) -> None:
    for file in (run / "run.json", *run.parent.glob("store/evaluate/*/manifest.json")):
        file.write_text(re.sub(r'"value": (?=\d)', '"value": 1', file.read_text()))
    sealed = json.loads((run / "run.json").read_text())
    (run / "run.json").write_bytes(self_hashed_json.dump_with_digest(sealed))
    assert any("report.json is not what the record says" in problem for problem in verify(run).problems)


@pytest.mark.parametrize(
    ("stage", "name", "old", "new"),
    [
        ("compare", "comparison.json", '"verdict": "better"', '"verdict": "worse"'),
        ("register", "registration.json", '"version": "1"', '"version": "2"'),
    ],
)
def test_a_verdict_that_was_forged_in_every_record_is_not_what_its_file_says(
    run: Path, stage: str, name: str, old: str, new: str
) -> None:
    forged = [run / "run.json", only(run, f"{stage}/*/manifest.json")]
    assert all(old in file.read_text() for file in forged)
    for file in forged:
        file.write_text(file.read_text().replace(old, new))
    (run / "run.json").write_bytes(self_hashed_json.dump_with_digest(json.loads((run / "run.json").read_text())))
    assert any(f"{name} is not what the record says" in problem for problem in verify(run).problems)


def test_what_a_runs_folder_calls_its_model_is_that_model(run: Path, tmp_path: Path) -> None:
    link, model = run / "model", only(run, "package/*/model/sft.json").parent
    link.unlink()
    assert verify(run).problems == []  # a copy may have no links
    shutil.copytree(model, link)
    assert verify(run).problems == []
    flip(link / "model.safetensors")
    [problem] = verify(run).problems
    assert problem.startswith(f"{link / 'model.safetensors'}: differs: its sha256 is")
    link.rename(tmp_path / "other")
    link.symlink_to(tmp_path / "other")
    assert verify(run).problems == [f"{link}: leads to {tmp_path / 'other'}, of which the record does not tell"]


def test_added_files_and_what_became_a_link_are_named(run: Path, tmp_path: Path) -> None:
    model = only(run, "package/*/model/sft.json").parent
    (model / ".gitattributes").write_text("*.safetensors filter=lfs diff=lfs merge=lfs -text\n")
    (model / ".cache" / "huggingface" / "download").mkdir(parents=True)
    (model / ".cache" / "huggingface" / "download" / "config.json.metadata").touch()
    assert verify(model).problems == []
    assert f"{model / '.gitattributes'}: the hub's" in str(verify(model).notes)
    (model / ".gitattributes").write_text("*.json filter=evil\n")
    (model / ".gitattributes2").touch()
    (model / ".cache" / "huggingface" / "evil.py").touch()
    (tmp_path / "elsewhere").mkdir()
    (model / "assets").symlink_to(tmp_path / "elsewhere")
    (model / "config.json").rename(tmp_path / "config.json")
    (model / "config.json").symlink_to(tmp_path / "config.json")
    assert [problem.removeprefix(f"{model}/") for problem in verify(model).problems] == [
        ".cache/huggingface/evil.py: is not in the record",
        ".gitattributes: is not in the record",
        ".gitattributes2: is not in the record",
        "assets: is not in the record",
        f"config.json: became a link, to {tmp_path / 'config.json'}",
    ]


def test_a_folder_that_became_a_link_is_named(run: Path, tmp_path: Path) -> None:
    checkpoint = only(run, "train/*/model/config.json").parent
    checkpoint.rename(tmp_path / "moved")
    checkpoint.symlink_to(tmp_path / "moved")
    assert any(problem.startswith(f"{checkpoint}: became a link") for problem in verify(run).problems)
    artifact = only(run, "dataset/*/train.jsonl").parent
    artifact.rename(tmp_path / "data")
    artifact.symlink_to(tmp_path / "data")
    assert f"{artifact}: became a link, to {tmp_path / 'data'}" in verify(run).problems


@pytest.mark.parametrize(
    ("name", "content", "loaded"),
    [
        ("config.json", {"transformers_weights": "other.safetensors"}, "other.safetensors"),
        ("config.json", {"auto_map": {"AutoModel": "org/repo--evil.Model"}}, "org/repo--evil.py"),
        ("config.json", {"attn_implementation": "org/kernel"}, "org/kernel"),
        ("model.safetensors.index.json", {"weight_map": {"w": "../other.safetensors"}}, "../other.safetensors"),
    ],
)
def test_a_configuration_that_loads_what_was_not_hashed_is_named(
    run: Path, name: str, content: dict[str, Any], loaded: str
) -> None:
    model = only(run, "package/*/model/sft.json").parent
    (model / name).write_text(json.dumps(content))
    facts = self_hashed_json.load_checked((model / "sft.json").read_bytes())
    facts["files"][name] = sha256_file(model / name)  # whoever makes a model makes its record, too
    (model / "sft.json").write_bytes(self_hashed_json.dump_with_digest(facts))
    assert verify(model).problems == [
        f"{model}: its configuration loads {loaded}, which the record does not hold",
    ]


@pytest.mark.parametrize(
    "forged",
    [
        {"files": {"a": 1}},
        {"files": {"../../etc/passwd": "0" * 64}},
        {"files": {"a\0b": "0" * 64}},
        {"record": []},
        {"record": {"config": {}, "steps": [{"name": "train"}]}},
        {"record": {"config": {}, "steps": 7}},
        {"record_digest": None},
    ],
)
def test_a_hostile_sft_json_ends_in_a_sentence(forged: dict[str, Any], tmp_path: Path) -> None:
    facts = {"schema": 1, "record": {"config": {}, "steps": []}, "record_digest": "", "files": {}} | forged
    (tmp_path / "sft.json").write_bytes(self_hashed_json.dump_with_digest(facts))
    assert verify(tmp_path).problems


@pytest.mark.parametrize("change", [{"key": "../../.."}, {"key": None}, {"name": "../evil"}, {"facts": 1}])
def test_a_hostile_run_json_ends_in_a_sentence(change: dict[str, Any], run: Path) -> None:
    facts = self_hashed_json.load_checked((run / "run.json").read_bytes())
    facts["steps"][0] |= change
    (run / "run.json").write_bytes(self_hashed_json.dump_with_digest(facts))
    assert verify(run).problems


def test_whatever_the_documents_of_a_run_hold_ends_in_sentences(run: Path) -> None:
    """Parts are left out, exchanged, renamed or damaged, their digests renewed; `verify` finds problems or none."""
    numbers, odd = random.Random(0), [None, True, -1, 1e308, "", "\0", "../../x", "x" * 300, [], {}, [1], "dataset"]
    stored = [file for name in ("manifest.json", "sft.json") for file in run.parent.glob(f"store/*/*/**/{name}")]
    for _ in range(300):
        file = numbers.choice([run / "run.json", *stored])
        whole = file.read_bytes()
        facts = json.loads(whole)
        path = numbers.choice([path for path, _ in every_part(facts)])
        parent = reduce(lambda tree, key: tree[key], path[:-1], facts)
        match numbers.randrange(3):
            case 0:
                del parent[path[-1]]
            case 1:
                parent[path[-1]] = numbers.choice(odd)
            case _ if isinstance(parent, dict):
                parent[numbers.choice(["upload", "../x", "y" * 300])] = parent.pop(path[-1])
        is_sealed = file.name != "manifest.json" and "digest" in facts
        content = self_hashed_json.dump_with_digest(facts) if is_sealed else json.dumps(facts).encode()
        file.write_bytes(content if numbers.random() < 0.9 else content[: len(content) // 2])
        for folder in (run, only_model(run)):
            assert all(map(str.strip, verify(folder).problems))
        file.write_bytes(whole)
    assert verify(run).problems == []


def every_part(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield (*path, key), value
        yield from every_part(value, (*path, key))


def only_model(run: Path) -> Path:
    [file] = run.parent.glob("store/package/*/model/sft.json")
    return file.parent


def test_a_record_of_before_a_setting_came_is_checked_and_says_what_would_not_show(run: Path) -> None:
    file = run / "run.json"
    facts = self_hashed_json.load_checked(file.read_bytes())
    del facts["config"]["training"]["train_on"]
    file.write_bytes(self_hashed_json.dump_with_digest(facts))
    found = verify(run)
    assert f"{file}: its settings are of another version: a removed step would not show" in found.notes
    assert all("config" in problem for problem in found.problems)  # the model's own record has that setting


@pytest.fixture(scope="module")
def signed(done: tuple[Path, Answer], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The run root in which the finished run was packaged and registered once more, signed; and the public key."""
    root = tmp_path_factory.mktemp("signed")
    subprocess.run(["cp", "-a", done[0] / "runs", root], check=True)
    curve = ["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", root / "key.pem"]
    subprocess.run(curve, check=True, capture_output=True)
    public = ["openssl", "ec", "-in", root / "key.pem", "-pubout", "-out", root / "key.pub"]
    subprocess.run(public, check=True, capture_output=True)
    again = sft("run", "quickstart", f"registry.sign={root / 'key.pem'}", f"run_root={root / 'runs'}", cwd=done[0])
    assert again.status == 0, again.err
    return root, root / "key.pub"


@pytest.fixture
def sealed(signed: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Trusted]:
    """The signed run's folder, in a copy of its run root, and who should have signed it."""
    subprocess.run(["cp", "-a", signed[0] / "runs", tmp_path], check=True)
    [signature] = tmp_path.glob("runs/*/run.json.sig")
    return signature.parent, Trusted(key=signed[1])


def test_a_signed_run_passes_and_with_another_key_it_does_not(sealed: tuple[Path, Trusted], tmp_path: Path) -> None:
    run, trusted = sealed
    assert verify(run, trusted=trusted).problems == []
    other = ["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", tmp_path / "other.pem"]
    subprocess.run(other, check=True, capture_output=True)
    public = ["openssl", "ec", "-in", tmp_path / "other.pem", "-pubout", "-out", tmp_path / "other.pub"]
    subprocess.run(public, check=True, capture_output=True)
    answer = sft("verify", str(run), "--key", "other.pub", cwd=tmp_path)
    assert answer.status == 1
    assert answer.err.count("signature") >= 2


def test_whatever_is_forged_in_a_signed_record_is_noticed(sealed: tuple[Path, Trusted]) -> None:
    """Also what no other file tells: status, times, folders, what was reused, a registration."""
    run, trusted = sealed
    file = run / "run.json"
    facts = self_hashed_json.load_checked(file.read_bytes())
    register = next(number for number, step in enumerate(facts["steps"]) if step["name"] == "register")
    places: list[tuple[Any, ...]] = [("status",), ("started_at",), ("ended_at",), ("cwd",), ("recipe",), ("machine",)]
    places += [("steps", register, name) for name in ("seconds", "reused", "started_at", "facts", "status", "error")]
    for place in places:
        forged = copy.deepcopy(facts)
        parent = reduce(lambda tree, key: tree[key], place[:-1], forged)
        parent[place[-1]] = other(parent[place[-1]])
        file.write_bytes(self_hashed_json.dump_with_digest(forged))
        found = verify(run, trusted=trusted).problems
        assert any(problem.startswith(f"{file}: ") for problem in found), place
    file.write_bytes(self_hashed_json.dump_with_digest(facts))
    assert verify(run, trusted=trusted).problems == []


def cut_off(run: Path) -> None:
    """Makes of a run one that never packaged anything, as far as its record says."""
    facts = self_hashed_json.load_checked((run / "run.json").read_bytes())
    facts["command"] += ["--until", "train"]
    names = [step["name"] for step in facts["steps"]]
    facts["steps"] = facts["steps"][: names.index("train") + 1]
    (run / "run.json").write_bytes(self_hashed_json.dump_with_digest(facts))


@pytest.mark.parametrize(
    "attack", ["record", "model", "both", "cut off", "exchanged", "empty", "of another run", "link"]
)
def test_a_signature_that_is_gone_or_is_of_something_else_is_named(
    attack: str, sealed: tuple[Path, Trusted], tmp_path: Path
) -> None:
    run, trusted = sealed
    of_record = run / "run.json.sig"
    of_model = only(run, "package/*/model/model.sig")
    if attack in {"record", "both", "cut off"}:
        of_record.unlink()
    if attack in {"model", "both"}:
        of_model.unlink()
    if attack == "cut off":
        cut_off(run)
    if attack == "exchanged":
        shutil.copyfile(of_model, of_record)
    if attack == "empty":
        of_record.write_bytes(b"")
    if attack == "of another run":
        unsigned = next(file for file in run.parent.glob("*/run.json") if file.parent != run)
        shutil.copyfile(of_record, unsigned.with_name("run.json.sig"))
        run = unsigned.parent
    if attack == "link":
        of_record.rename(tmp_path / "elsewhere.sig")
        of_record.symlink_to("/dev/null")
    named = of_model.parent if attack == "model" else run / "run.json"
    assert any(problem.startswith(f"{named}: ") for problem in verify(run, trusted=trusted).problems)


@pytest.mark.parametrize(
    "pattern", ["train/*/model/model.safetensors", "package/*/model/sft.json", "package/*/model/README.md"]
)
def test_what_is_changed_under_a_signature_and_sealed_again_is_noticed(
    pattern: str, sealed: tuple[Path, Trusted]
) -> None:
    run, trusted = sealed
    model = only(run, "package/*/model/model.sig").parent
    file = only(run, pattern)
    if file.name == "sft.json":
        facts = self_hashed_json.load_checked(file.read_bytes())
        facts["record"]["started_at"] = "2020-01-01T00:00:00Z"
        facts["record_digest"] = self_hashed_json.digest_of(facts["record"])
        file.write_bytes(self_hashed_json.dump_with_digest(facts))
    else:
        flip(file)
    assert any("signature" in problem.lower() for problem in verify(model, trusted=trusted).problems)
    assert verify(run, trusted=trusted).problems
