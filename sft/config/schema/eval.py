"""Settings of the `eval` group."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from omegaconf import MISSING

from sft.config.schema.bounds import LARGEST_INT32, each, groups, number, pairs, random_seed, setting, tree
from sft.config.schema.dataset import ColumnsConfig, DatasetFormat
from sft.config.schema.judge import JudgeConfig
from sft.config.schema.rules import Each, Text
from sft.config.schema.texts import FREE, LINE, PATH, matches, one_group
from sft.scores import CONFIDENCE, TEXT_METRICS, TOKEN_METRICS


class EvalBackend(Enum):
    """What answers lm-eval's requests; held-out samples are always scored by transformers."""

    hf = "hf"
    vllm = "vllm"
    local_chat_completions = "local-chat-completions"


class Verbosity(Enum):
    """Level of lm-eval's log."""

    DEBUG = "DEBUG"
    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"


HOLDOUT = "holdout"
"""What the evaluation split of the dataset is called among held-out sets and tasks."""
_SET_NAME = Text(
    matches("[a-z][a-z0-9_]{0,63}", "must be a name of at most 64 small letters, digits and _"),
    lambda name: f"{name} is taken" if name in {HOLDOUT, "judge", "train"} else None,
)
_BATCH_SIZE = Text(matches("auto|0*[1-9][0-9]{0,8}", "must be a number above 0, or auto"))


class HoldoutMetric(Enum):
    """What held-out sets are scored for (docs/evaluation.md)."""

    loss = "loss"
    perplexity = "perplexity"
    token_accuracy = "token_accuracy"
    exact_match = "exact_match"
    extracted_match = "extracted_match"
    rouge_1 = "rouge_1"
    rouge_2 = "rouge_2"
    rouge_l = "rouge_l"
    bleu = "bleu"
    chrf = "chrf"


class NotCompared(Enum):
    """What `exact_match` may leave aside."""

    case = "case"
    punctuation = "punctuation"
    white_space = "white_space"


class Sampling(Enum):
    """How held-out answers are written."""

    greedy = "greedy"
    as_saved = "as_saved"


@dataclass(kw_only=True)
class HoldoutConfig:
    """Scoring of held-out sets with the model's own chat template: the evaluation split, and those of `holdouts`."""

    enabled: bool = True
    """Whether the evaluation split is scored; the sets of `holdouts` are in any case."""
    metrics: list[HoldoutMetric] | None = None
    """What each set is scored for; null = loss, perplexity and token accuracy, with `generate` also exact match,
    ROUGE-L and chrF, with `extract` also `extracted_match`."""
    generate: bool = True
    """Whether answers may be written, which happens if a metric or the judge compares them; false = none is."""
    sampling: Sampling = Sampling.greedy
    """`greedy` = each token the most likely one, so that a score has no luck in it; `as_saved` = as the model's
    `generation_config.json` says, one answer at a time, seeded by `eval.seed` and its prompt."""
    exact_match_ignores: list[NotCompared] = field(default_factory=list)
    """What `exact_match` leaves aside besides white space around a text; `white_space` = that within it, too."""
    extract: str | None = setting(None, Text(one_group))
    """Regular expression with one group, the answer, whose last match counts: GSM8K's is `#### (-?[\\d,]+)`."""
    max_new_tokens: int = number(256, at_least=1, at_most=1_000_000)
    """Longest written answer, in tokens. How many were cut there is a note of the evaluation."""
    limit: int | None = number(None, at_least=1)
    """Score so many samples of each set, drawn with `eval.seed`; null = all. A smaller draw is part of a
    larger one."""

    def scored(self) -> tuple[str, ...]:
        """Return the metrics that each set is scored for, by name."""
        if self.metrics is not None:
            return tuple(metric.value for metric in self.metrics)
        written = ["exact_match", *(["extracted_match"] if self.extract else []), "rouge_l", "chrf"]
        return (*TOKEN_METRICS, *(written if self.generate else ()))


@dataclass(kw_only=True)
class HeldOutSetConfig:
    """Where the rows of a named held-out set are. Everything else of `dataset` that concerns rows is true of them too:
    `system_prompt`, `ignore_fields`, `on_invalid`, `on_unrendered`, `storage_options`."""

    uri: str = setting(MISSING, PATH)
    """As `dataset.uri`."""
    split: str | None = setting(None, LINE)
    """As `dataset.eval_split`."""
    format: DatasetFormat = DatasetFormat.auto
    """As `dataset.format`."""
    columns: ColumnsConfig = field(default_factory=ColumnsConfig)


@dataclass(kw_only=True)
class VllmConfig:
    """vLLM in an environment of its own, because its pins conflict with training's. It is started as a server on this
    machine for each model, asked by lm-eval, and ended before anything else needs its memory."""

    python: str | None = setting(None, PATH)
    """Interpreter of an environment with vLLM: `python -m venv vllm && vllm/bin/pip install vllm` makes one, and this
    is then `vllm/bin/python`."""
    max_model_len: int | None = number(None, at_least=1, at_most=LARGEST_INT32)
    """Longest prompt and answer, in tokens; null = what the model can. vLLM: `--max-model-len`."""
    gpu_memory_utilization: float | None = number(None, above=0, at_most=1)
    """Part of the GPU's memory that vLLM takes; null = vLLM's own. Lower it where likelihoods of long prompts run out
    of memory: their logits come on top. vLLM: `--gpu-memory-utilization`."""
    tensor_parallel_size: int = number(1, at_least=1, at_most=1_024)
    """GPUs that share one model. vLLM: `--tensor-parallel-size`. Above 1, transformers, which scores held-out samples,
    divides the model's layers over all GPUs."""
    enforce_eager: bool = False
    """Run without compiled graphs: it starts sooner and answers later. vLLM: `--enforce-eager`."""
    startup_seconds: int = number(600, at_least=1, at_most=86_400)
    """How long vLLM may take to load the model."""


