"""What counts as text of an evaluation."""

from __future__ import annotations

from typing import Any

import pytest

from sft.chat.decontamination import EvaluationTexts, Question, words_of

LONG = "A farmer has twelve brown cows and sells three of them to his neighbour every week"
HELD_OUT = "held-out"


def asked(prompt: str, answer: str = "fine", system: str | None = None) -> list[dict[str, Any]]:
    turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    return [{"role": "system", "content": system}, *turns] if system else turns


def of_task(*questions: tuple[str, str]) -> EvaluationTexts:
    texts = EvaluationTexts()
    texts.add_task("task", [Question(*question) for question in questions])
    return texts


def of_split(*samples: list[dict[str, Any]]) -> EvaluationTexts:
    texts = EvaluationTexts()
    texts.add_split(HELD_OUT, samples)
    return texts


def shared(texts: EvaluationTexts, *samples: list[dict[str, Any]]) -> list[list[str]]:
    return [[overlap.words for overlap in overlaps] for overlaps in texts.overlaps(samples)]


def test_words_are_lower_case_without_punctuation() -> None:
    assert words_of("Don't  stop:\n3_4 (A-B), ÉTÉ!") == ["dont", "stop", "34", "ab", "été"]
    assert words_of("东京 is 大") == ["东", "京", "is", "大"]


@pytest.mark.parametrize("turn", ["prompt", "answer"])
def test_thirteen_words_in_a_row_count_wherever_they_stand_and_however_they_are_spelled(turn: str) -> None:
    words = words_of(LONG)
    spelled = ", ".join(words[2:15]).upper()
    sample = asked(f"Look: {spelled}!") if turn == "prompt" else asked("Say", f"so it goes {spelled} on")
    assert shared(of_split(asked(LONG)), sample) == [[" ".join(words[2:15])]]


def test_twelve_words_in_a_row_don_t_count() -> None:
    words = words_of(LONG)
    assert shared(of_split(asked(LONG)), asked(" ".join([*words[:12], "ducks", *words[12:]]))) == [[]]


def test_no_run_of_words_goes_from_one_sample_into_the_next() -> None:
    words = words_of(LONG)
    halves = asked("x", " ".join(words[:8])), asked(" ".join(words[8:]), "y")
    assert shared(of_split(asked(LONG)), *halves) == [[], []]


def test_the_answer_of_a_task_counts_as_part_of_its_document() -> None:
    assert shared(of_task(("Is it?", LONG)), asked("Tell a story", LONG)) == [[" ".join(words_of(LONG)[:13])]]


def test_a_short_question_counts_as_a_whole_turn_and_not_as_a_part_of_one() -> None:
    texts = of_task(("What is 12 + 7?", "19"), ("Who?", "me"))
    assert shared(texts, asked("what is 12 7"), asked("Please: what is 12 + 7?")) == [["what is 12 7"], []]
    followed = [*asked("Hello", "Hi"), *asked("What is 12+ 7")]
    assert shared(texts, followed) == [["what is 12 7"]]


def test_the_words_around_every_question_of_a_task_may_be_missing() -> None:
    texts = of_task(("Question: Is ice cold?\nAnswer:", "yes"), ("Question: Is fire hot?\nAnswer:", "yes"))
    assert shared(texts, asked("Is ice cold?"), asked("Question: is fire hot? Answer:"), asked("Answer:")) == [
        ["is ice cold"],
        ["question is fire hot answer"],
        [],
    ]


def test_one_question_alone_has_no_frame() -> None:
    assert shared(of_task(("Is ice cold?", "yes")), asked("Is ice cold?")) == [["is ice cold"]]


def test_a_short_held_out_prompt_counts_as_a_whole_prompt_with_its_system_turn() -> None:
    texts = of_split(asked("Good day!", "Bonjour", system="Translate to French."))
    german = asked("Good day", "Guten Tag", system="Translate to German.")
    assert shared(texts, german, asked("good day", "Salut", system="translate to french")) == [
        [],
        ["translate to french good day"],
    ]


def test_the_wording_of_an_evaluation_is_no_leak() -> None:
    wording = "The following are multiple choice questions with answers about the history of the whole world"
    questions = [(f"{wording}. {number} {LONG if number == 3 else number}", "a") for number in range(30)]
    leaked = " ".join(words_of(LONG)[:13])
    texts = of_task(*questions)
    assert shared(texts, asked(f"{wording}. Is water wet?"), asked(f"{wording}: {LONG}")) == [[], [leaked]]


def test_of_few_documents_what_most_of_them_share_is_wording() -> None:
    texts = of_split(*(asked(f"{LONG} {number}") for number in range(4)))
    assert shared(texts, asked(LONG)) == [[]]


def test_a_system_turn_of_all_samples_is_no_leak() -> None:
    texts = of_split(asked("What now, my love, in these hard times of ours?", system=LONG))
    assert shared(texts, asked("Something else entirely", system=LONG)) == [[]]


def test_each_evaluation_is_counted_once_with_its_document() -> None:
    texts = of_task((LONG, "one"), (f"Another {LONG[::-1]}", "two"), ("third", "three"))
    texts.add_split(HELD_OUT, [asked("first"), asked(LONG)])
    [overlaps] = texts.overlaps([asked(LONG, LONG)])
    assert [(overlap.evaluation, overlap.document) for overlap in overlaps] == [("task", 1), (HELD_OUT, 2)]
    assert str(overlaps[0]).startswith('task, document 1: "a farmer has')


def test_nothing_to_compare_with_finds_nothing() -> None:
    texts = EvaluationTexts()
    texts.add_split(HELD_OUT, [])
    texts.add_task("task", [])
    assert shared(texts, asked(LONG)) == [[]]
