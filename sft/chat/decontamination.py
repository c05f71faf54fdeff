"""Which training samples hold text of an evaluation: 13 words in a row, or a whole short prompt.

The method is that of GPT-3 (Brown et al., "Language Models are Few-Shot Learners", arXiv:2005.14165, appendix C) with
13 words throughout, as EleutherAI's evaluation harness has it (docs/decontamination.md): texts are lower-cased, freed
of punctuation and divided at white space; sharing any 13 words in a row is contamination. Where we differ:

- A question of fewer than 13 words counts where a user's turn is that question as a whole; words with which all
  questions of a task begin or end ("Question:", "Answer:") may be missing there. A held-out prompt of fewer than 13
  words counts where the whole prompt is the same.
- Words that more than 10 documents of one evaluation share, or more than half of its documents where these are fewer,
  are its wording, not a leak. GPT-3 counts the training documents that hold an n-gram; here a leaked question that
  trains with eleven sampled answers would then pass as wording.
- A system turn is no part of a document's text, and each character of a script without spaces is a word.

Knows nothing of files. Memory: 16 bytes per n-gram of the evaluations; of the training samples, one batch.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import xxhash

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NUM_WORDS = 13
_MOST_DOCUMENTS = 10
_PUNCTUATION = re.compile(r"[^\w\s]|_")
_WITHOUT_SPACES = re.compile(r"([\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff])")
_FACTOR = 0x9E3779B97F4A7C15  # odd, so that no power of it vanishes
_MOST_KNOWN_WORDS = 1 << 20
_SYSTEM = ("system", "developer")
_KEYS = ("reasoning_content", "content")
"""What of a turn is text."""


Messages = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Question:
    """One document of an lm-eval task."""

    prompt: str
    answer: str


@dataclass(frozen=True)
class Overlap:
    """What a training sample shares with an evaluation.

    Attributes:
        evaluation: Its name: a task, or the held-out split.
        document: The document's number in it, from 1.
        words: What both hold.
    """

    evaluation: str
    document: int
    words: str

    def __str__(self) -> str:
        return f'{self.evaluation}, document {self.document}: "{self.words}"'


def words_of(text: str) -> list[str]:
    """Return a text's words: lower case, without punctuation."""
    if not text.isascii():
        text = _WITHOUT_SPACES.sub(r" \1 ", unicodedata.normalize("NFKC", text))
    return _PUNCTUATION.sub("", text.lower()).split()


