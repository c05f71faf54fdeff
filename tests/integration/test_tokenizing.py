"""No row is lost on the way to the trainer, and the loss counts what it should."""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from sft.artifacts import DatasetArtifact, ModelArtifact, TokenizedArtifact
from sft.chat.rejected import read_rejected
from sft.config.schema import OnInvalid, OnTooLong, OnUnrendered, TrainingConfig, TrainOn
from sft.errors import DataError, StageError
from sft.planning.mixing import Mix
from sft.progress import Progress
from sft.stages.tokenize import TokenizeInputs, tokenize

LONG = 120  # words, and more than twice as many tokens


def conversation(*contents: str) -> dict[str, Any]:
    roles = ("user", "assistant") * len(contents)
    return {"messages": [{"role": r, "content": c} for r, c in zip(roles, contents, strict=False)]}


def run(
    folder: Path,
    base: ModelArtifact,
    rows: list[dict[str, Any]],
    *,
    max_seq_len: int = 256,
    on_invalid: OnInvalid = OnInvalid.error,
    on_unrendered: OnUnrendered = OnUnrendered.error,
    train_on: TrainOn = TrainOn.all_turns,
    quiet: bool = True,
    held_out: Sequence[dict[str, Any]] = (),
    mix: Mix | None = None,
    on_too_long: OnTooLong | None = None,
    is_validated: bool = False,
    train_on_reasoning: bool = True,
) -> TokenizedArtifact:
    root, out = folder / "data", folder / "out"
    root.mkdir(parents=True)
    out.mkdir()
    for name, split in (("train", rows), ("eval", held_out)):
        (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in split), encoding="utf-8")
    counts = dict.fromkeys(("num_rejected", "num_duplicates", "num_unused"), 0) | {"num_eval": len(held_out)}
    num_rows = len(rows) + len(held_out)
    data = DatasetArtifact(root=root, source="", source_version="", num_rows=num_rows, num_train=len(rows), **counts)
    inputs = TokenizeInputs(
        dataset=data,
        model=base,
        on_invalid=on_invalid,
        on_unrendered=on_unrendered,
        mix=mix,
        is_validated=is_validated,
    )
    cfg = TrainingConfig(max_seq_len=max_seq_len, train_on=train_on, on_too_long=on_too_long)
    cfg.train_on_reasoning = train_on_reasoning
    return tokenize(cfg, inputs, out, Progress(quiet=quiet))


@pytest.mark.slow
def test_every_row_arrives_with_its_answers_labelled_and_nothing_else(
    tmp_path: Path, tiny_model: ModelArtifact
) -> None:
    rows = [
        conversation("1", "one"),  # 12 tokens: upstream drops rows under 20 without a word
        conversation("12", "one two", "3 4", "three four"),
        conversation(" ".join(["7"] * LONG), "seven"),
    ]
    made = run(tmp_path, tiny_model, rows, max_seq_len=512)
    tokens = [json.loads(line) for line in made.data_file.read_text(encoding="utf-8").splitlines()]
    assert len(tokens) == made.num_samples == len(rows)
    assert made.longest_tokens == max(row["len"] for row in tokens)
    assert made.num_tokens == sum(len(row["input_ids"]) for row in tokens)

    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_model.model_dir)
    labelled = ["".join(tokenizer.decode([t]) for t in row["labels"] if t != -100) for row in tokens]
    assert labelled == ["one<|im_end|>", "one two<|im_end|>three four<|im_end|>", "seven<|im_end|>"]
    whole = tokenizer.apply_chat_template(rows[1]["messages"], tokenize=False)
    assert tokenizer.decode(tokens[1]["input_ids"]) == whole


@pytest.mark.slow
def test_rows_that_are_too_long_are_an_error_with_their_lines_and_the_fix(
    tmp_path: Path, tiny_model: ModelArtifact
) -> None:
    words = " ".join(["seven"] * LONG)
    rows = [conversation(str(n), words if n in (3, 7) else "one") for n in range(10)]
    with pytest.raises(DataError) as caught:
        run(tmp_path, tiny_model, rows, max_seq_len=64)
    told = str(caught.value)
    assert "2 of 10 rows are invalid (2 too-long)" in told
    longest = int(told.partition("train.jsonl:4: too-long: ")[2].partition(" tokens")[0])
    assert longest > LONG
    assert f"train.jsonl:8: too-long: {longest} tokens, training.max_seq_len=64" in told
    assert f"try: training.max_seq_len={longest + 1} " in told


