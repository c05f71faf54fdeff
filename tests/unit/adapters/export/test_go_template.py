"""The part of Go's templates that a Modelfile of ours uses, against Go itself where it is installed."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from sft.adapters.export.go_template import ChatForm, render, text

CHATML = ChatForm(
    {role: (f"<|im_start|>{role}\n", "<|im_end|>\n") for role in ("system", "user", "assistant")},
    "<|im_start|>assistant\n",
)
ODD = ChatForm({"system": ("{{S\n", '"}}\\'), "user": (" [U] ", "\t"), "assistant": ("", "é</s>")}, "{{ answer }}: ")
CHAT = [
    {"role": "system", "content": "be {{ brief }}\n"},
    {"role": "user", "content": " hi "},
    {"role": "assistant", "content": "{{ .Role }}"},
    {"role": "user", "content": ""},
]
PROGRAM = """package main
import ("encoding/json"; "os"; "text/template")
func main() {
    var in struct { Template string; Messages []struct { Role, Content string } }
    if err := json.NewDecoder(os.Stdin).Decode(&in); err != nil { panic(err) }
    if err := template.Must(template.New("t").Parse(in.Template)).Execute(os.Stdout, in); err != nil { panic(err) }
}
"""


def expected(form: ChatForm) -> str:
    turns = (form.around[turn["role"]][0] + turn["content"] + form.around[turn["role"]][1] for turn in CHAT)
    return "".join(turns) + form.generation


@pytest.mark.parametrize("form", [CHATML, ODD])
def test_a_form_renders_as_it_says(form: ChatForm) -> None:
    assert render(form.template(), CHAT) == expected(form)


@pytest.mark.slow
@pytest.mark.parametrize("form", [CHATML, ODD])
def test_go_renders_the_same(form: ChatForm, tmp_path: Path) -> None:
    if (go := shutil.which("go")) is None:
        pytest.skip("Go is not installed")
    (tmp_path / "main.go").write_text(PROGRAM)
    asked = json.dumps({"Template": form.template(), "Messages": CHAT})
    run = [go, "run", "main.go"]
    done = subprocess.run(run, cwd=tmp_path, input=asked, capture_output=True, text=True, check=False)
    assert done.stdout == expected(form), done.stderr


def test_a_template_reads_like_ollamas_own() -> None:
    assert CHATML.template().startswith(
        '{{ range .Messages }}{{ if eq .Role "system" }}<|im_start|>system\n{{ .Content }}<|im_end|>\n'
        '{{ else if eq .Role "user" }}'
    )
    assert text("plain") == "plain"
    assert text("a {{ b") == '{{ "a {\\u007b b" }}'


def test_a_role_without_a_branch_shows_nothing() -> None:
    assert render(CHATML.template(), [{"role": "tool", "content": "x"}]) == CHATML.generation


UNKNOWN = ("{{ .System }}", '{{ if eq .Role "user" }}', "{{ end }}", "{{ if .Tools }}{{ end }}")


@pytest.mark.parametrize("template", UNKNOWN)
def test_what_is_not_of_this_part_is_refused(template: str) -> None:
    with pytest.raises(ValueError, match=r"unknown action|an end too few|too many"):
        render(template, CHAT)
