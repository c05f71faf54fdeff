"""What lm-eval's models are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from sft.adapters.evaluation import lm_eval


@pytest.mark.parametrize(
    ("config", "asked", "used"),
    [
        ('{"dtype": "float32"}', {}, "float32"),
        ('{"torch_dtype": "bfloat16"}', {}, "bfloat16"),
        ('{"dtype": "float32"}', {"dtype": "bfloat16"}, "bfloat16"),
        ("{}", {}, "auto"),
    ],
)
def test_vllm_uses_the_weights_as_they_are_stored_unless_asked_otherwise(
    config: str, asked: dict[str, str], used: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(config)
    request = {"model_dir": str(tmp_path), "trust_remote_code": False, "model_args": asked}
    assert lm_eval.vllm_arguments(request) == {
        "dtype": used,
        "pretrained": str(tmp_path),
        "trust_remote_code": False,
    }
