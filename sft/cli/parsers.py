"""Arguments of each command. Standard library only."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from sft.cli.export_arguments import add_arguments as add_export

_RECIPE = "a name from `sft recipes`, or a YAML's path"
_HYDRA = "key=value, group=choice, and Hydra's own flags (-m, --cfg job, --info …)"
_EVENTS = "print JSON Lines for a program instead: each stage, its progress, what is said, and how it ends"


def add_run(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``sft run``."""
    parser.add_argument("recipe", metavar="RECIPE", nargs="?", help=_RECIPE)
    text = "in place of RECIPE: what a record says, run again; with run_root=FOLDER nothing of it is reused"
    parser.add_argument("--from", dest="again", metavar="RUN_OR_MODEL", help=text)
    text = "only this step or stage (`sft plan` lists them), and what it needs"
    parser.add_argument("--until", metavar="STEP", type=_named, help=text)
    text = "end once the TrainJob is there, and leave it to itself (training/launcher=kubeflow)"
    parser.add_argument("--detach", action="store_true", help=text)
    parser.add_argument("--json", action="store_true", help=_EVENTS)
    _add_hydra(parser)


def add_plan(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``sft plan``."""
    parser.add_argument("recipe", metavar="RECIPE", help=_RECIPE)
    parser.add_argument("--config", action="store_true", help="also print every setting, after all else")
    _add_hydra(parser)


def _add_hydra(parser: argparse.ArgumentParser) -> None:
    overrides = parser.add_argument("overrides", nargs=argparse.REMAINDER, metavar="OVERRIDE", help=_HYDRA)
    overrides.required = False


def add_preview(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``sft preview``."""
    parser.add_argument("recipe", metavar="RECIPE", help=_RECIPE)
    parser.add_argument("-n", dest="num", type=int, default=5, metavar="N", help="how many samples (default: 5)")
    parser.add_argument("--json", action="store_true", help="print JSON, token ids included")
    parser.add_argument("--html", metavar="FILE", help="also write a page")
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="as of `sft run`")


