"""Scores conversations with a loaded model and its own chat template. Runs in the evaluation's child process.

Loss counts every assistant turn given all that stands before it, terminator included, as training does; the last
turn is also written greedily and compared. Does not own files or processes (`sft.adapters.harness`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from sft.errors import DataError, StageError

Messages = Sequence[dict[str, Any]]
_BATCH_TOKENS = 8192
_LOGITS_BYTES = 1 << 30
"""Bound of one batch's float32 logits, tokens x vocabulary x 4 bytes."""


@dataclass
class Answer:
    """What is known of one conversation.

    Attributes:
        token_ids: The rendered conversation.
        spans: Begin and end (exclusive) of each assistant turn in it, terminator included.
        prompt_ids: Everything before the last assistant turn, with the generation prompt.
        target: The last assistant turn as tokens spell it, so that it compares with what the model writes.
        loss: Sum over the answer tokens, natural logarithm.
        num_correct: Answer tokens that are the most likely next one.
        written: What the model wrote; None where nothing was generated.
    """

    index: int
    token_ids: list[int]
    spans: list[tuple[int, int]]
    prompt_ids: list[int]
    prompt: str
    target: str
    loss: float = math.nan
    num_correct: int = 0
    written: str | None = None
    num_tokens: int = field(init=False)

    def __post_init__(self) -> None:
        self.num_tokens = sum(end - begin for begin, end in self.spans)

    @property
    def exact(self) -> bool:
        """Whether the written text is the target, white space around it aside."""
        return self.written is not None and self.written.strip() == self.target.strip()


def render(index: int, messages: Messages, tokenizer: Any, tools: list[Any] | None = None) -> Answer:
    """One conversation as tokens, with the places of its assistant turns.

    Raises:
        DataError: The template can't render it, or renders a beginning of it differently.
    """
    try:
        whole = _ids(tokenizer, messages, tools)
        spans, prompt = [], []
        for turn, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            prompt = _ids(tokenizer, messages[:turn], tools, add_generation_prompt=True)
            begin = len(prompt)
            if whole[:begin] != prompt:
                raise DataError(
                    f"held-out sample {index}: the chat template renders turn {turn + 1} differently with what "
                    "follows it, so its tokens can't be scored",
                    fix="use a chat template whose beginning does not depend on later turns",
                )
            if tokenizer.eos_token_id not in whole[begin:]:
                raise DataError(
                    f"held-out sample {index}: the chat template does not end turn {turn + 1} with the tokenizer's "
                    f"eos_token {tokenizer.eos_token!r}",
                    fix="the tokenizer's eos_token must be the token that ends a turn in its chat template",
                )
            # Looked for, not measured by rendering up to here: a template may render a last turn differently (Qwen3).
            spans.append((begin, whole.index(tokenizer.eos_token_id, begin) + 1))
        text = tokenizer.apply_chat_template(messages[:-1], tools=tools, tokenize=False, add_generation_prompt=True)
    except DataError:
        raise
    except Exception as error:  # a template is a program of its own and may raise whatever it likes
        raise DataError(f"held-out sample {index}: the chat template refuses it: {error}") from error
    begin, end = spans[-1]
    target = tokenizer.decode(whole[begin:end], skip_special_tokens=True)
    return Answer(index, whole, spans, prompt, text, target)


def _ids(
    tokenizer: Any, messages: Messages, tools: list[Any] | None, *, add_generation_prompt: bool = False
) -> list[int]:
    ids: list[int] = tokenizer.apply_chat_template(
        messages, tools=tools, add_generation_prompt=add_generation_prompt, return_dict=False
    )
    return ids


