"""What evaluations are given: the small model with its held-out split, and a task that writes."""

from __future__ import annotations

from sft.artifacts import DatasetArtifact, ModelArtifact
from sft.stages.evaluate import EvaluateInputs, HeldOutSet


def inputs_of(model: ModelArtifact, data: DatasetArtifact) -> EvaluateInputs:
    """Return a model, and the evaluation split on which it is scored."""
    return EvaluateInputs(
        model_dir=model.model_dir,
        model_digest="m" * 64,
        trust_remote_code=False,
        held_out=(HeldOutSet(name="holdout", dataset=data),),
    )


def writing_task(max_tokens: int) -> str:
    """Return a task, ``write``, that has the questions of ``spell_numbers.jsonl`` beside it answered in words."""
    return f"""\
task: write
dataset_path: json
dataset_kwargs: {{data_files: {{test: spell_numbers.jsonl}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{choices[answer]}}}}"
generation_kwargs: {{until: ["<|im_end|>"], max_gen_toks: {max_tokens}}}
metric_list: [{{metric: exact_match}}]
"""