def add_attach(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``sft attach``."""
    parser.add_argument("run", metavar="RUN", help="the run's folder")
    parser.add_argument("--json", action="store_true", help=_EVENTS)
    text = "ways out that the run used, again: model.trust_remote_code=true"
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help=text)


def add_eval(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``sft eval``."""
    parser.add_argument("--recipe", metavar="RECIPE", help="score as this recipe does: its tasks and its dataset")
    parser.add_argument("model", metavar="MODEL", help="a model's folder, or a hub id")
    text = "settings of eval, model and dataset; with dataset.uri, its held-out split is scored"
    parser.add_argument("overrides", nargs=argparse.REMAINDER, metavar="OVERRIDE", help=text)


def add_recipes(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``sft recipes``."""
    text = "copy a shipped recipe, with its tasks and data, to edit and run there"
    copy = parser.add_subparsers(dest="action", metavar="ACTION").add_parser("copy", help=text, description=f"{text}.")
    copy.add_argument("name", metavar="NAME", help="a name from `sft recipes`")
    copy.add_argument("folder", metavar="DIR", help="where to; nothing that is there is overwritten")


def add_schema(_parser: argparse.ArgumentParser) -> None:
    """Add nothing: ``sft schema`` has no arguments."""


def add_data(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``sft data``."""
    parser.add_argument("action", choices=["check"])
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--html", metavar="FILE", help="write the report as a page")
    text = "search the training split for documents of these lm-eval tasks (eval.include_path=DIR for your own)"
    parser.add_argument("--against-tasks", metavar="TASK,…", type=lambda value: value.split(","), default=[], help=text)
    parser.add_argument("uri", metavar="URI", help="as in dataset.uri")
    text = "settings of dataset, model and training; with a model, tokens are counted"
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help=text)


def add_compare(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``sft compare``."""
    parser.add_argument("folders", nargs="+", metavar="DIR", help="a run's folder, a sweep's folder, or a run root")
    parser.add_argument("--by", metavar="SCORE", help="sort by it: task.metric, or train.loss (default: the sweep's)")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--csv", action="store_true", help="print CSV")
    form.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--html", metavar="FILE", help="also write a page")


def add_verify(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``sft verify``."""
    parser.add_argument("path", metavar="RUN_OR_MODEL", help="a run's folder, or a model's folder")
    parser.add_argument("--key", metavar="FILE", help="public key (PEM) of who should have signed the model")
    text = "who should have signed it through Sigstore: an e-mail address, a workflow's URL"
    parser.add_argument("--identity", metavar="WHO", help=text)
    parser.add_argument("--issuer", metavar="URL", help="identity provider that vouches for that")


def add_register(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``sft register``."""
    parser.add_argument("run", metavar="RUN", help="the run's folder")
    text = "settings of registry, in place of the run's own"
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help=text)


def add_models(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``sft models``."""
    parser.add_argument("--name", metavar="MODEL", help="only its versions")
    parser.add_argument("--json", action="store_true", help="print JSON, with every fact")
    text = "settings of registry that say which one, and run_root; default: MLflow in the run root"
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help=text)


def add_store(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``sft store``."""
    parser.add_argument("action", nargs="?", choices=["list", "prune"], default="list")
    parser.add_argument("--run-root", default="runs", help="the folder that holds it (default: runs)")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--dry-run", action="store_true", help="prune: only say what would go (the default)")
    how.add_argument("--yes", action="store_true", help="prune: move it to the store's trash, for a week")
    how.add_argument("--now", action="store_true", help="prune: remove it at once, and all of the trash")


def add_chat(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``sft chat``."""
    text = "a run's folder, a model's folder, or a hub id"
    parser.add_argument("model", metavar="RUN_OR_MODEL", help=text)
    parser.add_argument("--base", action="store_true", help="let the run's base model answer too, before the tuned one")
    parser.add_argument("--system", metavar="TEXT", help="the system turn (default: what the chat template says)")
    text = "longest answer (default: the model's own setting, or 512)"
    parser.add_argument("--max-tokens", type=int, metavar="N", help=text)
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="model.trust_remote_code=true, or nothing")


def add_init(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``sft init``."""
    parser.add_argument("data", nargs="?", metavar="FILE", help="the data: a file, a folder or a uri, as dataset.uri")
    parser.add_argument("--model", metavar="MODEL", help="a folder or a hub id (default: the largest that fits well)")
    text = "train every weight or adapters (default: adapters only where the whole model doesn't fit)"
    parser.add_argument("--train", choices=["full", "lora"], help=text)
    text = "lm-eval tasks to score before and after (default: none)"
    parser.add_argument("--tasks", metavar="TASK,…", help=text)
    parser.add_argument("--output", metavar="FILE.yaml", default="recipe.yaml", help="default: recipe.yaml")
    parser.add_argument("--yes", action="store_true", help="ask nothing, as without a terminal")
    text = "settings of dataset, kept in the recipe: dataset.columns.prompt=question"
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help=text)


def add_import(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``sft import``."""
    parser.add_argument("file", metavar="FILE", help="YAML, JSON, or the flags of `trl sft` in a text file")
    text = "whose it is (default: as its keys say)"
    parser.add_argument("--from", dest="project", choices=["axolotl", "llama-factory", "torchtune", "trl"], help=text)
    parser.add_argument("--output", metavar="FILE.yaml", default="recipe.yaml", help="default: recipe.yaml")
    text = "devices that it was written for: batch sizes there are of one of them (default: 1)"
    parser.add_argument("--devices", type=_positive, default=1, metavar="N", help=text)


def _named(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("is empty")
    return text


def _positive(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 1_000_000:
        raise argparse.ArgumentTypeError("must be at least 1 and at most 1,000,000")
    return number


def add_report(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``sft report``."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help="the run's folder")
    parser.add_argument("--open", action="store_true", help="show the page in a browser")


def add_watch(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``sft watch``."""
    parser.add_argument("run", metavar="RUN", help="the run's folder")
    text = "port of 127.0.0.1, which only this machine reaches (default: 8765; 0: any that is free)"
    parser.add_argument("--port", type=int, default=8765, metavar="N", help=text)
    parser.add_argument("--open", action="store_true", help="show the page in a browser")


def add_debug(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``sft debug``."""
    parser.add_argument("run", metavar="RUN", help="the run's folder")
    parser.add_argument("--output", metavar="FILE", help="default: RUN-debug.tar.gz in the working folder")


def add_serve(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``sft serve``."""
    parser.add_argument("model", metavar="RUN_OR_MODEL", help="a run's folder, a model's folder, or a hub id")
    text = "address to listen on (default: 127.0.0.1, which only this machine reaches)"
    parser.add_argument("--host", default="127.0.0.1", help=text)
    parser.add_argument("--port", type=int, default=8000, metavar="N", help="default: 8000")
    text = "eval.vllm.python=PYTHON serves with vLLM's environment; model.trust_remote_code=true"
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help=text)


def add_merge(parser: argparse.ArgumentParser) -> None:
    """Add what `sft merge` takes."""
    parser.add_argument("base", metavar="MODEL", help="the model that they are adapters of: a folder, or a hub id")
    text = "an adapter's folder or its run's, by a weight; 1 if none is given"
    parser.add_argument("adapters", metavar="ADAPTER[=WEIGHT]", nargs="+", help=text)
    parser.add_argument("--output", metavar="FOLDER", required=True, help="the merged model, a folder that isn't there")
    parser.add_argument("--revision", metavar="NAME", help="branch, tag or commit of a model on the hub")
    parser.add_argument("--trust-remote-code", action="store_true", help="let code that comes with the model run")


COMMANDS: dict[str, tuple[str, Callable[[argparse.ArgumentParser], None]]] = {
    "run": ("run a recipe", add_run),
    "plan": ("show what a run would do, and why", add_plan),
    "preview": ("show samples as the model sees them", add_preview),
    "attach": ("come back to a run that a cluster trains", add_attach),
    "eval": ("score a model, without training anything", add_eval),
    "init": ("write a recipe that fits your data and this machine", add_init),
    "import": ("write a recipe of a configuration of axolotl, LLaMA-Factory, torchtune or TRL", add_import),
    "recipes": ("list the shipped recipes, or copy one to edit", add_recipes),
    "schema": ("print what a recipe may hold, as JSON Schema for editors", add_schema),
    "data": ("check a dataset, without training anything", add_data),
    "compare": ("put runs side by side: what varied, scores, speed, memory, time", add_compare),
    "export": ("write a run's model in another format, or print a recipe as what another system runs", add_export),
    "merge": ("put adapters of a model, each by a weight, into its weights", add_merge),
    "report": ("make or renew the page of a run, finished or not", add_report),
    "watch": ("serve the page of a run live while it is at work", add_watch),
    "debug": ("write an archive of a run for an issue, without data or secrets", add_debug),
    "chat": ("talk to the model of a run, or to any model", add_chat),
    "serve": ("serve the model of a run with OpenAI's API", add_serve),
    "verify": ("check a run or a model against its record", add_verify),
    "register": ("register the model of an earlier run", add_register),
    "models": ("list what is registered, with scores", add_models),
    "store": ("list or prune the artifact store", add_store),
}
"""What each is for, in the order of ``sft --help``, and what adds its arguments."""
