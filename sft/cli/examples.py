"""What ``sft --help`` shows beside the commands."""

from __future__ import annotations

EXAMPLES = {
    "sft init chats.jsonl": "a recipe for your data and this machine",
    "sft import axolotl.yaml": "a recipe of what another project trains",
    "sft recipes": "what there is to start from",
    "sft recipes copy quickstart mine": "one of them, with its tasks and data, to edit",
    "sft plan quickstart": "what would be done, and why",
    "sft preview quickstart -n 2": "two samples as the model sees them, the loss marked",
    "sft run quickstart": "do it; the same command again continues or does nothing",
    "sft run my.yaml training.learning_rate=1e-5": "a recipe of your own, one value changed",
    "sft run quickstart -m training.seed=1,2,3": "one run per value; shared work is done once",
    "sft compare runs/sweeps/quickstart-1a2b3c4d": "that sweep's table again; any runs side by side",
    "sft run quickstart --until train": "only what makes the weights; later the rest",
    "sft eval org/model eval.tasks=[gsm8k]": "score a model alone",
    "sft chat runs/quickstart-1a2b3c4d --base": "talk to its model, and to the one it began with",
    "sft serve runs/quickstart-1a2b3c4d --port 8000": "its model behind OpenAI's API",
    "sft report runs/quickstart-1a2b3c4d --open": "its page: scores, curves, data, where it comes from",
    "sft watch runs/quickstart-1a2b3c4d": "the same, live, while the run is at work",
    "sft merge BASE runs/a/adapter=0.7 runs/b/adapter=0.3 --output both": "adapters as one model",
    "sft verify runs/quickstart-1a2b3c4d": "is everything still what the record says?",
    "sft debug runs/quickstart-1a2b3c4d": "an archive for an issue, free of data and secrets",
    "sft register runs/my-1a2b3c4d registry=mlflow": "its model, registered now",
    "sft models": "what is registered, with scores",
    "sft data check rows.jsonl model.name_or_path=DIR": "every row checked, tokens and padding counted",
    "sft export job my.yaml --image IMAGE": "a Job for Kubernetes, named by the run",
    "sft export runs/my-1a2b3c4d --to gguf --output my-gguf": "its model for llama.cpp, scored again",
    "sft export kfp my.yaml > pipeline.yaml": "a pipeline for Kubeflow Pipelines",
    "sft run my.yaml training/launcher=kubeflow --detach": "train on a cluster; `sft attach RUN` comes back",
    "sft run quickstart --cfg job": "the composed configuration (any flag of Hydra works)",
}
"""What it does, by what one types."""
_COLUMN = 51


def shown(width: int) -> str:
    """Return the examples as lines; each as two, where a terminal of `width` columns would break one of them."""
    lines = [f"  {typed:<{_COLUMN - 1}} {what}" for typed, what in EXAMPLES.items()]
    if max(map(len, lines)) > width:
        lines = [line for typed, what in EXAMPLES.items() for line in (f"  {typed}", f"      {what}")]
    return "\n".join(["examples:", *lines])
