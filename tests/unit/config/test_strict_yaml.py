"""A recipe's YAML is read as it is meant, or refused."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from sft.config import strict_yaml
from sft.config.strict_yaml import load

BOMB = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{level}: &a{level} [{','.join([f'*a{level - 1}'] * 10)}]\n" for level in range(1, 10)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: 2\na: 3", r"says a twice \(lines 1 and 3\)"),
        ("x: {lr: 1, lr: 2}", r"says lr twice \(lines 1 and 1\)"),
        (BOMB, "unfolds to more than 100,000 values"),
        ("a: &a [*a]", "holds itself"),
        ("a: &a\n  b: *a", "holds itself"),
        ("a: " + "[" * 5000 + "]" * 5000, "nested too deeply"),
        ("a:\n\tb: 1", "is not valid YAML"),
        ("a: 1\n---\nb: 2", "is not valid YAML"),
        ("x" * (1 << 21), "is larger than 1 MiB"),
        ("a: !!python/object/apply:os.system [id]", "is not valid YAML"),
    ],
    ids=lambda text: text[:20],
)
def test_what_yaml_would_take_in_silence_or_unfold_is_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        load(text)


def test_anchors_merges_and_equal_keys_of_two_mappings_are_taken() -> None:
    text = "base: &b {lr: 1}\nx: {<<: *b, n: 2}\ny: *b"
    assert load(text) == {"base": {"lr": 1}, "x": {"lr": 1, "n": 2}, "y": {"lr": 1}}


@pytest.mark.parametrize(
    "value", ["123e456", "1e5", "1_0.5e3", "-.5E+7", "1.5", "yes", "a\nb: c", "", "#x", 1e-5, 7, None, ["1e5"]]
)
def test_what_is_written_is_read_again_as_it_is(value: object) -> None:
    text = strict_yaml.written({"x": value})
    assert "\n" not in text
    assert OmegaConf.to_container(OmegaConf.create(text)) == {"x": value}
    assert OmegaConf.to_container(OmegaConf.create(strict_yaml.document({"x": value}))) == {"x": value}
