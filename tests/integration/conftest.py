"""One training that nothing disturbed, for every test that compares with it."""

from __future__ import annotations

import pytest

from sft.artifacts import CheckpointArtifact, DatasetArtifact, ModelArtifact
from sft.planning.resources import resolve_resources
from sft.progress import Progress
from sft.stages.tokenize import TokenizeInputs, tokenize
from sft.stages.training_task import TrainInputs
from tests.support.training import CONFIG, train


@pytest.fixture(scope="session")
def train_inputs(
    tiny_data: DatasetArtifact, tiny_model: ModelArtifact, tmp_path_factory: pytest.TempPathFactory
) -> TrainInputs:
    out = tmp_path_factory.mktemp("tokens")
    return TrainInputs(
        resources=resolve_resources(CONFIG),
        model=tiny_model,
        tokenized=tokenize(CONFIG, TokenizeInputs(dataset=tiny_data, model=tiny_model), out, Progress(quiet=True)),
    )


@pytest.fixture(scope="session")
def trained(train_inputs: TrainInputs, tmp_path_factory: pytest.TempPathFactory) -> CheckpointArtifact:
    """`CONFIG` on two ranks."""
    return train(CONFIG, train_inputs, tmp_path_factory.mktemp("trained"), Progress(quiet=True))