@pytest.mark.slow
def test_a_tokenizer_whose_eos_does_not_end_a_turn_is_refused(tmp_path: Path, tiny_model: ModelArtifact) -> None:
    wrong = tmp_path / "model"
    shutil.copytree(tiny_model.model_dir, wrong)
    settings = json.loads((wrong / "tokenizer_config.json").read_text(encoding="utf-8"))
    (wrong / "tokenizer_config.json").write_text(json.dumps({**settings, "eos_token": "<|endoftext|>"}))
    with pytest.raises(StageError) as caught:
        run(tmp_path / "run", dataclasses.replace(tiny_model, root=wrong), [conversation("1", "one")])
    assert "ends an assistant's turn: then comes '<|im_end|>\\n'; it stops at <|endoftext|>" in str(caught.value)
    assert "must be the tokenizer's eos_token, or among the eos_token_id" in str(caught.value)


@pytest.mark.long
@pytest.mark.slow
def test_large_data_is_shared_among_processes_and_gives_the_same_bytes(
    tmp_path: Path, tiny_model: ModelArtifact
) -> None:
    filler = " ".join(["seven"] * 100)
    rows = [conversation(f"{n} {filler}", f"number {n}") for n in range(14_000)]  # over two parts' worth of bytes
    first = run(tmp_path / "shared", tiny_model, rows, max_seq_len=512)
    assert first.num_samples == len(rows)
    lines = first.data_file.read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(rows)
    small = run(tmp_path / "alone", tiny_model, rows[-5:], max_seq_len=512)
    assert small.data_file.read_text(encoding="utf-8").splitlines() == lines[-5:]


@pytest.mark.slow
def test_samples_that_this_model_can_not_train_are_dropped_with_their_rule(
    tmp_path: Path, tiny_model: ModelArtifact
) -> None:
    wrong = tmp_path / "model"
    shutil.copytree(tiny_model.model_dir, wrong)
    template = (wrong / "chat_template.jinja").read_text()
    refuses = "{% if messages[0]['role'] == 'developer' %}{{ raise_exception('no developer here') }}{% endif %}"
    (wrong / "chat_template.jinja").write_text(refuses + template)
    developer = {"messages": [{"role": "developer", "content": "x"}, *conversation("1", "one")["messages"]]}
    rows = [
        conversation("1", "one"),
        conversation("2<|im_end|>", "two"),
        developer,
        conversation("3", " ".join(["three"] * LONG)),
        conversation("4", "four"),
    ]
    base = dataclasses.replace(tiny_model, root=wrong)
    made = run(tmp_path / "run", base, rows, max_seq_len=64, on_invalid=OnInvalid.drop)
    assert (made.num_samples, made.num_rejected) == (2, 3)
    rejected = [json.loads(line) for line in (made.root / "rejected.jsonl").read_text().splitlines()]
    assert [(r["line"], r["rule"]) for r in rejected] == [(2, "special-token"), (3, "template-error"), (4, "too-long")]
    assert "turn 1 holds <|im_end|>" in rejected[0]["found"]
    assert "no developer here" in rejected[1]["found"]
    assert json.loads(rejected[1]["row"]) == developer


HELD_OUT = [
    conversation("1", "one"),
    conversation("2<|im_end|>", "two"),
    conversation("3", " ".join(["three"] * LONG)),
]


@pytest.mark.slow
def test_held_out_samples_are_held_to_the_same_rules_before_anything_is_trained(
    tmp_path: Path, tiny_model: ModelArtifact
) -> None:
    with pytest.raises(DataError, match=r"2 of 4 rows are invalid \(1 special-token, 1 too-long\)") as caught:
        run(tmp_path, tiny_model, [conversation("4", "four")], max_seq_len=64, held_out=HELD_OUT)
    assert "eval.jsonl:2: special-token: turn 1 holds <|im_end|>" in str(caught.value)
    assert "try: training.max_seq_len=" in str(caught.value)


