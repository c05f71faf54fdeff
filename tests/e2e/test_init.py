"""From a file of 200 chats to a model that answers, in three commands."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sft.artifacts import ModelArtifact
from sft.config.compose import compose, find_recipe
from tests.support.command import records, sft, steps

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


@pytest.mark.long
def test_three_commands_make_a_model_of_200_chats(tiny_model: ModelArtifact, tmp_path: Path) -> None:
    with (tmp_path / "chats.jsonl").open("w") as file:
        for number in range(1000, 1200):
            spelled = " ".join(DIGITS[int(digit)] for digit in str(number))
            turns = [{"role": "user", "content": str(number)}, {"role": "assistant", "content": spelled}]
            file.write(json.dumps({"messages": turns}) + "\n")
    begun = sft("init", "chats.jsonl", "--model", str(tiny_model.model_dir), "--yes", cwd=tmp_path)
    assert begun.status == 0, begun.err
    assert "longest sample" in begun.out
    run = sft("run", "recipe.yaml", cwd=tmp_path)
    assert run.status == 0, run.err
    assert "only" not in run.out  # as few_steps_note begins
    [record] = records(tmp_path / "runs")
    cfg = compose(find_recipe(str(tmp_path / "recipe.yaml")), [])
    facts = steps(record)["train"]["facts"]
    assert facts["num_steps"] == -(-180 // cfg.training.effective_batch_size) * cfg.training.num_epochs
    chat = re.search(r"^chat +sft (chat \S+)$", run.out, re.MULTILINE)
    assert chat, run.out
    assert chat[1] in begun.out  # as `sft init` has said
    command = [sys.executable, "-m", "sft", *chat[1].split(), "--max-tokens", "8"]
    said = subprocess.run(command, cwd=tmp_path, input="1234\n", capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    folder = tmp_path / "runs" / record["run_id"]
    assert (folder / "model" / "config.json").is_file()
    assert (folder / "metrics.jsonl").read_text().count("\n") == facts["num_steps"]
