"""Which parameters an optimizer gets, with which rates; and each optimizer against another's code of its formula."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from sft.adapters.instructlab.rank.optimizer import choose_trained, optimizer_of, patched_optimizer
from sft.adapters.instructlab.settings import WorkerOptions
from sft.errors import StageError
from tests.support.architectures import tiny

pytestmark = [
    pytest.mark.slow,  # imports torch
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20"),
]
RATE, DECAY = 1e-2, 0.1


def group(match: str, **settings: Any) -> dict[str, Any]:
    return {"match": match, "learning_rate": None, "weight_decay": None, "freeze": False, **settings}


def made(network: Any, decay: float = DECAY, **options: Any) -> Any:
    return optimizer_of(network, WorkerOptions(**options), rate=RATE, decay=decay, betas=(0.9, 0.95), eps=1e-8)


def settings_by_name(network: Any, optimizer: Any) -> dict[str, tuple[float, float]]:
    """Rate and weight decay of each parameter that the optimizer has."""
    names = {parameter: name for name, parameter in network.named_parameters()}
    return {
        names[each]: (settings["lr"], settings["weight_decay"])
        for settings in optimizer.param_groups
        for each in settings["params"]
    }


def test_weight_decay_leaves_norms_and_biases_alone_unless_it_is_on_all() -> None:
    network = tiny("qwen2")  # with biases
    shapes = {name: parameter.ndim for name, parameter in network.named_parameters()}
    assert min(shapes.values()) == 1
    found = settings_by_name(network, made(network, decays_matrices_only=True))
    assert found == {name: (RATE, DECAY if ndim > 1 else 0.0) for name, ndim in shapes.items()}
    assert settings_by_name(network, made(network)) == dict.fromkeys(shapes, (RATE, DECAY))


def test_a_norm_moves_by_its_gradient_alone() -> None:
    import torch

    for only_matrices, moves in ((True, False), (False, True)):
        network = tiny("llama")
        optimizer = made(network, decays_matrices_only=only_matrices)
        for parameter in network.parameters():
            parameter.grad = torch.zeros_like(parameter)
        before = network.model.norm.weight.detach().clone()
        optimizer.step()
        assert torch.equal(before, network.model.norm.weight) is not moves


def test_groups_have_their_own_rates_and_the_first_one_is_the_trainings() -> None:
    network = tiny("llama")
    optimizer = made(
        network,
        decays_matrices_only=True,
        parameter_groups={
            "ends": group("embeddings", learning_rate=1e-5),
            "last": group("layers.1", weight_decay=0.5),
        },
    )
    found = settings_by_name(network, optimizer)
    assert found["model.embed_tokens.weight"] == (1e-5, DECAY)
    assert found["model.layers.1.mlp.up_proj.weight"] == (RATE, 0.5)
    assert found["model.layers.1.input_layernorm.weight"] == (RATE, 0.0)
    assert found["model.layers.0.mlp.up_proj.weight"] == (RATE, DECAY)
    assert optimizer.param_groups[0]["lr"] == RATE
    assert optimizer.defaults["lr"] == RATE  # which schedules take for the highest


@pytest.mark.parametrize(
    ("groups", "rule"),
    [
        ({"a": group("*.nothing.*", learning_rate=1.0)}, r"training.parameter_groups.a.match matches no parameter"),
        (
            {"a": group("layers.0", learning_rate=1.0), "b": group("*q_proj*", learning_rate=2.0)},
            r"model.layers.0.self_attn.q_proj.weight is in two of training.parameter_groups: a and b",
        ),
    ],
)
def test_a_group_of_nothing_and_two_of_the_same_are_refused(groups: dict[str, Any], rule: str) -> None:
    with pytest.raises(StageError, match=rule):
        made(tiny("llama"), parameter_groups=groups)


def test_a_group_of_what_is_frozen_is_refused() -> None:
    network = tiny("llama")
    choose_trained(network, WorkerOptions(freeze=("layers.0",)))
    with pytest.raises(StageError, match=r"a.match matches no parameter .* which are trained"):
        made(network, parameter_groups={"a": group("layers.0", learning_rate=1.0)})


def frozen(network: Any, **options: Any) -> set[str]:
    choose_trained(network, WorkerOptions(**options))
    return {name for name, parameter in network.named_parameters() if not parameter.requires_grad}


def test_what_is_named_is_frozen_and_the_optimizer_does_not_have_it() -> None:
    network = tiny("llama")
    names = frozen(
        network,
        freeze=("lm_head", "layers.0-0"),
        parameter_groups={"norm": group("model.norm.weight", freeze=True)},
    )
    layer = {name for name, _ in network.named_parameters() if name.startswith("model.layers.0.")}
    assert names == {"lm_head.weight", "model.norm.weight", *layer}
    assert not names & settings_by_name(network, made(network)).keys()


def test_a_head_that_is_the_embeddings_is_frozen_by_either_name() -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    from tests.support.architectures import SHAPE

    for name in ("lm_head", "embeddings", "lm_head.weight"):
        config = AutoConfig.for_model("llama", **{**SHAPE, "tie_word_embeddings": True})
        assert frozen(AutoModelForCausalLM.from_config(config), freeze=(name,)) == {"model.embed_tokens.weight"}


@pytest.mark.parametrize(
    ("freeze", "rule"),
    [
        (("layers.7-9",), "training.freeze: layers.7-9 goes past the model's last layer, layers.1"),
        (("layers.0-2",), "training.freeze: layers.0-2 goes past the model's last layer, layers.1"),
        (("a.b",), "training.freeze: a.b matches no parameter of the model, such as lm_head.weight"),
        (("*",), "leave no parameter to train"),
    ],
)
def test_freezing_nothing_or_everything_is_refused(freeze: tuple[str, ...], rule: str) -> None:
    with pytest.raises(StageError, match=rule):
        frozen(tiny("llama"), freeze=freeze)


def test_the_library_makes_this_optimizer_of_what_is_not_frozen() -> None:
    from instructlab.training import main_ds, model

    network = tiny("llama")
    holder = SimpleNamespace(model=network, lora_config=None, reconcile_tokenizer=lambda: None)
    options = WorkerOptions(freeze=("embeddings",), optimizer="lion")
    with patched_optimizer(options):
        model.Model._post_model_init(holder)
        asked = {"cpu_offload": False, "name": None, "learning_rate": RATE, "betas": (0.9, 0.95)}
        optimizer = main_ds.setup_optimizer(model=holder, **asked, weight_decay=DECAY, eps=1e-8)
    assert type(optimizer).__name__ == "Lion"
    assert "model.embed_tokens.weight" not in settings_by_name(network, optimizer)


def steps(weights: list[Any], optimizer: Any, count: int = 5) -> list[Any]:
    import torch

    for number in range(count):
        generator = torch.Generator().manual_seed(number)
        for weight in weights:
            weight.grad = torch.randn(weight.shape, generator=generator)
        optimizer.step()
    return [weight.detach() for weight in weights]


def weights() -> list[Any]:
    import torch

    generator = torch.Generator().manual_seed(99)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((6, 4), (5,), (2, 3, 4))]


def test_adafactor_is_transformers_at_an_absolute_rate() -> None:
    import torch
    from transformers.optimization import Adafactor

    from sft.adapters.instructlab.rank import optimizers

    ours, theirs = weights(), weights()
    absolute = {"scale_parameter": False, "relative_step": False, "warmup_init": False}
    expected = steps(theirs, Adafactor(theirs, lr=RATE, weight_decay=DECAY, **absolute))
    found = steps(ours, optimizers.Adafactor([{"params": ours}], RATE, DECAY))
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-6)


def test_lion_follows_the_papers_algorithm() -> None:
    import torch

    from sft.adapters.instructlab.rank import optimizers

    (weight, *_), (beta1, beta2) = weights(), (0.9, 0.99)
    expected, momentum = weight.detach().clone(), torch.zeros_like(weight)
    for number in range(5):
        gradient = torch.randn(weight.shape, generator=torch.Generator().manual_seed(number))
        update = torch.sign(beta1 * momentum + (1 - beta1) * gradient)
        expected -= RATE * (update + DECAY * expected)
        momentum = beta2 * momentum + (1 - beta2) * gradient
    [found] = steps([weight], optimizers.Lion([{"params": [weight]}], RATE, (beta1, beta2), DECAY))
    assert torch.allclose(found, expected, atol=1e-6)


def test_muon_has_the_matrices_of_layers_and_adamw_the_rest() -> None:
    import torch

    network, other = tiny("llama"), tiny("llama")
    optimizer = made(network, optimizer="muon", decays_matrices_only=True)
    inside = [each for name, each in other.named_parameters() if each.ndim == 2 and "layers" in name]
    outside = [each for name, each in other.named_parameters() if each.ndim == 2 and "layers" not in name]
    norms = [each for each in other.parameters() if each.ndim == 1]
    muon = torch.optim.Muon(inside, lr=RATE, weight_decay=DECAY, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    rest = [{"params": outside, "weight_decay": DECAY}, {"params": norms, "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(rest, lr=RATE, betas=(0.9, 0.95), eps=1e-8, fused=True)
    for number in range(3):
        for model in (network, other):
            generator = torch.Generator().manual_seed(number)
            for parameter in model.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()
        muon.step()
        adamw.step()
    for ours, theirs in zip(network.parameters(), other.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_adamw_is_one_kernel_with_the_numbers_of_many() -> None:
    import torch

    network, other = tiny("llama"), tiny("llama")
    optimizer = made(network)
    assert optimizer.defaults["fused"] is True
    assert len(optimizer.param_groups) == 1
    plain = torch.optim.AdamW(other.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=DECAY, fused=False)
    ours = steps(list(network.parameters()), optimizer)
    for one, theirs in zip(ours, steps(list(other.parameters()), plain), strict=True):
        assert torch.allclose(one, theirs, rtol=1e-6, atol=1e-7)