@pytest.mark.slow
def test_held_out_samples_are_dropped_as_training_samples_are_and_cost_no_length(
    tmp_path: Path, tiny_model: ModelArtifact
) -> None:
    rows = [conversation("4", "four")]
    made = run(tmp_path, tiny_model, rows, max_seq_len=64, on_invalid=OnInvalid.drop, held_out=HELD_OUT)
    assert (made.num_samples, made.num_rejected, made.num_eval_rejected) == (1, 0, 2)
    assert made.longest_tokens < 64
    rejected = [row for row in read_rejected(made.rejected_file) if row.is_held_out]
    assert [(row.line, row.rule) for row in rejected] == [(2, "special-token"), (3, "too-long")]


@pytest.mark.slow
def test_a_held_out_split_of_which_nothing_is_left_is_an_error(tmp_path: Path, tiny_model: ModelArtifact) -> None:
    with pytest.raises(DataError, match="2 of 3 rows are invalid"):
        run(
            tmp_path,
            tiny_model,
            [conversation("4", "four")],
            max_seq_len=64,
            on_invalid=OnInvalid.drop,
            held_out=HELD_OUT[1:],
        )


TOOLS = (
    "{% if tools %}tools {{ tools[0]['name'] }}\n{% endif %}{% for m in messages %}"
    "{{ '<|im_start|>' + m['role'] + '\n' }}{{ m['content'] if m['content'] }}"
    "{% for call in m['tool_calls'] or [] %}call {{ call['function']['name'] }}{% endfor %}{{ '<|im_end|>\n' }}"
    "{% endfor %}"
)
PROMPT = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"


def calling(folder: Path, base: ModelArtifact, template: str) -> TokenizedArtifact:
    changed = folder / "model"
    shutil.copytree(base.model_dir, changed)
    (changed / "chat_template.jinja").write_text(template)
    call = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "add"}}]}
    messages = [
        {"role": "user", "content": "1+1"},
        call,
        {"role": "tool", "content": "2"},
        {"role": "assistant", "content": "two"},
    ]
    rows = [{"messages": messages, "tools": [{"name": "add"}]}]
    return run(folder / "run", dataclasses.replace(base, root=changed), rows)


@pytest.mark.slow
def test_tools_reach_the_template_and_calls_of_them_are_trained(tmp_path: Path, tiny_model: ModelArtifact) -> None:
    made = calling(tmp_path, tiny_model, TOOLS + PROMPT)

    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_model.model_dir)
    [row] = [json.loads(line) for line in made.data_file.read_text().splitlines()]
    text = tokenizer.decode(row["input_ids"])
    assert text.startswith("tools add\n<|im_start|>user\n1+1<|im_end|>\n<|im_start|>assistant\ncall add<|im_end|>")
    assert tokenizer.decode([t for t in row["labels"] if t != -100]) == "call add<|im_end|>two<|im_end|>"


@pytest.mark.slow
def test_arguments_as_text_or_as_an_object_give_the_same_tokens(tmp_path: Path, tiny_model: ModelArtifact) -> None:
    template = TOOLS.replace("{{ call['function']['name'] }}", "{{ call['function']['arguments'] | tojson }}") + PROMPT
    base = changed_model(tmp_path, tiny_model, template)
    rows = []
    for arguments in ({"x": 1}, '{"x": 1}'):
        call = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "a", "arguments": arguments}}]}
        rows.append({"messages": [{"role": "user", "content": "1+1"}, call]})
    made = run(tmp_path / "run", base, rows)
    first, second = (json.loads(line) for line in made.data_file.read_text().splitlines())
    assert first == second


def changed_model(folder: Path, base: ModelArtifact, template: str) -> ModelArtifact:
    changed = folder / "model"
    shutil.copytree(base.model_dir, changed)
    (changed / "chat_template.jinja").write_text(template)
    return dataclasses.replace(base, root=changed)


