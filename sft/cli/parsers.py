"""Arguments of the commands for those who use a model. Standard library only."""

from __future__ import annotations

import argparse


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