@dataclass(kw_only=True)
class EvalConfig:
    """What is scored, for the tuned model and, as a baseline, for the base model."""

    enabled: bool = True
    """False = nothing is scored at all, whatever else is set here."""
    tasks: list[str] = each(LINE, "arc_easy")
    """lm-eval tasks or groups; an empty list = only the held-out split."""
    include_path: str | None = setting(None, PATH)
    """Folder with task YAMLs of your own; relative `data_files` in them are relative to the YAML."""
    allow_task_code: bool = False
    """Let tasks of `include_path` run code: Python beside them (`!function`), metrics from the hub or a folder,
    templates beyond Jinja's sandbox. The record says so."""
    num_fewshot: int | None = number(None, at_least=0, at_most=10_000)
    """null = as the task says. One that says 0 itself stays without, which is noted, or refused where all do."""
    system_instruction: str | None = setting(None, FREE)
    """System turn of every prompt, with `apply_chat_template`."""
    limit: int | None = number(None, at_least=1)
    """First so many samples of each task; null = all. lm-eval: `limit`."""
    batch_size: str = setting("auto", _BATCH_SIZE)
    """A number, or `auto` = as memory allows. Halved where memory runs out."""
    num_processes: int | None = number(None, at_least=1, at_most=64)
    """Processes that share the requests and samples, each with the whole model; null = one per GPU, one on a CPU."""
    backend: EvalBackend = EvalBackend.hf
    """`vllm` needs `vllm.python`. `local_chat_completions`, with `sft eval` only, asks a server that already runs:
    `eval.model_args.base_url`; each run asks it anew."""
    gen_kwargs: dict[str, Any] = tree()
    """Passed to generation tasks as they are; refused where no task is one."""
    model_args: dict[str, Any] = tree()
    """Passed to lm-eval's model as they are (`dtype`, `max_length` …)."""
    apply_chat_template: bool = False
    """Put each task's prompts through the model's chat template."""
    fewshot_as_multiturn: bool = True
    """Each example of a prompt is a turn of the user and one of the assistant, with `apply_chat_template`; false = all
    examples stand in the user's turn. lm-eval: `fewshot_as_multiturn`."""
    log_samples: bool = True
    """Keep every sample with prompt, target and answer."""
    verbosity: Verbosity = Verbosity.INFO
    """How much lm-eval writes to the stage's log."""
    seed: int = random_seed(1234)
    """Of `holdout.limit`; lm-eval: random, numpy, torch and few-shot seed."""
    baseline: bool = True
    """Also score the base model, once per model, data and settings."""
    confidence: float = number(CONFIDENCE, above=0.5, below=1.0)
    """Of the intervals of differences between the two models: a score is better or worse only if its own excludes 0."""
    gates: dict[str, str] = pairs(LINE, LINE)
    """What the tuned model must reach to be packaged and registered: score -> `>= 0.6`, `< baseline`,
    `>= baseline - 0.01`, or `improvement >= 0.01`, which the interval's lower end must reach; several are joined by
    `and`. One that is missed ends the run with exit code 3."""
    no_regression: list[str] = each(LINE)
    """Tasks or scores that must not be clearly worse than the base model's: another gate."""
    every_epochs: int | None = number(None, at_least=1)
    """Also score the model of every so many epochs, from what the training kept (`training.checkpoint_at_epoch`);
    null = only the last one, which is the tuned model. The training does not wait for it: it comes afterwards."""
    epoch_tasks: list[str] = each(LINE)
    """Those of `tasks` on which the models of `every_epochs` are scored; an empty list = none."""
    epoch_holdouts: list[str] | None = setting(None, Each(LINE))
    """Held-out sets on which they are scored, `holdout` being the evaluation split; null = all."""
    holdout: HoldoutConfig = field(default_factory=HoldoutConfig)
    holdouts: dict[str, HeldOutSetConfig] = groups(_SET_NAME)
    """Further held-out sets by name, each with scores `name.loss` and so on, and gates; scored as `holdout` says."""
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    vllm: VllmConfig = field(default_factory=VllmConfig)

    @property
    def held_out_names(self) -> list[str]:
        """Every held-out set that is scored, by its name."""
        return [*([HOLDOUT] if self.holdout.enabled else []), *self.holdouts]

    @property
    def judged_names(self) -> list[str]:
        """Every held-out set that a judge is asked about, by its name."""
        if self.judge.address is None:
            return []
        chosen = self.judge.holdouts
        return [name for name in self.held_out_names if chosen is None or name in chosen]

    def of_epochs(self) -> EvalConfig:
        """Return the settings with which the models of `every_epochs` are scored."""
        names = self.held_out_names if self.epoch_holdouts is None else self.epoch_holdouts
        return replace(
            self,
            tasks=self.epoch_tasks,
            holdout=replace(self.holdout, enabled=HOLDOUT in names),
            holdouts={name: source for name, source in self.holdouts.items() if name in names},
        )

    def writes_answers(self) -> bool:
        """Return whether answers to held-out samples are written: something compares them."""
        is_compared = self.judge.address is not None or not {*TEXT_METRICS}.isdisjoint(self.holdout.scored())
        return self.holdout.generate and is_compared