def labelled(made: TokenizedArtifact, base: ModelArtifact) -> list[str]:
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(base.model_dir)
    rows = [json.loads(line) for line in made.data_file.read_text(encoding="utf-8").splitlines()]
    return [tokenizer.decode([label for label in row["labels"] if label != -100]) for row in rows]


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize(
    ("train_on", "expected"),
    [
        (TrainOn.all_turns, "one<|im_end|>three<|im_end|>"),
        (TrainOn.last_turn, "three<|im_end|>"),
        (
            TrainOn.everything,
            "user\n1<|im_end|>\n<|im_start|>assistant\none<|im_end|>\n<|im_start|>user\n2<|im_end|>\n"
            "<|im_start|>assistant\n<|im_start|>user\n3<|im_end|>\n<|im_start|>assistant\nthree<|im_end|>\n",
        ),
    ],
)
def test_who_trains_is_as_the_recipe_and_the_row_say(
    train_on: TrainOn, expected: str, tmp_path: Path, tiny_model: ModelArtifact
) -> None:
    row = conversation("1", "one", "2", "two", "3", "three")
    row["messages"][3]["weight"] = 0
    made = run(tmp_path, tiny_model, [row], train_on=train_on)
    if train_on is TrainOn.everything:
        expected = expected.replace("assistant\n<|im_start|>user\n3", "assistant\n\n<|im_start|>user\n3")
    assert labelled(made, tiny_model) == [expected]
    [tokens] = [json.loads(line) for line in made.data_file.read_text().splitlines()]
    assert made.num_loss_tokens == sum(label != -100 for label in tokens["labels"])


@pytest.mark.slow
def test_rows_of_context_alone_are_refused(tmp_path: Path, tiny_model: ModelArtifact) -> None:
    row = conversation("1", "one")
    row["messages"][1]["weight"] = 0
    with pytest.raises(DataError, match="nothing-for-the-loss: every assistant turn has weight 0"):
        run(tmp_path, tiny_model, [row])