class EvaluationTexts:
    """The texts of evaluations, and the search for them in training samples."""

    def __init__(self) -> None:
        self._hashes = _WordHashes()
        self._ngrams: list[tuple[str, NDArray[np.uint64], NDArray[np.uint32]]] = []
        self._turns: dict[str, Overlap] = {}
        self._prompts: dict[str, Overlap] = {}

    def add_task(self, name: str, questions: Sequence[Question]) -> None:
        """Take in the documents of a task."""
        prompts = [words_of(question.prompt) for question in questions]
        before, after = _frame(prompts)
        for number, words in enumerate(prompts, start=1):
            for first, last in itertools.product(range(before + 1), range(after + 1)):
                if len(words) - first - last < NUM_WORDS:
                    _note(self._turns, name, number, words[first : len(words) - last])
        answers = (words_of(question.answer) for question in questions)
        self._add_ngrams(name, ([*prompt, *answer] for prompt, answer in zip(prompts, answers, strict=True)))

    def add_split(self, name: str, samples: Iterable[Messages]) -> None:
        """Take in the samples of a held-out split."""

        def texts() -> Iterator[list[str]]:
            for number, messages in enumerate(samples, start=1):
                _note(self._prompts, name, number, _prompt(messages))
                yield _text(messages)

        self._add_ngrams(name, texts())

    def _add_ngrams(self, name: str, texts: Iterable[list[str]]) -> None:
        import numpy as np

        pieces, num_documents = [], 0
        for words in texts:
            num_documents += 1
            ngrams = np.unique(_ngrams(self._hashes.of(words)))
            pieces.append((ngrams, np.full(len(ngrams), num_documents, dtype=np.uint32)))
        if not pieces:
            return
        ngrams, documents = (np.concatenate(part) for part in zip(*pieces, strict=True))
        order = np.lexsort((documents, ngrams))
        kept, first, counts = np.unique(ngrams[order], return_index=True, return_counts=True)
        is_leak = counts <= min(_MOST_DOCUMENTS, max(1, num_documents // 2))
        self._ngrams.append((name, kept[is_leak], documents[order][first[is_leak]]))

    def overlaps(self, samples: Sequence[Messages]) -> list[list[Overlap]]:
        """Return what each training sample shares with the evaluations, one overlap per evaluation."""
        overlaps = [list(self._whole_prompts(messages)) for messages in samples]
        for number, overlap in self._shared_ngrams([_text(messages) for messages in samples]):
            if overlap.evaluation not in {other.evaluation for other in overlaps[number]}:
                overlaps[number].append(overlap)
        return overlaps

    def _whole_prompts(self, messages: Messages) -> Iterator[Overlap]:
        matches = {}
        if found := self._prompts.get(" ".join(_prompt(messages))):
            matches[found.evaluation] = found
        if self._turns:
            for message in messages:
                words = words_of(message["content"]) if message["role"] == "user" else []
                if found := self._turns.get(" ".join(words)):
                    matches.setdefault(found.evaluation, found)
        yield from matches.values()

    def _shared_ngrams(self, texts: Sequence[list[str]]) -> Iterator[tuple[int, Overlap]]:
        """Yield each text's first n-gram that an evaluation holds, with the text's number."""
        import numpy as np

        owners = np.repeat(np.arange(len(texts)), [len(words) for words in texts])
        words = [word for text in texts for word in text]
        ngrams = _ngrams(self._hashes.of(words))
        is_whole = owners[: len(ngrams)] == owners[len(words) - len(ngrams) :]
        places = np.flatnonzero(is_whole)
        for name, known, documents in self._ngrams:
            at = np.searchsorted(known, ngrams[places])
            at[at == len(known)] = 0
            hits = places[known[at] == ngrams[places]] if len(known) else places[:0]
            for place in hits[np.unique(owners[hits], return_index=True)[1]]:
                document = int(documents[np.searchsorted(known, ngrams[place])])
                yield int(owners[place]), Overlap(name, document, " ".join(words[place : place + NUM_WORDS]))


class _WordHashes(dict[str, int]):
    """Hashes of words, kept as most words come again and again."""

    def __missing__(self, word: str) -> int:
        self[word] = value = xxhash.xxh3_64_intdigest(word.encode())
        return value

    def of(self, words: Sequence[str]) -> NDArray[np.uint64]:
        import numpy as np

        if len(self) > _MOST_KNOWN_WORDS:
            self.clear()
        return np.fromiter(map(self.__getitem__, words), dtype=np.uint64, count=len(words))


def _ngrams(hashes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the hash of each run of words, modulo 2^64; none where there are too few words."""
    import numpy as np

    num_ngrams = max(0, len(hashes) - NUM_WORDS + 1)
    total = np.zeros(num_ngrams, dtype=np.uint64)
    for place in range(NUM_WORDS):
        factor = np.uint64(pow(_FACTOR, place, 1 << 64))
        total += hashes[place : place + num_ngrams] * factor
    return total


def _text(messages: Messages) -> list[str]:
    spoken = (message for message in messages if message["role"] not in _SYSTEM)
    return [word for message in spoken for key in _KEYS if (text := message.get(key)) for word in words_of(text)]


def _prompt(messages: Messages) -> list[str]:
    """Return the words of all turns before the first answer, the system's too."""
    words: list[str] = []
    for message in messages:
        if message["role"] == "assistant":
            break
        words += words_of(message["content"])
    return words


def _note(known: dict[str, Overlap], name: str, number: int, words: Sequence[str]) -> None:
    """Keep a short text, the first of its kind."""
    if 0 < len(words) < NUM_WORDS:
        text = " ".join(words)
        known.setdefault(text, Overlap(name, number, text))


def _frame(prompts: Sequence[Sequence[str]]) -> tuple[int, int]:
    """Return with how many words all prompts begin, and end; 0 where there is but one prompt."""
    if len(prompts) < 2:
        return 0, 0
    shortest = min(map(len, prompts))
    before = next((n for n in range(shortest) if len({words[n] for words in prompts}) > 1), shortest)
    most = shortest - before
    after = next((n for n in range(most) if len({words[-1 - n] for words in prompts}) > 1), most)
    return before, after