def score_loss(answers: Sequence[Answer], model: Any, pad_id: int, batch_size: int | None) -> Iterator[int]:
    """Fills in `loss` and `num_correct`, longest conversations first; yields how many are done after each batch.

    Args:
        answers: Conversations.
        model: A causal language model in evaluation mode.
        pad_id: Token that fills short rows; it is masked and never scored.
        batch_size: Conversations at once; None = as many as a token budget allows.

    Raises:
        StageError: A loss is not a number.
    """
    import torch

    budget = max(1, min(_BATCH_TOKENS, _LOGITS_BYTES // (4 * model.config.get_text_config().vocab_size)))
    done = 0
    for batch in _batches(answers, lambda answer: len(answer.token_ids), batch_size, budget):
        longest = max(len(answer.token_ids) for answer in batch)
        ids = torch.full((len(batch), longest), pad_id, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, answer in enumerate(batch):
            ids[row, : len(answer.token_ids)] = torch.tensor(answer.token_ids)
            mask[row, : len(answer.token_ids)] = 1
        with torch.inference_mode():
            logits = model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device)).logits
        for row, answer in enumerate(batch):
            _score_row(answer, logits[row])
        done += len(batch)
        yield done


def _score_row(answer: Answer, logits: Any) -> None:
    import torch

    places = torch.tensor([place for begin, end in answer.spans for place in range(begin, end)], device=logits.device)
    targets = torch.tensor(answer.token_ids, device=logits.device)[places]
    predictions = logits[places - 1].float()
    answer.loss = float(torch.nn.functional.cross_entropy(predictions, targets, reduction="sum"))
    answer.num_correct = int((predictions.argmax(dim=-1) == targets).sum())
    if not math.isfinite(answer.loss):
        raise StageError(
            f"held-out sample {answer.index}: the loss is {answer.loss}; the prompt: {answer.prompt[:400]}"
        )


def write_answers(
    answers: Sequence[Answer], model: Any, tokenizer: Any, max_new_tokens: int, batch_size: int | None
) -> Iterator[int]:
    """Fills in `written`, greedily, up to the template's terminator; yields how many are done after each batch.

    Args:
        answers: Conversations.
        model: A causal language model in evaluation mode. Its generation settings are replaced, not added to: they
            may penalise repetition (Qwen2.5-1.5B-Instruct: 1.1), and that is not greedy.
        tokenizer: Its tokenizer.
        max_new_tokens: Longest answer.
        batch_size: Answers at once; None = as many as a token budget allows.
    """
    import torch
    from transformers import GenerationConfig

    model.generation_config = GenerationConfig(
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    done = 0
    budget = _BATCH_TOKENS
    for batch in _batches(answers, lambda answer: len(answer.prompt_ids) + max_new_tokens, batch_size, budget):
        longest = max(len(answer.prompt_ids) for answer in batch)
        ids = torch.full((len(batch), longest), tokenizer.pad_token_id, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, answer in enumerate(batch):  # left, so that every prompt ends where writing begins
            ids[row, longest - len(answer.prompt_ids) :] = torch.tensor(answer.prompt_ids)
            mask[row, longest - len(answer.prompt_ids) :] = 1
        with torch.inference_mode():
            written = model.generate(input_ids=ids.to(model.device), attention_mask=mask.to(model.device))
        texts = tokenizer.batch_decode(written[:, longest:], skip_special_tokens=True)
        for answer, text in zip(batch, texts, strict=True):
            answer.written = text
        done += len(batch)
        yield done


def _batches(
    answers: Sequence[Answer], length: Callable[[Answer], int], batch_size: int | None, budget: int
) -> Iterator[list[Answer]]:
    """Longest first, so that running out of memory shows at once; padded tokens of a batch stay under the budget."""
    batch: list[Answer] = []
    for answer in sorted(answers, key=length, reverse=True):
        full = len(batch) == batch_size if batch_size else batch and (len(batch) + 1) * length(batch[0]) > budget
        if full:
            yield batch
            batch = []
        batch.append(answer)
    if batch:
        yield batch


def mean_loss(answers: Sequence[Answer]) -> tuple[float, float | None]:
    """Loss per answer token and its standard error.

    The mean is a ratio of sums over conversations; its error is that of a ratio estimator, which respects that the
    tokens of one conversation belong together (Cochran, Sampling Techniques, 1977, eq. 6.13).
    """
    return _ratio([(answer.loss, answer.num_tokens) for answer in answers])


def token_accuracy(answers: Sequence[Answer]) -> tuple[float, float | None]:
    """Share of answer tokens that are the model's first choice, and its standard error as for `mean_loss`."""
    return _ratio([(float(answer.num_correct), answer.num_tokens) for answer in answers])


def exact_match(answers: Sequence[Answer]) -> tuple[float, float | None]:
    """Share of last turns written exactly, and its standard error."""
    return _ratio([(float(answer.exact), 1) for answer in answers])


def _ratio(pairs: Sequence[tuple[float, int]]) -> tuple[float, float | None]:
    total, count, size = sum(value for value, _ in pairs), sum(n for _, n in pairs), len(pairs)
    mean = total / count
    if size < 2:
        return mean, None
    squares = sum((value - mean * n) ** 2 for value, n in pairs)
    return mean, math.sqrt(squares * size / (size - 1)) / count
