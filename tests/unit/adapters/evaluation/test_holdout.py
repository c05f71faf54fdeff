"""Held-out scores equal what plain transformers gives, whatever the batch; errors show the sample."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Collection
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sft.adapters.evaluation import aggregate, holdout, writing
from sft.adapters.evaluation.answer_cache import AnswerCache
from sft.adapters.evaluation.conversation import Conversation, Lengths
from sft.adapters.evaluation.oom_batches import Budget, in_batches
from sft.adapters.evaluation.progress_file import ProgressFile
from sft.adapters.evaluation.writing import Writing, write_answers
from sft.artifacts import ModelArtifact
from sft.chat.template import Renderer
from sft.chat.turn_tokens import TurnFinder
from sft.errors import DataError, StageError

pytestmark = pytest.mark.slow
SYSTEM = {"role": "system", "content": "spell digits"}
METRICS = ["loss", "perplexity", "token_accuracy", "exact_match", "rouge_l", "chrf"]
CONVERSATIONS = [
    [{"role": "user", "content": "12"}, {"role": "assistant", "content": "one two"}],
    [SYSTEM, {"role": "user", "content": "90817"}, {"role": "assistant", "content": "nine zero eight one seven"}],
    [
        {"role": "user", "content": "5"},
        {"role": "assistant", "content": "five"},
        {"role": "user", "content": "and 66"},
        {"role": "assistant", "content": "six six"},
    ],
]


@pytest.fixture(scope="module")
def loaded(tiny_model: ModelArtifact) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(tiny_model.model_dir).eval()
    return model, AutoTokenizer.from_pretrained(tiny_model.model_dir)


def renderer(loaded: tuple[Any, Any], stops: frozenset[str] = frozenset({"<|im_end|>"})) -> Renderer:
    return Renderer(loaded[1], stops)


def finder(loaded: tuple[Any, Any], stops: frozenset[str] = frozenset({"<|im_end|>"})) -> TurnFinder:
    return TurnFinder(renderer(loaded, stops))


def rendered(loaded: tuple[Any, Any]) -> list[Conversation]:
    return [holdout.render(index, messages, finder(loaded)) for index, messages in enumerate(CONVERSATIONS)]


def budget(size: int | None) -> Budget:
    return Budget(8192, size, lambda _: None)


def scored(loaded: tuple[Any, Any], batch_size: int | None) -> list[Conversation]:
    model, tokenizer = loaded
    conversations = rendered(loaded)
    work = partial(holdout.score_loss, model=model, pad_id=tokenizer.pad_token_id)
    done = list(in_batches(conversations, lambda c: c.num_tokens, work, budget(batch_size)))
    assert sum(map(len, done)) == len(conversations)
    return conversations


def written(loaded: tuple[Any, Any], model: Any, max_new_tokens: int, batch_size: int | None) -> list[str | None]:
    turns = [turn for conversation in rendered(loaded) for turn in conversation.turns]
    how = Writing(max_new_tokens=max_new_tokens)
    write_answers(turns, model, renderer(loaded), how, budget(batch_size))
    return [turn.written for turn in turns]


def plain_loss(loaded: tuple[Any, Any], messages: list[dict[str, str]]) -> tuple[float, int]:
    """Sum over the answers' tokens by transformers' own loss, from the rendered text alone."""
    import torch

    model, tokenizer = loaded
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    encoded = tokenizer(text, return_offsets_mapping=True, return_tensors="pt", add_special_tokens=False)
    labels = torch.full_like(encoded["input_ids"], -100)
    for message in messages:
        if message["role"] == "assistant":
            turn = f"{message['content']}<|im_end|>"
            begin = text.index(f"assistant\n{turn}") + len("assistant\n")
            for place, (left, right) in enumerate(encoded["offset_mapping"][0].tolist()):
                if begin <= left < right <= begin + len(turn):
                    labels[0, place] = encoded["input_ids"][0, place]
    count = int((labels != -100).sum())
    with torch.inference_mode():
        mean = model(input_ids=encoded["input_ids"], labels=labels).loss
    return float(mean) * count, count


@pytest.mark.parametrize("batch_size", [None, 1, 2])
def test_loss_equals_plain_transformers_on_the_rendered_text(loaded: tuple[Any, Any], batch_size: int | None) -> None:
    for conversation, messages in zip(scored(loaded, batch_size), CONVERSATIONS, strict=True):
        loss, count = plain_loss(loaded, messages)
        assert sum(len(turn.places) for turn in conversation.turns) == count
        assert sum(turn.loss for turn in conversation.turns) / count == pytest.approx(loss / count, abs=1e-5)


def test_every_assistant_turn_counts_with_its_terminator_and_is_asked_for_with_all_before_it(
    loaded: tuple[Any, Any],
) -> None:
    tokenizer = loaded[1]
    conversation = holdout.render(0, CONVERSATIONS[2], finder(loaded))
    first, second = conversation.turns
    [sequence] = conversation.sequences
    texts = [tokenizer.decode([sequence.token_ids[i] for i in turn.places]) for turn in conversation.turns]
    assert texts == ["five<|im_end|>", "six six<|im_end|>"]
    assert (first.number, second.number, first.target, second.target) == (1, 3, "five", "six six")
    assert "five" not in first.prompt
    assert second.prompt.endswith("five<|im_end|>\n<|im_start|>user\nand 66<|im_end|>\n<|im_start|>assistant\n")
    assert tokenizer.decode(second.prompt_ids) == second.prompt


def test_a_turn_that_is_context_is_not_scored(
    loaded: tuple[Any, Any], request_of: dict[str, Any], tmp_path: Path
) -> None:
    _, second = holdout.render(0, CONVERSATIONS[2], finder(loaded)).turns
    context: list[dict[str, Any]] = [*CONVERSATIONS[2]]
    context[1] = {**context[1], "weight": 0}
    [turn] = holdout.render(0, context, finder(loaded)).turns
    assert (turn.number, turn.prompt, turn.places) == (second.number, second.prompt, second.places)
    nothing = [{**message, "weight": 0} for message in CONVERSATIONS[0]]
    rows = [nothing, context, CONVERSATIONS[1]]
    Path(request_of["file"]).write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in rows))
    found, _ = score(request_of, loaded, tmp_path / "out")
    assert {result["num_samples"] for result in found} == {2}
    samples = (tmp_path / "out" / "samples_holdout.jsonl").read_text().splitlines()
    assert [(json.loads(s)["sample"], json.loads(s)["turn"]) for s in samples] == [(1, 3), (2, 2)]
    Path(request_of["file"]).write_text(json.dumps({"messages": nothing}) + "\n")
    with pytest.raises(StageError, match="no held-out conversation has a turn to score"):
        score(request_of, loaded, tmp_path / "nothing", places=[0])


def test_turns_that_a_template_shows_otherwise_later_are_scored_as_they_are_written(
    loaded: tuple[Any, Any], tmp_path: Path
) -> None:
    _, tokenizer = loaded
    usual = tokenizer.chat_template
    try:
        tokenizer.chat_template = usual.replace(
            "message['content']",
            "('<think></think>' if loop.last and message['role'] == 'assistant' else '') + message['content']",
        )
        conversation = holdout.render(0, CONVERSATIONS[2], finder(loaded))
        assert len(conversation.sequences) == 2
        assert [turn.target for turn in conversation.turns] == ["<think></think>five", "<think></think>six six"]
        alone = [
            holdout.render(0, CONVERSATIONS[2][:2], finder(loaded)),
            holdout.render(0, CONVERSATIONS[2], finder(loaded)),
        ]
        for one in (conversation, *alone):
            holdout.score_loss([one], loaded[0], tokenizer.pad_token_id)
        assert conversation.turns[0].loss == pytest.approx(alone[0].turns[0].loss, abs=1e-4)
        assert conversation.turns[1].loss == pytest.approx(alone[1].turns[1].loss, abs=1e-4)
    finally:
        tokenizer.chat_template = usual


def test_answers_are_greedy_whatever_the_model_folder_says(loaded: tuple[Any, Any]) -> None:
    import copy

    from transformers import GenerationConfig

    told = copy.deepcopy(loaded[0])
    told.generation_config = GenerationConfig(do_sample=True, temperature=2.0, repetition_penalty=5.0)
    assert written(loaded, told, 12, None) == written(loaded, copy.deepcopy(loaded[0]), 12, None)


def test_answers_do_not_depend_on_what_else_is_in_the_batch(loaded: tuple[Any, Any]) -> None:
    together, alone = written(loaded, loaded[0], 8, None), written(loaded, loaded[0], 8, 1)
    assert together == alone
    assert all(together)


def test_an_answer_ends_at_any_token_at_which_the_model_stops(loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    [turn] = holdout.render(0, CONVERSATIONS[0], finder(loaded)).turns
    [whole] = [text for text in written(loaded, model, 12, None)[:1] if text is not None]
    first = tokenizer.encode(whole, add_special_tokens=False)[0]
    stop = tokenizer.convert_ids_to_tokens(first)
    write_answers(
        [turn], model, renderer(loaded, frozenset({stop, "<|im_end|>"})), Writing(max_new_tokens=12), budget(None)
    )
    assert turn.written == tokenizer.decode([first])
    assert not turn.is_cut


@pytest.mark.parametrize("is_greedy", [True, False])
def test_answers_that_were_cut_and_longer_references_are_told_of_also_when_they_were_kept(
    is_greedy: bool, loaded: tuple[Any, Any], request_of: dict[str, Any], tmp_path: Path
) -> None:
    how = {"max_new_tokens": 5, "is_greedy": is_greedy}
    for name in ("asked", "kept"):
        _, meter = score({**request_of, "writing": how}, loaded, tmp_path / "out")
        rows = [json.loads(line) for line in (tmp_path / "out" / "samples_holdout.jsonl").read_text().splitlines()]
        num_cut, num_longer = sum(row["is_cut"] for row in rows), sum(row["num_tokens"] > 5 for row in rows)
        assert min(num_cut, num_longer) > 0, name
        assert meter.notes == [
            f"holdout: {num_cut} of 4 answers were cut at eval.holdout.max_new_tokens=5, and are scored so",
            f"holdout: {num_longer} of 4 references are longer than eval.holdout.max_new_tokens=5",
        ]


def test_an_answer_that_ends_with_the_last_token_that_is_allowed_is_whole(loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded

    def first_token(*stops: str) -> tuple[str, bool]:
        [turn] = holdout.render(0, CONVERSATIONS[0], finder(loaded)).turns
        write_answers([turn], model, renderer(loaded, frozenset(stops)), Writing(max_new_tokens=1), budget(None))
        [token] = tokenizer.tokenize(turn.written)
        return token, turn.is_cut

    token, is_cut = first_token("<|im_end|>")
    assert is_cut
    assert first_token("<|im_end|>", token) == (token, False)


def test_error_of_a_plain_mean_is_the_textbook_one() -> None:
    mean, error = aggregate.mean([1, 0, 1], [1, 1, 1])
    assert mean == pytest.approx(2 / 3)
    assert error == pytest.approx(statistics.stdev([1, 0, 1]) / math.sqrt(3))
    assert aggregate.mean([1], [1]) == (1.0, None)


def test_a_conversation_that_can_not_be_rendered_is_shown(loaded: tuple[Any, Any]) -> None:
    tokenizer = loaded[1]
    usual = tokenizer.chat_template
    ready = finder(loaded)
    try:
        tokenizer.chat_template = "{{ raise_exception('not today') }}"
        with pytest.raises(DataError, match=r"held-out sample 3: .*not today; the conversation: .*90817"):
            holdout.render(3, CONVERSATIONS[1], ready)
    finally:
        tokenizer.chat_template = usual


def test_a_template_without_the_models_terminator_is_refused(loaded: tuple[Any, Any]) -> None:
    with pytest.raises(DataError, match=r"held-out sample 5: .*no token at which the model stops"):
        holdout.render(5, CONVERSATIONS[0], finder(loaded, frozenset({"<|unused|>"})))


def test_a_loss_that_is_not_a_number_fails_and_shows_the_prompt(loaded: tuple[Any, Any]) -> None:
    import copy

    broken = copy.deepcopy(loaded[0])
    broken.model.norm.weight.data.fill_(math.nan)
    conversation = holdout.render(4, CONVERSATIONS[0], finder(loaded))
    with pytest.raises(StageError, match=r"held-out sample 4: the loss of turn 2 is nan; the prompt: [\s\S]*12"):
        holdout.score_loss([conversation], broken, 0)


@pytest.fixture
def request_of(tmp_path: Path) -> dict[str, Any]:
    file = tmp_path / "eval.jsonl"
    file.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in CONVERSATIONS))
    compared = {"metrics": METRICS, "exact_match_ignores": [], "extract": None}
    return {"name": "holdout", "file": str(file), **compared, "writing": {"max_new_tokens": 4}, "batch_size": 1}


def score(
    request: dict[str, Any], loaded: tuple[Any, Any], out: Path, places: Collection[int] = range(3)
) -> tuple[list[dict[str, Any]], ProgressFile]:
    out.mkdir(exist_ok=True)
    meter = ProgressFile(out / "progress.json")
    with closing(AnswerCache(out / "answers")) as answers:
        return holdout.score(request, places, loaded[0], finder(loaded), out, meter, answers), meter


def test_a_killed_try_goes_on_after_its_last_answer_and_ends_the_same(
    loaded: tuple[Any, Any], request_of: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, _ = score(request_of, loaded, tmp_path / "whole")
    work, write = holdout.score_loss, holdout.write_answers
    num_scored: list[int] = []
    asked: list[int] = []

    def counted(batch: Any, *rest: Any) -> None:
        num_scored.append(len(batch))
        work(batch, *rest)

    def dies_after_the_second(turns: Any, model: Any, *rest: Any) -> None:
        *settings, keep, on_pass = rest

        def keep_two(turn: Any) -> None:
            keep(turn)
            asked.append(turn.number)
            if len(asked) == 2:
                raise KeyboardInterrupt

        write(turns, model, *settings, keep_two, on_pass)

    monkeypatch.setattr(holdout, "score_loss", counted)
    monkeypatch.setattr(holdout, "write_answers", dies_after_the_second)
    with pytest.raises(KeyboardInterrupt):
        score(request_of, loaded, tmp_path / "again")
    [kept] = (tmp_path / "again" / "answers").iterdir()
    kept.write_bytes(kept.read_bytes() + b'["00')  # cut off in the middle of a line
    (tmp_path / "again" / "values.jsonl").unlink(missing_ok=True)
    found, _ = score(request_of, loaded, tmp_path / "again")
    assert found == expected
    for name in ("samples_holdout.jsonl", "values.jsonl"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    assert (sum(num_scored), len(asked)) == (3, 4)  # as many as there are conversations and turns


def test_another_limit_metric_or_length_asks_only_what_is_new(
    loaded: tuple[Any, Any], request_of: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import copy

    from torch.nn import Module

    model, asked = copy.deepcopy(loaded[0]), []
    model.register_forward_hook(lambda _module, _inputs, _output: asked.append(1))
    assert isinstance(model, Module)

    def num_asked(places: Collection[int] = range(3), **changes: Any) -> int:
        asked.clear()
        score({**request_of, **changes}, (model, loaded[1]), tmp_path / "out", places)
        return len(asked)

    token_metrics = {"metrics": ["loss"], "writing": None}
    assert num_asked([0, 1], **token_metrics) == 2
    assert num_asked([0, 1], **token_metrics) == 0
    assert num_asked(**token_metrics) == 1
    assert num_asked() > 0  # the answers' texts
    assert num_asked(metrics=["bleu", "rouge_1"]) == 0
    assert num_asked(writing={"max_new_tokens": 5}) > 0


def test_sampled_answers_are_the_seeds_own_whatever_is_written_beside_them(
    loaded: tuple[Any, Any], request_of: dict[str, Any], tmp_path: Path
) -> None:
    import copy

    from transformers import GenerationConfig

    model = copy.deepcopy(loaded[0])
    model.generation_config = GenerationConfig(do_sample=True, temperature=1.5, top_k=0)

    def texts(name: str, places: Collection[int], **writing: Any) -> list[str]:
        how = {"max_new_tokens": 6, "is_greedy": False, **writing}
        score({**request_of, "writing": how, "batch_size": None}, (model, loaded[1]), tmp_path / name, places)
        lines = (tmp_path / name / "samples_holdout.jsonl").read_text().splitlines()
        return [json.loads(line)["answer"] for line in lines]

    drawn = texts("all", range(3), seed=1)
    assert drawn[1:] == texts("two", [1, 2], seed=1)
    assert drawn != texts("other", range(3), seed=2)
    assert drawn != texts("greedy", range(3), is_greedy=True)
    assert model.generation_config.temperature == 1.5


def test_the_answer_is_taken_out_of_both_texts_and_a_turn_without_one_does_not_count(
    loaded: tuple[Any, Any], request_of: dict[str, Any], tmp_path: Path
) -> None:
    request = {**request_of, "metrics": ["extracted_match"], "extract": "(five)$"}
    [found], _ = score(request, loaded, tmp_path / "out")
    assert (found["metric"], found["num_samples"]) == ("extracted_match", 1)
    with pytest.raises(StageError, match="no reference has a value of extracted_match"):
        score({**request, "extract": "(1000)"}, loaded, tmp_path / "nothing")


def test_running_out_of_memory_halves_the_batch_says_so_and_changes_no_score(
    loaded: tuple[Any, Any], request_of: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    expected, _ = score(request_of, loaded, tmp_path / "whole")
    work = holdout.score_loss

    def too_much(batch: Any, *rest: Any) -> None:
        if len(batch) > 1:
            raise torch.OutOfMemoryError("no memory")
        work(batch, *rest)

    monkeypatch.setattr(holdout, "score_loss", too_much)
    found, meter = score({**request_of, "batch_size": 3}, loaded, tmp_path / "again")
    assert [(s["metric"], round(s["value"], 5)) for s in found] == [
        (s["metric"], round(s["value"], 5)) for s in expected
    ]
    assert [note.partition(" at once")[0] for note in meter.notes[:1]] == [
        "out of memory at 3 samples of up to 41 tokens"
    ]

    def always(batch: Any, *rest: Any) -> None:
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(holdout, "score_loss", always)
    with pytest.raises(StageError, match="one conversation alone is too much for the memory"):
        score(request_of, loaded, tmp_path / "never")


def test_answers_that_had_ended_when_memory_ran_out_are_not_written_again(
    loaded: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    expected = written(loaded, loaded[0], 6, None)
    answer, asked = writing.answer_greedily, list[int]()

    def ends_after_one(model: Any, prompts: list[list[int]], *, on_answer: Any, **settings: Any) -> None:
        asked.append(len(prompts))

        def once(place: int, tokens: list[int]) -> None:
            on_answer(place, tokens)
            if len(prompts) > 2:
                raise torch.OutOfMemoryError("no memory")

        answer(model, prompts, on_answer=once, **settings)

    monkeypatch.setattr(writing, "answer_greedily", ends_after_one)
    turns, done = [turn for conversation in rendered(loaded) for turn in conversation.turns], list[int]()
    how = Writing(max_new_tokens=6)
    write_answers(turns, loaded[0], renderer(loaded), how, budget(None), lambda turn: done.append(id(turn)))
    assert sorted(done) == sorted(map(id, turns))
    assert [turn.written for turn in turns] == expected
    assert sum(asked) == 4 + 3  # four turns in all, of which one had ended


def test_progress_counts_each_conversation_when_its_answers_are_there(
    loaded: tuple[Any, Any], request_of: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[tuple[int, int]] = []
    monkeypatch.setattr(ProgressFile, "add", lambda _self, count, num_tokens=0: counts.append((count, num_tokens)))
    score({**request_of, "batch_size": None}, loaded, tmp_path / "out")
    assert [count for count, _ in counts if count] == [1, 1, 1]
    prompts_and_answers = sum(tokens for _, tokens in counts)
    assert prompts_and_answers > sum(conversation.num_tokens for conversation in rendered(loaded))
    assert counts[1][1] > 0  # told of before the first is done


def test_conversations_beyond_the_models_context_are_counted(loaded: tuple[Any, Any]) -> None:
    conversations = rendered(loaded)
    longest, shortest = (
        pick(len(sequence.token_ids) for one in conversations for sequence in one.sequences) for pick in (max, min)
    )
    for context, num in ((None, 0), (longest, 0), (longest - 1, 1), (shortest - 1, 3)):
        lengths = Lengths(context)
        for one in conversations:
            lengths.add(one)
        assert lengths.num_longer == num
        said = f"max_position_embeddings={context}, up to {longest} tokens, and are scored whole"
        assert [*lengths.notes("held")] == (
            [f"held: {num} of 3 conversations are longer than the model's context, {said}"] if num else []
        )
