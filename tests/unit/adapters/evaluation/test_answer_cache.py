"""A model is not asked twice, not even by another try, and answers that may differ are not kept."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from sft.adapters.evaluation.answer_cache import AnswerCache, key_of
from sft.adapters.evaluation.progress_file import ProgressFile
from sft.adapters.evaluation.shares import Share
from sft.errors import StageError


@dataclass
class Request:
    """What lm-eval asks a model."""

    args: tuple[Any, ...]


@dataclass
class Model:
    """Answers a text with its length, as an lm-eval model does, and tells its hook."""

    asked: list[Any] = field(default_factory=list)

    def set_cache_hook(self, hook: Any) -> None:
        self.hook = hook

    def loglikelihood(self, requests: list[Request]) -> list[tuple[float, bool]]:
        return [self._answer("loglikelihood", request, (float(len(request.args[0])), True)) for request in requests]

    def loglikelihood_rolling(self, requests: list[Request]) -> list[float]:
        return [self._answer("loglikelihood_rolling", request, 1.0) for request in requests]

    def generate_until(self, requests: list[Request]) -> list[str]:
        return [self._answer("generate_until", request, request.args[0].upper()) for request in requests]

    def _answer(self, kind: str, request: Request, answer: Any) -> Any:
        self.asked.append(request.args)
        self.hook.add_partial(kind, request.args, answer)
        return answer


@pytest.fixture
def meter(tmp_path: Path) -> ProgressFile:
    return ProgressFile(tmp_path / "progress.json")


@pytest.fixture
def cached(tmp_path: Path, meter: ProgressFile) -> Iterator[AnswerCache]:
    cache = AnswerCache(tmp_path / "answers")
    yield cache
    cache.close()


def test_a_later_try_asks_only_what_is_new_and_gets_answers_of_the_same_type(
    cached: AnswerCache, meter: ProgressFile, tmp_path: Path
) -> None:
    first, again = Model(), Model()
    cached.watch(first, meter)
    assert first.loglikelihood([Request(("a", "b"))]) == [(1.0, True)]
    later = AnswerCache(tmp_path / "answers")
    later.watch(again, meter)
    assert again.loglikelihood([Request(("a", "b")), Request(("long", "b"))]) == [(1.0, True), (4.0, True)]
    assert again.asked == [("long", "b")]
    later.close()


def test_another_kind_of_request_is_another_question(cached: AnswerCache, meter: ProgressFile) -> None:
    model = Model()
    cached.watch(model, meter)
    assert model.loglikelihood([Request(("a",))]) == [(1.0, True)]
    assert model.generate_until([Request(("a",))]) == ["A"]
    assert len(model.asked) == 2


def test_a_sampled_answer_is_asked_for_again(cached: AnswerCache, meter: ProgressFile, tmp_path: Path) -> None:
    model = Model()
    cached.watch(model, meter)
    for _ in range(2):
        model.generate_until([Request(("a", {"do_sample": True})), Request(("b", {"do_sample": False}))])
    assert [args[0] for args in model.asked] == ["a", "b", "a"]
    [file] = (tmp_path / "answers").iterdir()
    assert len(file.read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("settings", "is_server", "is_kept"),
    [
        ({"temperature": 1.5}, False, False),
        ({"temperature": "0.7", "do_sample": None}, False, False),
        ({"temperature": 1.5, "do_sample": False}, False, True),  # lm-eval writes it greedily
        ({"temperature": 0.0, "do_sample": True}, False, False),
        ({"temperature": 0}, False, True),
        ({"until": ["."]}, False, True),
        ({"temperature": 1.5, "do_sample": False}, True, False),
        ({"temperature": 0.0, "do_sample": True}, True, True),
    ],
)
def test_whether_an_answer_is_sampled_is_as_lm_eval_has_it(
    settings: dict[str, Any], is_server: bool, is_kept: bool, cached: AnswerCache, meter: ProgressFile
) -> None:
    model = Model()
    cached.watch(model, meter, is_server=is_server)
    for _ in range(2):
        model.generate_until([Request(("a", settings))])
    assert len(model.asked) == (1 if is_kept else 2)


def test_a_temperature_without_do_sample_makes_lm_eval_sample() -> None:
    from lm_eval.models.utils import normalize_gen_kwargs

    assert [normalize_gen_kwargs(given)["do_sample"] for given in ({"temperature": 1.5}, {"temperature": 0})] == [
        True,
        False,
    ]


def test_a_line_that_was_cut_off_is_dropped(cached: AnswerCache, meter: ProgressFile, tmp_path: Path) -> None:
    model, again = Model(), Model()
    cached.watch(model, meter)
    model.generate_until([Request(("a",)), Request(("b",))])
    [file] = (tmp_path / "answers").iterdir()
    file.write_bytes(file.read_bytes()[:-3])
    later = AnswerCache(tmp_path / "answers")
    later.watch(again, meter)
    assert again.generate_until([Request(("a",)), Request(("b",))]) == ["A", "B"]
    assert again.asked == [("b",)]
    later.close()


def test_two_at_once_write_files_of_their_own_and_a_third_has_the_answers_of_both(tmp_path: Path) -> None:
    first, second = AnswerCache(tmp_path), AnswerCache(tmp_path)
    for number in range(50):
        first.add(key_of("a", number), {"text": "ä" * number})
        second.add(key_of("b", number), [number, True])
    assert first.get(key_of("a", 7)) == {"text": "ä" * 7}
    assert key_of("b", 7) not in first
    for cache in (first, second):
        cache.close()
    with closing(AnswerCache(tmp_path)) as both:
        assert [both.get(key_of("b", number)) for number in range(50)] == [[number, True] for number in range(50)]
        assert both.get(key_of("a", 49)) == {"text": "ä" * 49}
    assert len(list(tmp_path.iterdir())) == 2


def test_who_asks_nothing_new_writes_no_file(tmp_path: Path) -> None:
    AnswerCache(tmp_path).close()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("line", ["{}", "[]", '["no digest", 1]', "nonsense", "[3, 4]"])
def test_a_damaged_file_is_named(line: str, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(line + "\n")
    with pytest.raises(StageError, match=r"x\.jsonl: a line is no answer"):
        AnswerCache(tmp_path)


def test_processes_that_share_ask_each_request_once_and_all_have_every_answer(tmp_path: Path) -> None:
    requests = [Request((f"{'x' * (n % 7)}{n}", "b")) for n in range(70)]
    models = [Model(), Model()]
    results: dict[int, list[tuple[float, bool]]] = {}

    def answer(index: int) -> None:
        with closing(AnswerCache(tmp_path / "answers", Share(index, 2), lambda: True)) as cache:
            cache.watch(models[index], ProgressFile(tmp_path / f"progress-{index}.json"))
            results[index] = models[index].loglikelihood(requests)

    threads = [threading.Thread(target=answer, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results[0] == results[1] == [(float(len(request.args[0])), True) for request in requests]
    asked = [request for model in models for request in model.asked]
    assert sorted(asked) == sorted(request.args for request in requests)
    assert all(len(model.asked) >= 16 for model in models)


def test_answers_that_may_differ_are_each_processes_own(meter: ProgressFile, tmp_path: Path) -> None:
    with closing(AnswerCache(tmp_path / "answers", Share(1, 2), lambda: False)) as cache:
        model = Model()
        cache.watch(model, meter)
        requests = [Request((f"a{n}", {"do_sample": True})) for n in range(3)]
        assert model.generate_until(requests) == ["A0", "A1", "A2"]


def test_answers_that_no_process_will_give_are_missed(tmp_path: Path) -> None:
    with (
        closing(AnswerCache(tmp_path / "answers", Share(0, 2), lambda: False)) as cache,
        pytest.raises(StageError, match="ended without 4 answers"),
    ):
        cache.wait_for(key_of("kind", n) for n in range(4))
