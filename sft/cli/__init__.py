"""Owns argv and exit codes: 0 done, 1 a stage failed, 2 the configuration is wrong, 3 the model misses a gate, 75
stopped with its state saved (the same command continues), 130 interrupted.

Each subcommand is a module with `execute`; it is imported only when it is asked for, so that `--help` is quick.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from typing import NoReturn

from sft import __version__
from sft.adapters.os.command import run_command
from sft.cli import examples, export_arguments
from sft.cli.parsers import COMMANDS
from sft.config.nearest import nearest
from sft.errors import ConfigError, Problem
from sft.logs import mask_streams

_FLAGS = {"run": ("detach", "json"), "plan": ("config",)}
_FLAGS_WITH_VALUE = {"run": "until", "eval": "recipe"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    arguments = export_arguments.with_system(list(sys.argv[1:] if argv is None else argv))
    mask_streams()  # argparse's errors quote what was typed
    if arguments[:1] in (["-sc"], ["--shell-completion"]):
        options = argparse.Namespace(command="completion", debug=False)
    elif unknown := next((text for text in arguments[:1] if not text.startswith("-") and text not in COMMANDS), None):
        return run_command(lambda: _refuse(unknown), debug=False)
    else:
        options = _parsed(arguments)
    _take_flags(options)
    return run_command(lambda: _execute(options, arguments), debug=options.debug)


def _refuse(command: str) -> NoReturn:
    fix = nearest(command, COMMANDS) or "`sft --help` lists them"
    raise ConfigError([Problem(key=f"sft {command}", rule="no such command", suggestion=fix)])


def _parsed(arguments: list[str]) -> argparse.Namespace:
    """Parse arguments; overrides may stand before and after flags, which argparse alone refuses."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    unknown = [text for text in rest if text.startswith("-") or not hasattr(options, "overrides")]
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if rest:
        options.overrides = [*options.overrides, *rest]
    return options


def _execute(options: argparse.Namespace, arguments: list[str]) -> int:
    match options.command:
        case "run":
            from sft.cli.run import execute as run

            return run(options, ["sft", *arguments])
        case "attach":
            from sft.cli.run import attach

            return attach(options, ["sft", *arguments])
        case "plan":
            from sft.cli.plan import execute as plan

            return plan(options.recipe, options.overrides, config=options.config)
        case "preview":
            from sft.cli.preview import execute as preview

            command, flags = ["sft", *arguments], {"num": options.num, "json": options.json, "page": options.html}
            return preview(options.recipe, options.overrides, command, **flags)
        case "eval":
            from sft.cli.evaluate import execute as evaluate

            return evaluate(options.model, options.recipe, options.overrides, ["sft", *arguments])
        case "export":
            from sft.cli import export

            systems = {"model": export.model, "job": export.job, "kfp": export.kfp, "trainjob": export.trainjob}
            return systems[options.system](options)
        case "merge":
            from sft.cli.merge import execute as merge

            return merge(options)
        case "chat":
            from sft.cli.chat import execute as chat

            flags = {"base": options.base, "system": options.system, "max_tokens": options.max_tokens}
            return chat(options.model, options.overrides, **flags)
        case "debug":
            from sft.cli.debug import execute as debug

            return debug(options.run, options.output)
        case "report":
            from sft.cli.report import execute as report

            return report(options.runs, opens=options.open)
        case "watch":
            from sft.cli.report import watch

            return watch(options.run, port=options.port, opens=options.open)
        case "init":
            from sft.cli import init

            return init.execute(init.wishes_of(options), options.overrides)
        case "import":
            from sft.cli.import_ import execute as import_

            flags = {"project": options.project, "output": options.output, "devices": options.devices}
            return import_(options.file, **flags)
        case "serve":
            from sft.cli.serve import execute as serve

            return serve(options.model, options.overrides, host=options.host, port=options.port)
        case "register":
            from sft.cli.register import execute as register

            return register(options.run, options.overrides)
        case "models":
            from sft.cli.models import execute as models

            return models(options.name, options.overrides, json=options.json)
        case "completion":
            from sft.cli.completion import execute as complete

            return complete(arguments)
        case "schema":
            from sft.cli import recipes

            return recipes.schema()
        case "recipes":
            from sft.cli import recipes

            return recipes.copy(options.name, options.folder) if options.action == "copy" else recipes.execute()
        case "data":
            from sft.cli.data import execute as check_data

            return check_data(
                options.uri,
                options.overrides,
                json=options.json,
                page=options.html,
                against_tasks=options.against_tasks,
            )
        case "compare":
            from sft.cli.compare import execute as compare

            formats = {"csv": options.csv, "json": options.json}
            return compare(options.folders, by=options.by, html=options.html, **formats)
        case "verify":
            from sft.cli.verify import execute as verify

            return verify(options.path, options.key, options.identity, options.issuer)
        case _:
            from sft.cli.store import execute as store

            return store(options.action, options.run_root, yes=options.yes, now=options.now)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sft",
        description="One recipe in; one fine-tuned, evaluated, registered model out.",
        epilog=examples.shown(shutil.get_terminal_size().columns),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"sft {__version__}")
    parser.add_argument("--debug", action="store_true", help="show tracebacks and what sft logs")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (text, add_arguments) in COMMANDS.items():
        add_arguments(commands.add_parser(name, help=text, description=f"{text}."))
    return parser


def _take_flags(options: argparse.Namespace) -> None:
    """Take out flags of ours that stand among the overrides, which argparse leaves as they are."""
    overrides = getattr(options, "overrides", [])
    if "--debug" in overrides:
        overrides.remove("--debug")
        options.debug = True
    for flag in _FLAGS.get(options.command, ()):
        if f"--{flag}" in overrides:
            overrides.remove(f"--{flag}")
            setattr(options, flag, True)
    flag = _FLAGS_WITH_VALUE.get(options.command, "")
    for place, text in enumerate(overrides if flag else ()):
        name, equals, value = text.partition("=")
        value, num_words = (value, 1) if equals else ("".join(overrides[place + 1 : place + 2]), 2)
        if name == f"--{flag}" and value:
            setattr(options, flag, value)
            del overrides[place : place + num_words]
            return