@pytest.mark.long
@pytest.mark.slow
def test_what_the_template_does_not_render_is_an_error_or_a_note_or_left_out(
    tmp_path: Path, tiny_model: ModelArtifact, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [conversation("1", "one"), conversation("2", "two"), conversation("3", "three")]
    rows[1]["messages"][1]["reasoning_content"] = "1 and 1"
    rows[2]["tools"] = [{"type": "function", "function": {"name": "add"}}]
    with pytest.raises(DataError) as caught:
        run(tmp_path / "error", tiny_model, rows, on_invalid=OnInvalid.drop)
    told = str(caught.value)
    assert "2 of 3 rows are invalid (2 unrendered)" in told
    assert 'train.jsonl:2: unrendered: turn 2 has reasoning_content "1 and 1"' in told
    assert "dataset.on_unrendered=warn" in told
    dropped = run(tmp_path / "drop", tiny_model, rows, on_unrendered=OnUnrendered.drop_row)
    assert (dropped.num_rows, dropped.num_rejected, dropped.unrendered) == (1, 2, {})
    capsys.readouterr()
    warned = run(tmp_path / "warn", tiny_model, rows, on_unrendered=OnUnrendered.warn, quiet=False)
    assert (warned.num_rows, warned.num_rejected) == (3, 0)
    assert warned.unrendered == {"reasoning_content": 1, "tools": 1}
    notes = capsys.readouterr().out
    assert "not trained: reasoning_content in 1 of 3 rows, which the chat template does not render" in notes
    assert 'for example turn 2 has reasoning_content "1 and 1"' in notes


@pytest.mark.long
@pytest.mark.slow
def test_reasoning_that_is_to_be_left_out_and_is_nowhere_is_said(
    tmp_path: Path, tiny_model: ModelArtifact, capsys: pytest.CaptureFixture[str]
) -> None:
    plain, thought = conversation("</think> 1", "one"), conversation("2", "it is two</think>two")
    nowhere = "training.train_on_reasoning=false: no row has reasoning"
    run(tmp_path / "none", tiny_model, [plain], train_on_reasoning=False, quiet=False)
    assert nowhere in capsys.readouterr().out
    some = run(tmp_path / "some", tiny_model, [plain, thought], train_on_reasoning=False, quiet=False)
    every = run(tmp_path / "trained", tiny_model, [plain], quiet=False)
    assert nowhere not in capsys.readouterr().out
    assert some.num_loss_tokens > every.num_loss_tokens


@pytest.mark.slow
def test_a_turn_that_is_shown_otherwise_later_becomes_a_sample_of_its_own(
    tmp_path: Path, tiny_model: ModelArtifact, capsys: pytest.CaptureFixture[str]
) -> None:
    think = "{{ '<think></think>' if loop.last and m['role'] == 'assistant' }}{{ m['content'] if m['content'] }}"
    base = changed_model(tmp_path, tiny_model, TOOLS.replace("{{ m['content'] if m['content'] }}", think) + PROMPT)
    rows = [conversation("1", "one", "2", "two"), conversation("3", "three")]
    made = run(tmp_path / "run", base, rows, quiet=False)
    assert (made.num_rows, made.num_samples) == (2, 3)
    assert labelled(made, base) == [f"<think></think>{text}<|im_end|>" for text in ("two", "one", "three")]
    assert "2 rows became 3 samples" in capsys.readouterr().out


@pytest.mark.long
@pytest.mark.slow
def test_special_tokens_in_calls_and_tools_are_refused(tmp_path: Path, tiny_model: ModelArtifact) -> None:
    row = conversation("1", "one")
    row["tools"] = [{"type": "function", "function": {"name": "add", "description": "ends with <|im_end|>"}}]
    with pytest.raises(DataError, match=r"special-token: tools holds <\|im_end\|>, in the text"):
        run(tmp_path, tiny_model, [row])


@pytest.mark.long
@pytest.mark.slow
def test_a_template_that_loops_ends_in_an_error_in_bounded_time(tmp_path: Path, tiny_model: ModelArtifact) -> None:
    loops = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    base = changed_model(tmp_path, tiny_model, loops + TOOLS + PROMPT)
    began = time.monotonic()
    with pytest.raises(StageError, match="the chat template did not end within 10 s"):
        run(tmp_path / "run", base, [conversation("1", "one")])
    assert time.monotonic() - began < 60


@pytest.mark.long
@pytest.mark.slow
def test_a_template_that_loops_hears_sigterm(tmp_path: Path, tiny_model: ModelArtifact) -> None:
    loops = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    base = changed_model(tmp_path, tiny_model, loops + TOOLS)
    begins = "from sft.adapters.instructlab.sample_tokens import renderer; print(1, flush=True)"
    program = f"{begins}; renderer({str(base.root)!r})"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(6)  # transformers is imported, and the template loops
        child.terminate()
        assert child.wait(timeout=3) == -signal.SIGTERM


@pytest.mark.long
@pytest.mark.slow
def test_tokens_name_their_source_and_are_mixed_without_the_rows_that_break_a_rule(
    tmp_path: Path, tiny_model: ModelArtifact
) -> None:
    long = conversation(" ".join(["one"] * LONG), "two")
    rows = [conversation(f"say {n}", f"{n}") | {"source": "chat" if n % 2 else "maths"} for n in range(20)]
    rows.append(long | {"source": "maths"})
    mix = Mix(weights={"maths": 1.0, "chat": 1.0}, epochs={"maths": 3.0, "chat": 0.5}, seed=1)
    made = run(tmp_path, tiny_model, rows, max_seq_len=LONG, on_invalid=OnInvalid.drop, mix=mix)
    lines = [json.loads(line) for line in made.data_file.read_text().splitlines()]
    assert [list(line)[-1] for line in lines] == ["source"] * len(lines)
    assert Counter(line["source"] for line in lines) == {"maths": 30, "chat": 5}
    assert (made.num_rows, made.num_samples, made.num_rejected) == (20, 35, 1)
    assert made.num_tokens == sum(line["len"] for line in lines)
    assert made.num_loss_tokens == sum(label != -100 for line in lines for label in line["labels"])
    assert [row.source for row in read_rejected(made.rejected_file)] == ["maths"]


def many_turns(count: int, words: int = 4) -> dict[str, Any]:
    """A conversation with an instruction, each exchange as long as the other."""
    turns = conversation(*(f"{place} " + "word " * words for place in range(2 * count)))["messages"]
    return {"messages": [{"role": "system", "content": "brief"}, *turns]}


def rows_of(made: TokenizedArtifact) -> list[dict[str, Any]]:
    return [json.loads(line) for line in made.data_file.read_text().splitlines()]


def answers_of(row: dict[str, Any]) -> list[list[int]]:
    """Runs of labelled tokens."""
    runs: list[list[int]] = [[]]
    for label in row["labels"]:
        if label != -100:
            runs[-1].append(label)
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


@pytest.mark.long
@pytest.mark.slow
def test_what_is_too_long_is_cut_or_divided_into_whole_turns_and_counted(
    tmp_path: Path, tiny_model: ModelArtifact
) -> None:
    long, short = many_turns(6), many_turns(1)
    hopeless = conversation("word " * LONG, "two", "three", "four")
    whole = run(tmp_path / "whole", tiny_model, [short, long, hopeless], max_seq_len=4096)
    [first, as_it_is, too_long] = rows_of(whole)
    limit = as_it_is["len"] // 2
    assert first["len"] < limit < too_long["len"]

    told = {"on_too_long": OnTooLong.truncate, "max_seq_len": limit}
    cut = run(tmp_path / "cut", tiny_model, [short, long, hopeless], **told)
    [kept, shorter] = rows_of(cut)
    assert kept == first
    assert shorter["input_ids"] == as_it_is["input_ids"][: shorter["len"]]
    assert shorter["len"] < limit
    assert 0 < len(answers_of(shorter)) < 6
    assert answers_of(shorter) == answers_of(as_it_is)[: len(answers_of(shorter))]  # terminators included
    assert (cut.num_rows, cut.num_rejected, cut.num_truncated) == (2, 1, 1)
    assert cut.num_cut_tokens == as_it_is["len"] - shorter["len"]
    assert [row.rule for row in read_rejected(cut.rejected_file)] == ["too-long"]

    told = {"on_too_long": OnTooLong.split_turns, "max_seq_len": limit}
    parts = run(tmp_path / "parts", tiny_model, [short, long, hopeless], **told)
    [kept, *pieces] = rows_of(parts)
    of_long, of_hopeless = pieces[:-1], pieces[-1]
    assert kept == first
    assert [answer for piece in of_long for answer in answers_of(piece)] == answers_of(as_it_is)
    begin = answers_of(first)[0]
    instruction = first["input_ids"][: first["input_ids"].index(begin[0])][:5]
    assert all(piece["input_ids"][:5] == instruction and piece["len"] < limit for piece in of_long)
    assert answers_of(of_hopeless) == answers_of(too_long)[1:]
    assert (parts.num_rows, parts.num_divided, parts.num_parts) == (3, 2, len(pieces))
    assert (parts.num_lost_parts, parts.num_samples, parts.num_rejected) == (1, 1 + len(pieces), 0)
    assert parts.rows_file
    assert [int(line) for line in parts.rows_file.read_text().split()] == [0, *[1] * len(of_long), 2]
    assert whole.rows_file is cut.rows_file is None, "each row is one sample"


@pytest.mark.long
@pytest.mark.slow
def test_a_training_on_everything_is_cut_at_the_end_of_a_turn_too(tmp_path: Path, tiny_model: ModelArtifact) -> None:
    long, everything = many_turns(6), {"train_on": TrainOn.everything}
    [whole] = rows_of(run(tmp_path / "whole", tiny_model, [long], max_seq_len=4096))
    limit = whole["len"] // 2
    [cut] = rows_of(run(tmp_path / "turns", tiny_model, [long], max_seq_len=limit, on_too_long=OnTooLong.truncate))
    told = {"max_seq_len": limit, "on_too_long": OnTooLong.truncate}
    [of_all] = rows_of(run(tmp_path / "all", tiny_model, [long], **told, **everything))
    assert of_all["input_ids"] == cut["input_ids"]
    assert of_all["labels"] == [-100, *cut["input_ids"][1:]]


@pytest.mark.long
@pytest.mark.slow
def test_too_long_rows_are_dropped_or_an_error_whatever_becomes_of_other_rows(
    tmp_path: Path, tiny_model: ModelArtifact
) -> None:
    rows = [conversation("a", "b"), conversation("word " * LONG, "two")]
    dropped = run(tmp_path / "drop", tiny_model, rows, max_seq_len=LONG, on_too_long=OnTooLong.drop, held_out=rows)
    assert (dropped.num_rows, dropped.num_rejected, dropped.num_eval_rejected) == (1, 1, 1)
    told = {"on_invalid": OnInvalid.drop, "on_too_long": OnTooLong.error, "max_seq_len": LONG}
    with pytest.raises(DataError, match="too-long"):
        run(tmp_path / "error", tiny_model, rows, **told)


@pytest.mark.slow
def test_every_token_of_a_raw_text_counts_and_long_ones_are_divided_beside_conversations(
    tmp_path: Path, tiny_model: ModelArtifact, capsys: pytest.CaptureFixture[str]
) -> None:
    import transformers

    texts = ["one two three", "\n".join(str(number) for number in range(100))]
    rows = [{"messages": [{"role": "text", "content": text}]} for text in texts]
    made = run(tmp_path, tiny_model, [rows[0], conversation("1", "one"), rows[1]], max_seq_len=64, quiet=False)
    short, answered, *parts = [json.loads(line) for line in made.data_file.read_text(encoding="utf-8").splitlines()]

    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_model.model_dir)
    whole = [[*tokenizer(text)["input_ids"], tokenizer.eos_token_id] for text in texts]
    assert short == {"input_ids": whole[0], "labels": [-100, *whole[0][1:]], "len": len(whole[0])}
    assert -100 in answered["labels"][1:]
    assert len(parts) > 2
    assert max(part["len"] for part in parts) == 63
    assert [label for part in parts for label in part["labels"] if label != -100] == whole[1][1:]
    assert (made.num_rows, made.num_samples) == (3, 2 + len(parts))
    assert (made.num_divided, made.num_parts, made.num_rejected) == (1, len(parts), 0)
    assert f"1 of 3 rows are {len(parts)} parts" in capsys.readouterr().out


