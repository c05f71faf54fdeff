"""What four real ranks compute of a row that they share, against the whole row, in every architecture."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sft.config.schema import GradientCheckpointing, ShardingStrategy
from sft.errors import ConfigError
from sft.planning.context_parallel import check_model
from sft.planning.memory import Setup, moments
from sft.planning.model_shape import shape_of
from sft.planning.row_packing import CAPPED, PACKED
from tests.support.architectures import SHAPE

pytestmark = [
    pytest.mark.slow,
    # Warned while the library and what it pulls in are imported.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20"),
]

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def on_four_ranks(tmp_path_factory: pytest.TempPathFactory) -> Any:
    file = tmp_path_factory.mktemp("ranks") / "results.json"
    torchrun = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "4"]
    argv = [*torchrun, "-m", "tests.support.context_ranks", str(file)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(Path(file).read_text(encoding="utf-8"))


@pytest.mark.exhaustive
def test_loss_and_gradients_of_a_shared_row_are_those_of_the_whole_one(on_four_ranks: Any) -> None:
    wrong = {case: apart for case, apart in on_four_ranks["apart"].items() if not apart < 3e-6}
    assert not wrong
    cases = {case.partition(",")[0] for case in on_four_ranks["apart"]}
    assert len(cases & (PACKED - CAPPED)) > 20
    assert {"chunked head", "noise", "recomputed", "repeated", "FSDP1 FULL_SHARD", "FSDP2 NO_SHARD"} < cases


@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_a_rope_that_follows_the_length_of_a_row_would_be_wrong_and_is_refused(kind: str, on_four_ranks: Any) -> None:
    assert on_four_ranks["rope"][kind] > 1e-3
    llama = {"model_type": "llama", "num_attention_heads": 4}
    for rope in ({"rope_type": kind}, {"type": kind}, {"full_attention": {"rope_type": kind}}):
        for name in ("rope_parameters", "rope_scaling"):
            with pytest.raises(ConfigError, match=rf"its RoPE \({kind}\) depends on how long a row is"):
                check_model({**llama, name: rope}, 2)


@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", ["yarn", "llama3", "linear"])
def test_other_kinds_of_rope_are_shared(kind: str, on_four_ranks: Any) -> None:
    assert on_four_ranks["rope"][kind] < 3e-6
    check_model({"model_type": "llama", "num_attention_heads": 4, "rope_parameters": {"rope_type": kind}}, 2)


@pytest.mark.exhaustive
@pytest.mark.parametrize("num_key_heads", [2, 4])
@pytest.mark.parametrize("ranks", [2, 4])
def test_the_estimate_knows_what_a_layer_keeps_of_a_shared_row(
    ranks: int, num_key_heads: int, on_four_ranks: Any
) -> None:
    sizes = {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 1, "vocab_size": 97, "head_dim": 16}
    shape = shape_of({"model_type": "llama", **sizes, "num_attention_heads": 8, "num_key_value_heads": num_key_heads})
    assert shape is not None
    setup = Setup(
        ranks=ranks,
        ranks_per_node=ranks,
        context_parallel=ranks,
        token_budget=64,
        value_bytes=4,
        gradient_checkpointing=GradientCheckpointing.none,
        loss_share=0.0,
        on_gpu=True,
    )
    kept = moments(shape, ShardingStrategy.FULL_SHARD, setup)["loss"].per_token
    assert kept == pytest.approx(on_four_ranks["kept"][f"{ranks} {num_key_heads}"], rel=0.01)


@pytest.mark.exhaustive
@pytest.mark.parametrize("recomputes", [False, True])
def test_ranks_exchange_as_many_bytes_as_the_page_on_scale_says(recomputes: bool, on_four_ranks: Any) -> None:
    exchanged = runpy.run_path(str(ROOT / "benchmarks" / "scale.py"))["exchanged"]
    shape = shape_of({"model_type": "llama", **SHAPE})
    assert exchanged(shape, 128 // 4, 4, value_bytes=4, recomputes=recomputes) == on_four_ranks["sent"][recomputes]


@pytest.mark.exhaustive
def test_parts_of_a_row_have_random_numbers_of_their_own(on_four_ranks: Any) -> None:
    drawn = on_four_ranks["drawn"]
    assert len(set(drawn["whole rows"])) == 1  # as ever: each has other rows
    assert len(set(drawn["shared rows"])) == 4
    assert len(set(drawn["two to four"])) == 4, "a rank resumed with its neighbour's numbers"
    assert len(set(drawn["as before"])) == 4
