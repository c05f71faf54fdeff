"""What is compiled of a model, that it is compiled once whatever a minibatch's size, and what is said of the rest.

Compiling takes minutes, so that here torch only traces (``aot_eager``): what it would compile, it runs.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sft.adapters.instructlab.layout import COMPILED
from sft.adapters.instructlab.rank import compilation, fsdp2, recomputation, varlen
from sft.errors import StageError
from tests.support.architectures import VOCABULARY, tiny

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
LENGTHS = ([5, 7], [9], [3, 4, 11], [6, 6], [2, 15, 8])
NUM_GRAPHS = 4
"""Of a layer: what is before its attention and after, each in two functions."""


@pytest.fixture(autouse=True)
def _traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    import torch

    forget(monkeypatch)
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    yield
    forget(monkeypatch)


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    monkeypatch.setattr(compilation, "_STOPWATCH", compilation.Stopwatch())


def network(kind: str = "llama", *, recomputes: str = "none", adapters: bool = False) -> Any:
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    made = tiny(kind)
    varlen.select(made)
    if adapters:
        names = made._no_split_modules
        made.enable_input_require_grads()
        config = LoraConfig(r=4, target_modules=["q_proj", "o_proj"], lora_dropout=0.0, init_lora_weights=False)
        made = get_peft_model(made, config)
        made._no_split_modules = names
    if recomputes != "none":
        recomputation.recompute(made, recomputes)
    return made.train()


def loss(model: Any, lengths: list[int], *, seed: int = 0) -> Any:
    """The loss of a packed row."""
    import torch

    random = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCABULARY, (1, sum(lengths)), generator=random)
    varlen.STATE.lengths = lengths
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    bounds = torch.tensor([0, *lengths]).cumsum(0).int()
    packed = {"cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds}
    longest = {"max_length_q": max(lengths), "max_length_k": max(lengths)}
    logits = model(input_ids=ids, position_ids=positions, use_cache=False, **packed, **longest).logits.float()
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def trained(model: Any) -> list[float]:
    import torch

    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=1e-2)
    found = []
    for step, lengths in enumerate(LENGTHS):
        value = loss(model, lengths, seed=step)
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
        found.append(value.item())
    return found


def compiled(model: Any) -> Any:
    compilation.compile_layers(model, fsdp2.layers_of(model))
    return model


@pytest.mark.long
@pytest.mark.parametrize(
    ("kind", "how"),
    [
        ("llama", {}),
        ("qwen2", {"recomputes": "full"}),
        ("qwen3", {"recomputes": "selective", "adapters": True}),
        ("llama", {"adapters": True}),
        ("qwen3_moe", {}),
    ],
)
def test_layers_are_compiled_once_and_train_as_they_do_without(kind: str, how: dict[str, Any]) -> None:
    expected = trained(network(kind, **how))
    with compilation.compiling():
        assert trained(compiled(network(kind, **how))) == pytest.approx(expected, abs=1e-5)
    report = compilation.report()
    assert report.num_graphs == NUM_GRAPHS
    assert report.breaks == {}
    assert report.seconds > 0


def test_weights_keep_their_names() -> None:
    model = network(adapters=True)
    before = [*model.state_dict()]
    assert [*compiled(model).state_dict()] == before


@pytest.mark.long
def test_scoring_after_training_compiles_each_layer_once_more() -> None:
    import torch

    with compilation.compiling():
        model = compiled(network())
        trained(model)
        model.eval()
        with torch.no_grad():
            for lengths in LENGTHS:
                loss(model, lengths)
    assert compilation.report().num_graphs == 2 * NUM_GRAPHS


def test_layers_that_need_more_versions_than_that_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation, "LARGEST_NUM_VERSIONS", 1)
    with pytest.raises(StageError, match="more than 1 compiled versions") as caught, compilation.compiling():  # noqa: PT012
        model = compiled(network())
        loss(model, [4, 4])
        loss(model.eval(), [4, 4])
    assert caught.value.fix == "set training.compile=none"


@pytest.mark.long
def test_what_torch_leaves_out_is_said() -> None:
    import torch

    model = network()
    mlp = model.model.layers[0].mlp
    mlp.forward = torch.compiler.disable(mlp.forward, reason="of the test")
    with compilation.compiling():
        trained(compiled(model))
    [(why, num)] = compilation.report().breaks.items()
    assert "of the test" in why
    assert num >= 1


def test_a_model_without_layers_is_refused() -> None:
    with pytest.raises(StageError, match="names no layers"):
        compilation.compile_layers(network(), [])


def test_a_layer_inside_another_is_compiled_with_it() -> None:
    model = network()
    layer = model.model.layers[0]
    compilation.compile_layers(model, [layer, layer.mlp])
    assert "forward" in vars(layer)
    assert "forward" not in vars(layer.mlp)


def test_a_row_of_the_metrics_has_the_seconds_of_its_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = iter([2.0, 2.0, 5.0])
    monkeypatch.setattr(compilation, "report", lambda: compilation.Report(seconds=next(told), num_graphs=4))
    notes = compilation.Notes(tmp_path)
    assert [notes.of_step(is_main=True) for _ in range(3)] == [{"compile_seconds": 2.0}, {}, {"compile_seconds": 3.0}]
    assert json.loads((tmp_path / COMPILED).read_text()) == {"seconds": 5.0, "num_graphs": 4, "breaks": {}}
    assert compilation.Notes(None).of_step(is_main=True) == {}