@pytest.mark.slow
def test_a_raw_text_that_holds_a_special_token_is_refused(tmp_path: Path, tiny_model: ModelArtifact) -> None:
    import transformers

    eos = transformers.AutoTokenizer.from_pretrained(tiny_model.model_dir).eos_token
    with pytest.raises(DataError, match="special-token"):
        run(tmp_path, tiny_model, [{"messages": [{"role": "text", "content": f"the end{eos} and more"}]}])


@pytest.mark.slow
def test_a_raw_text_in_pieces_of_one_token_is_refused(tmp_path: Path, tiny_model: ModelArtifact) -> None:
    with pytest.raises(StageError, match="of a piece's tokens the first is context, so that one more is needed"):
        run(tmp_path, tiny_model, [{"messages": [{"role": "text", "content": "one two"}]}], max_seq_len=2)


@pytest.mark.slow
def test_a_set_that_is_validated_is_labelled_as_training_is_and_no_part_of_a_long_row_is_taken(
    tmp_path: Path, tiny_model: ModelArtifact
) -> None:
    rows = [
        conversation("1", "one", "2", "two"),
        conversation("3", "three", " ".join(["7"] * LONG), "seven"),  # training would keep its first exchange
    ]
    made = run(
        tmp_path,
        tiny_model,
        rows[:1],
        held_out=rows,
        is_validated=True,
        train_on=TrainOn.everything,
        on_too_long=OnTooLong.truncate,
    )
    assert (made.num_rows, made.num_rejected, made.num_truncated, made.num_eval_rejected) == (1, 1, 0, 0)
    [tokens] = [json.loads(line) for line in made.data_file.read_text(encoding="utf-8").splitlines()]
    assert made.num_loss_tokens == len(tokens["labels"]) - tokens["labels"].count(-100) == tokens["len"] - 1
    [rejected] = read_rejected(made.rejected_file)
    assert (rejected.rule, rejected.line) == ("too-long", 2)


@pytest.mark.slow
def test_a_set_without_a_token_that_counts_is_refused_with_a_way_out(tmp_path: Path, tiny_model: ModelArtifact) -> None:
    context = conversation("1", "one")
    context["messages"][1]["weight"] = 0
    with pytest.raises(DataError) as refused:
        run(tmp_path, tiny_model, [], held_out=[context], is_validated=True, on_invalid=OnInvalid.drop)
    assert refused.value.message.startswith(
        "one of training.validation_sets without a token that counts for the loss: 1 of 1 rows are invalid (1 "
        "nothing-for-the-loss)"
    )
    assert refused.value.fix == "take the set out of training.validation_sets, or give it rows with a turn that trains"
