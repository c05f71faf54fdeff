"""Owns the model card: ``README.md`` with front matter as the Hugging Face hub reads it.

The front matter names only what the hub can resolve: a base model and datasets by their hub ids.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import msgspec
import yaml

from sft import DISTRIBUTION
from sft.adapters import hub
from sft.artifacts import CheckpointArtifact, DatasetArtifact
from sft.config.schema import TrainingConfig
from sft.config.ways_out import ways_out
from sft.redaction import redact
from sft.scores import TELLS_OVER, Score, score_row
from sft.stages.epoch_scores import epoch_table

if TYPE_CHECKING:
    from sft.stages.package import PackageInputs

CARD = "README.md"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_HYPERPARAMETERS = (
    *("num_epochs", "effective_batch_size", "learning_rate", "lr_scheduler", "warmup_steps", "weight_decay"),
    *("max_seq_len", "seed", "save_dtype"),
)
_IF_CHANGED = (
    *("max_steps", "loss", "label_smoothing", "z_loss", "optimizer", "weight_decay_on", "freeze", "parameter_groups"),
    *("data_seed", "validation_sets", "select", "early_stopping"),
)
"""Of the training's settings, those that the card names where they are not at their default."""
_LIBRARIES = (DISTRIBUTION, "instructlab-training", "torch", "transformers", "lm-eval")


def card(title: str, description: str, license_name: str | None, inputs: PackageInputs) -> str:
    """Return the model card.

    Args:
        title: The model's name.
        description: What the recipe says of it; may be empty.
        license_name: Its licence, as the hub names it; None = not said.
        inputs: Where the model came from.
    """
    front = yaml.safe_dump(_front_matter(title, license_name, inputs), sort_keys=False, allow_unicode=True)
    sections = [f"# {title}", description, _origin(inputs), _use(inputs), *_scores(inputs), _making(inputs)]
    return f"---\n{front}---\n\n" + "\n\n".join(section for section in sections if section) + "\n"


def _front_matter(title: str, license_name: str | None, inputs: PackageInputs) -> dict[str, Any]:
    scores = inputs.report.scores if inputs.report else ()
    is_on_hub = bool(inputs.base.revision) and "://" not in inputs.base.source
    facts: dict[str, Any] = {
        "license": license_name,
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["sft", "instructlab-training"],
        "base_model": inputs.base.source if is_on_hub else None,
        "base_model_relation": "finetune" if is_on_hub else None,
        "datasets": _hub_datasets(inputs.dataset),
        "metrics": sorted({score.metric for score in scores}),
        "model-index": [{"name": title, "results": list(_results(scores))}] if scores else None,
    }
    return {key: value for key, value in facts.items() if value}


def _hub_datasets(data: DatasetArtifact) -> list[str]:
    """Return those of the dataset's sources that are hub ids: their version is a commit."""
    sources = zip(data.source.split(" and "), data.source_version.split("|"), strict=True)
    references = [hub.parse(source) for source, version in sources if _COMMIT.fullmatch(version)]
    return [reference.repo for reference in references if reference]


def _results(scores: tuple[Score, ...]) -> Iterator[dict[str, Any]]:
    for task in dict.fromkeys(score.task for score in scores):
        yield {
            "task": {"type": "text-generation"},
            "dataset": {"type": task, "name": task},
            "metrics": [{"type": s.metric, "name": s.name, "value": s.value} for s in scores if s.task == task],
        }


def _origin(inputs: PackageInputs) -> str:
    base, data = inputs.base, inputs.dataset
    revision = f" at `{base.revision}`" if base.revision else ""
    what = "random weights" if base.source == "scratch" else f"`{base.source}`{revision}"
    lines = [f"Fine-tuned from {what} on {data.num_train:,} conversations of `{redact(data.source)}`."]
    if inputs.tokenized and inputs.tokenized.sources:
        lines.append("By source, in each epoch:\n")
        lines += [f"- {line}" for line in inputs.tokenized.mix_lines]
        lines.append("")
    opened = ways_out(inputs.record["config"])
    lines += [f"{meaning[0].upper()}{meaning[1:]} (`{setting}`)." for setting, meaning in opened.items()]
    lines += [f"Chat template: {change}." for change in base.chat_template_changes]
    if base.unread_weights:
        lines.append(f"Of the base model {base.unread_weights}.")
    if base.adapter:
        what = "An adapter of it was trained on" if base.unmerged_dir else "An adapter was merged into it first"
        lines.append(f"{what} (sha256 {', '.join(base.adapter.values())}).")
    added = inputs.record["config"]["model"]["add_tokens"]
    if tokens := [f"`{token}`" for token in (*added["special"], *added["plain"])]:
        lines.append(f"New tokens, whose embeddings began as the mean of the others: {', '.join(tokens)}.")
    return "\n".join(lines)


