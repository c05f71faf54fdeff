"""An artifact's digest is that of its content, wherever it lies."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from sft.artifacts import Artifact, DatasetArtifact, EvalReport, ModelArtifact, TokenizedArtifact, digest_of, hash_files
from sft.files import inode, sha256_file


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "artifact"
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "b.bin").write_bytes(b"x" * 3_000_000)
    (folder / "a.txt").write_text("a")
    return folder


def test_a_digest_is_what_sha256sum_prints(root: Path) -> None:
    printed = subprocess.run(
        ["sh", "-c", "sha256sum a.txt model/b.bin | sha256sum"], cwd=root, capture_output=True, text=True, check=True
    )
    assert digest_of(hash_files(root)) == printed.stdout.split()[0]


def test_manifest_and_logs_do_not_count_and_a_file_deeper_down_does(root: Path) -> None:
    before = hash_files(root)
    (root / "logs").mkdir()
    (root / "logs" / "run.log").write_text("seconds")
    (root / "manifest.json").write_text("{}")
    assert hash_files(root) == before
    (root / "model" / "logs").mkdir()
    (root / "model" / "logs" / "x").touch()
    assert [*hash_files(root)] == ["a.txt", "model/b.bin", "model/logs/x"]


def test_the_name_counts(root: Path) -> None:
    before = digest_of(hash_files(root))
    (root / "a.txt").rename(root / "c.txt")
    assert digest_of(hash_files(root)) != before


def test_a_link_to_a_file_whose_digest_is_known_is_not_read_again(root: Path, tmp_path: Path) -> None:
    os.link(root / "a.txt", tmp_path / "same")
    assert hash_files(root, {inode(tmp_path / "same"): "known"})["a.txt"] == "known"
    assert hash_files(root, {inode(tmp_path / "same"): "known"})["model/b.bin"] == sha256_file(root / "model" / "b.bin")


def test_a_kind_is_known_by_its_name() -> None:
    assert Artifact.kind("DatasetArtifact") is DatasetArtifact
    with pytest.raises(KeyError):
        Artifact.kind("Nothing")


def test_rows_of_a_dataset_add_up(root: Path) -> None:
    data = DatasetArtifact(
        root=root, source="", source_version="", num_rows=28, num_train=1, num_eval=2, num_rejected=3,
        num_duplicates=4, num_unused=5, num_overlap=13,
    )  # fmt: skip
    assert data.num_accounted == 28
    assert (data.train_file, data.eval_file) == (root / "train.jsonl", root / "eval.jsonl")


def test_a_model_lies_where_its_files_are(root: Path) -> None:
    facts = {"source": "", "revision": "", "num_parameters": None}
    assert ModelArtifact(root=root, external_dir=None, **facts).model_dir == root
    assert ModelArtifact(root=root, external_dir=Path("/hub"), **facts).model_dir == Path("/hub")


def test_only_tasks_that_both_scored_can_have_other_data(root: Path) -> None:
    def report(**data: str) -> EvalReport:
        return EvalReport(root=root, model_digest="", scores=(), task_data=data)

    assert report(a="1", b="2", c="3").other_data(report(a="1", b="9")) == ["b"]


def test_a_mix_is_told_by_source() -> None:
    maths = {"samples": 30, "used": 75, "left_out": 0, "repeated": 45, "tokens": 150, "loss_tokens": 75}
    chat = {"samples": 100, "used": 25, "left_out": 75, "repeated": 0, "tokens": 50, "loss_tokens": 25}
    counts = dict.fromkeys(("num_rows", "num_samples", "num_tokens", "num_loss_tokens", "longest_tokens"), 1)
    made = TokenizedArtifact(root=Path(), sources={"maths": maths, "chat": chat}, **counts)
    assert made.mix_lines == [
        "maths: 30 samples, 0 left out, 45 copies: 75 train (x 2.5), 75.0% of the mix, 75.0% of its tokens",
        "chat: 100 samples, 75 left out, 0 copies: 25 train (x 0.25), 25.0% of the mix, 25.0% of its tokens",
    ]
