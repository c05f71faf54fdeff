"""The recipe `airgapped`, but for shorter answers, run where nothing can be asked of a network."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from sft.artifacts import DatasetArtifact, ModelArtifact
from tests.servers.hub import AWAY
from tests.support.command import records, sft, steps

pytestmark = [
    pytest.mark.exhaustive,
    pytest.mark.timeout(1200),
    # Warned while transformers is imported.
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


def test_model_rows_and_scores_of_this_machine_are_enough(
    tiny_data: DatasetArtifact, tiny_model: ModelArtifact, tmp_path: Path
) -> None:
    shutil.copytree(tiny_model.model_dir, tmp_path / "models" / "base")
    rows = tiny_data.train_file.read_text().splitlines()[:20]
    (tmp_path / "chats.jsonl").write_text("\n".join(rows) + "\n")
    environment = {"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": AWAY, "HF_HOME": str(tmp_path / "hub")}
    answer = sft("run", "airgapped", "eval.holdout.max_new_tokens=4", cwd=tmp_path, **environment)
    assert answer.status == 0, answer.err
    [record] = records(tmp_path / "runs")
    facts = {name: step["facts"] for name, step in steps(record).items()}
    assert facts["dataset"]["num_train"] == 18
    assert {score["task"] for score in facts["evaluate:tuned"]["scores"]} == {"holdout"}
    assert "registered  sft-model version 1 in sqlite:" in answer.out