def _use(inputs: PackageInputs) -> str:
    """Return how to load, chat, serve and continue; ``FOLDER`` is where somebody has it, or its name on a hub."""
    trust = ", trust_remote_code=True" if inputs.base.trust_remote_code else ""
    way = " model.trust_remote_code=true" if inputs.base.trust_remote_code else ""
    return f"""## How to use it

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("FOLDER"{trust})
model = AutoModelForCausalLM.from_pretrained("FOLDER", dtype="auto"{trust})
messages = [{{"role": "user", "content": "Hello!"}}]
prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
answer = model.generate(**prompt, max_new_tokens=200)[0, prompt["input_ids"].shape[1] :]
print(tokenizer.decode(answer, skip_special_tokens=True))
```

```sh
sft chat FOLDER{way}                                # talk to it
sft serve FOLDER{way}                               # OpenAI's API on this machine
sft run recipe.yaml model.name_or_path=FOLDER{way}  # train it further
```"""


def _scores(inputs: PackageInputs) -> Iterator[str]:
    if inputs.report is None:
        return
    rows = ["| score | before | after | difference | samples | tells over |", "|---|---|---|---|---|---|"]
    for score in inputs.report.scores:
        before = inputs.baseline.score(score.name) if inputs.baseline else None
        row = score_row(score, before, inputs.comparison.change(score.name) if inputs.comparison else None)
        cells = (row.name, row.before, row.after, row.difference, row.samples, row.detectable)
        rows.append(f"| {' | '.join(cell or '–' for cell in cells)} |")
    yield "## Scores"
    yield "\n".join(rows)
    if inputs.comparison:
        yield f"Differences: {inputs.comparison.explained}. {TELLS_OVER}"
    if sample := inputs.report.holdout_sample:
        yield f"Held-out samples that were scored: {sample}."
    if notes := inputs.report.notes_beside(inputs.baseline):
        yield "Of how these scores came about:\n\n" + "\n".join(f"- {note}" for note in notes)
    if table := epoch_table(inputs.epochs, inputs.report, inputs.checkpoint.choice):
        lines = [f"| {' | '.join(row)} |" for row in table]
        yield "\n".join([lines[0], "|" + "---|" * len(table[0]), *lines[1:]])
    if (choice := inputs.checkpoint.choice) and choice.optimism:
        yield f"The training {choice.told}."
    for judge in inputs.judges:
        yield f"A judge compared its answers with the base model's: {judge}."
    if inputs.gates:
        yield "It passed these gates:\n\n" + "\n".join(f"- {line}" for line in inputs.gates.passed)


def _speed(checkpoint: CheckpointArtifact) -> str:
    """Return how fast it was trained, over all steps, without padding and without saving."""
    rows = [json.loads(line) for line in checkpoint.metrics_file.read_text(encoding="utf-8").splitlines()]
    seconds = sum(row["seconds"] for row in rows)
    tokens, loss_tokens = (sum(row[name] for row in rows) / seconds for name in ("num_tokens", "num_loss_tokens"))
    speed = f"{tokens:,.0f} tokens/s, {loss_tokens:,.0f} of them for the loss"
    if all("mfu" in row for row in rows):
        speed += f", {sum(row['mfu'] * row['seconds'] for row in rows) / seconds:.1%} model FLOPs utilisation"
    return speed


def _making(inputs: PackageInputs) -> str:
    record, checkpoint = inputs.record, inputs.checkpoint
    training, untouched = record["config"]["training"], msgspec.to_builtins(TrainingConfig())
    changed = [key for key in _IF_CHANGED if key in training and training[key] != untouched[key]]
    settings = {key: training[key] for key in (*_HYPERPARAMETERS, *changed)}
    if settings["effective_batch_size"] is None:
        settings["effective_batch_size"] = checkpoint.effective_batch_size
    versions = [f"{name} {record['versions'][name]}" for name in _LIBRARIES if name in record["versions"]]
    digests = {"dataset": inputs.dataset.digest, "base model": inputs.base.digest, "checkpoint": checkpoint.digest}
    steps = f"{checkpoint.num_steps} optimizer steps on {checkpoint.ran_on}"
    facts = [
        f"{steps}, final loss {checkpoint.final_loss:.4f}",
        *([str(checkpoint.choice)] if checkpoint.choice else []),
        _speed(checkpoint),
        ", ".join(f"{key} {value}" for key, value in settings.items()),
        ", ".join(f"{key} {resource['value']}" for key, resource in record["resources"].items()),
        ", ".join(versions),
        *(f"sha256 of the {name}: `{digest}`" for name, digest in digests.items()),
    ]
    listed = "\n".join(f"- {fact}" for fact in facts)
    return f"""## How it was made

```sh
{shlex.join(record["command"])}
```

makes it again where the recipe is; `sft run --from FOLDER`, with this folder, does so from its record.
`sft verify FOLDER` checks every file against that record, `sft.json`, which holds all settings, versions and digests.

{listed}"""
