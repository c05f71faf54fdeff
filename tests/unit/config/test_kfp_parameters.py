"""How a parameter of the original pipeline becomes an override, and a setting one of its values."""

from __future__ import annotations

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from sft.config.kfp_parameters import PARAMETERS, hydra_text, quoted, translated
from sft.config.schema import LauncherConfig, RunConfig, TrainingConfig
from sft.errors import ConfigError


@pytest.mark.parametrize(
    ("override", "setting"),
    [
        ("phase_02_train_man_epochs=3", "training.num_epochs=3"),
        ("phase_03_eval_opt_limit=-1", "eval.limit=null"),
        ("phase_03_eval_opt_limit='-1'", "eval.limit=null"),
        ("phase_02_train_opt_labels=a=b, c=d", "training.launcher.labels={a: 'b',c: 'd'}"),
        ("phase_02_train_opt_labels=", "training.launcher.labels={}"),
        ('phase_02_train_opt_annotations={"a": "b,c", "d": "e"}', "training.launcher.annotations={a: 'b,c',d: 'e'}"),
        (r"phase_02_train_opt_annotations='a=it\'s'", r"training.launcher.annotations={a: 'it\'s'}"),
        ("training.seed=1", "training.seed=1"),
        ("phase_02_train_man_epochs", "phase_02_train_man_epochs"),
        ("phase_99=1", "phase_99=1"),
    ],
)
def test_an_override_with_the_originals_name_is_one_of_the_setting(override: str, setting: str) -> None:
    assert translated(override) == setting


@pytest.mark.parametrize("text", ["a=b,c", "'a=b,c'", "a", '{"a": "b,c"', '{"a": "b=c"'])
def test_a_pair_without_a_value_is_refused_and_not_an_empty_one(text: str) -> None:
    with pytest.raises(ConfigError, match="must be KEY=VALUE,KEY=VALUE; a value with a comma is written as JSON"):
        translated(f"phase_02_train_opt_annotations={text}")


@pytest.mark.parametrize(
    "value",
    [None, True, 3, 1.5, "", "a b", "it's", "a\\", "\\'", "${env:HOME}", "1", ["a,b", 2], {"a": "x: y", "b": [True]}],
)
def test_hydra_reads_the_very_value(value: object) -> None:
    override = OverridesParser.create().parse_override(f"key={hydra_text(value)}")
    read = override.value()
    assert unquoted(read) == value
    assert not override.is_sweep_override()


def unquoted(value: object) -> object:
    """A value of Hydra's parser without the marks of what was quoted."""
    match value:
        case list():
            return [unquoted(part) for part in value]
        case dict():
            return {unquoted(name): unquoted(part) for name, part in value.items()}
    return getattr(value, "text", value)


def test_a_quote_and_a_trailing_backslash_are_escaped() -> None:
    assert quoted("it's\\") == "'it\\'s\\\\'"


def test_a_setting_has_the_originals_spelling() -> None:
    launcher = LauncherConfig(labels={"a": "b", "c": "d"}, procs_per_worker=None)
    cfg = RunConfig(training=TrainingConfig(launcher=launcher, effective_batch_size=64))
    values = {name: parameter.value(cfg) for name, parameter in PARAMETERS.items()}
    assert values["phase_02_train_opt_labels"] == "a=b,c=d"
    assert values["phase_02_train_opt_num_procs"] == "auto"
    assert values["phase_02_train_opt_fsdp_sharding"] == "FULL_SHARD"
    assert values["phase_02_train_man_batch"] == 64
    assert values["phase_02_train_man_train_batch"] == 0  # the second name of the same setting
