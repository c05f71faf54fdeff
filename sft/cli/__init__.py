"""Owns argv and exit codes: 0 done, 1 a stage failed, 2 the configuration is wrong, 3 the model misses a gate, 75
stopped with its state saved (the same command continues), 130 interrupted.

Each subcommand is a module with `execute`; it is imported only when it is asked for, so that `--help` is quick.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from sft import __version__
from sft.adapters.os.command import run_command
from sft.cli import export_arguments, parsers
from sft.config.nearest import nearest
from sft.errors import ConfigError, Problem
from sft.logs import mask_streams

_EPILOG = """\
examples:
  sft init chats.jsonl                               a recipe for your data and this machine
  sft import axolotl.yaml                            a recipe of what another project trains
  sft recipes                                        what there is to start from
  sft recipes copy quickstart mine                   one of them, with its tasks and data, to edit
  sft plan quickstart                                what would be done, and why
  sft preview quickstart -n 2                        two samples as the model sees them, the loss marked
  sft run quickstart                                 do it; the same command again continues or does nothing
  sft run my.yaml training.learning_rate=1e-5        a recipe of your own, one value changed
  sft run quickstart -m training.seed=1,2,3          one run per value; shared work is done once
  sft compare runs/sweeps/quickstart-1a2b3c4d        that sweep's table again; any runs side by side
  sft run quickstart --until train                   only what makes the weights; later the rest
  sft eval org/model eval.tasks=[gsm8k]              score a model alone
  sft chat runs/quickstart-1a2b3c4d --base           talk to its model, and to the one it began with
  sft serve runs/quickstart-1a2b3c4d --port 8000     its model behind OpenAI's API
  sft report runs/quickstart-1a2b3c4d --open         its page: scores, curves, data, where it comes from
  sft watch runs/quickstart-1a2b3c4d                 the same, live, while the run is at work
  sft merge BASE runs/a/adapter=0.7 runs/b/adapter=0.3 --output both   adapters as one model
  sft verify runs/quickstart-1a2b3c4d                is everything still what the record says?
  sft debug runs/quickstart-1a2b3c4d                 an archive for an issue, free of data and secrets
  sft register runs/my-1a2b3c4d registry=mlflow      its model, registered now
  sft models                                         what is registered, with scores
  sft data check rows.jsonl model.name_or_path=DIR   every row checked, tokens and padding counted
  sft export job my.yaml --image IMAGE               a Job for Kubernetes, named by the run
  sft export runs/my-1a2b3c4d --to gguf --output my-gguf   its model for llama.cpp, scored again
  sft export kfp my.yaml > pipeline.yaml             a pipeline for Kubeflow Pipelines
  sft run my.yaml training/launcher=kubeflow --detach   train on a cluster; `sft attach RUN` comes back
  sft run quickstart --cfg job                       the composed configuration (any flag of Hydra works)
"""


_CONFIG = "--config"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    arguments = export_arguments.with_system(list(sys.argv[1:] if argv is None else argv))
    mask_streams()  # argparse's errors quote what was typed
    if arguments[:1] in (["-sc"], ["--shell-completion"]):
        options = argparse.Namespace(command="completion", debug=False)
    elif unknown := next((text for text in arguments[:1] if not text.startswith("-") and text not in commands()), None):
        return run_command(lambda: _refuse(unknown), debug=False)
    else:
        options = _parsed(arguments)
    _take_flags(options)
    return run_command(lambda: _execute(options, arguments), debug=options.debug)


def _refuse(command: str) -> NoReturn:
    fix = nearest(command, commands()) or "`sft --help` lists them"
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
            from sft.cli.run import repeat

            if options.again and options.detach:
                raise ConfigError([Problem(key="--detach", rule="is not for --from, which waits to compare")])
            if options.again:
                overrides = [options.recipe] if options.recipe else []
                return repeat(options.again, [*overrides, *options.overrides], ["sft", *arguments], options.until)
            if not options.recipe:
                fix = "type `sft run quickstart`, or `sft init FILE` for your own data; `sft recipes` lists more"
                raise ConfigError([Problem(key="sft run", rule="needs a recipe", suggestion=fix)])
            return run(options.recipe, options.overrides, ["sft", *arguments], options.until, detach=options.detach)
        case "attach":
            from sft.cli.run import attach

            return attach(options.run, options.overrides, ["sft", *arguments])
        case "plan":
            from sft.cli.plan import execute as plan

            overrides = [text for text in options.overrides if text != _CONFIG]  # argparse leaves it there after one
            return plan(options.recipe, overrides, config=options.config or len(overrides) < len(options.overrides))
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


def commands() -> list[str]:
    """Return the name of every command."""
    [choices] = [action.choices for action in _parser()._actions if isinstance(action, argparse._SubParsersAction)]
    return list(choices)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sft",
        description="One recipe in; one fine-tuned, evaluated, registered model out.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"sft {__version__}")
    parser.add_argument("--debug", action="store_true", help="show tracebacks and what sft logs")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in {"run": "run a recipe", "plan": "show what a run would do, and why"}.items():
        command = commands.add_parser(name, help=text, description=f"{text}.")
        recipe = command.add_argument("recipe", metavar="RECIPE", help="a name from `sft recipes`, or a YAML's path")
        if name == "run":
            recipe.nargs, recipe.required = "?", False
            text = "in place of RECIPE: what a record says, run again; with run_root=FOLDER nothing of it is reused"
            command.add_argument("--from", dest="again", metavar="RUN_OR_MODEL", help=text)
            text = "only this step or stage (`sft plan` lists them), and what it needs"
            command.add_argument("--until", metavar="STEP", help=text)
            text = "end once the TrainJob is there, and leave it to itself (training/launcher=kubeflow)"
            command.add_argument("--detach", action="store_true", help=text)
        else:
            command.add_argument(_CONFIG, action="store_true", help="also print every setting, after all else")
        rest = "key=value, group=choice, and Hydra's own flags (-m, --cfg job, --info …)"
        overrides = command.add_argument("overrides", nargs=argparse.REMAINDER, metavar="OVERRIDE", help=rest)
        overrides.required = False
    _add_preview(commands.add_parser("preview", help="show samples as the model sees them"))
    attach = commands.add_parser("attach", help="come back to a run that a cluster trains")
    attach.add_argument("run", metavar="RUN", help="the run's folder")
    what = "ways out that the run used, again: model.trust_remote_code=true"
    attach.add_argument("overrides", nargs="*", metavar="OVERRIDE", help=what)
    evaluate = commands.add_parser("eval", help="score a model, without training anything")
    evaluate.add_argument("--recipe", metavar="RECIPE", help="score as this recipe does: its tasks and its dataset")
    evaluate.add_argument("model", metavar="MODEL", help="a model's folder, or a hub id")
    what = "settings of eval, model and dataset; with dataset.uri, its held-out split is scored"
    evaluate.add_argument("overrides", nargs=argparse.REMAINDER, metavar="OVERRIDE", help=what)
    parsers.add_init(commands.add_parser("init", help="write a recipe that fits your data and this machine"))
    text = "write a recipe of a configuration of axolotl, LLaMA-Factory, torchtune or TRL"
    parsers.add_import(commands.add_parser("import", help=text))
    _add_recipes(commands.add_parser("recipes", help="list the shipped recipes, or copy one to edit"))
    commands.add_parser("schema", help="print what a recipe may hold, as JSON Schema for editors")
    data = commands.add_parser("data", help="check a dataset, without training anything")
    data.add_argument("action", choices=["check"])
    data.add_argument("--json", action="store_true", help="print the report as JSON")
    data.add_argument("--html", metavar="FILE", help="write the report as a page")
    text = "search the training split for documents of these lm-eval tasks (eval.include_path=DIR for your own)"
    data.add_argument("--against-tasks", metavar="TASK,…", type=lambda value: value.split(","), default=[], help=text)
    data.add_argument("uri", metavar="URI", help="as in dataset.uri")
    what = "settings of dataset, model and training; with a model, tokens are counted"
    data.add_argument("overrides", nargs="*", metavar="OVERRIDE", help=what)
    compare = commands.add_parser("compare", help="put runs side by side: what varied, scores, speed, memory, time")
    compare.add_argument("folders", nargs="+", metavar="DIR", help="a run's folder, a sweep's folder, or a run root")
    compare.add_argument("--by", metavar="SCORE", help="sort by it: task.metric, or train.loss (default: the sweep's)")
    compare.add_argument("--csv", action="store_true", help="print CSV")
    compare.add_argument("--json", action="store_true", help="print JSON")
    compare.add_argument("--html", metavar="FILE", help="also write a page")
    text = "write a run's model in another format, or print a recipe as what another system runs"
    export_arguments.add_arguments(commands.add_parser("export", help=text))
    parsers.add_merge(commands.add_parser("merge", help="put adapters of a model, each by a weight, into its weights"))
    parsers.add_report(commands.add_parser("report", help="make or renew the page of a run, finished or not"))
    parsers.add_watch(commands.add_parser("watch", help="serve the page of a run live while it is at work"))
    parsers.add_debug(
        commands.add_parser("debug", help="write an archive of a run for an issue, without data or secrets")
    )
    parsers.add_chat(commands.add_parser("chat", help="talk to the model of a run, or to any model"))
    parsers.add_serve(commands.add_parser("serve", help="serve the model of a run with OpenAI's API"))
    verify = commands.add_parser("verify", help="check a run or a model against its record")
    verify.add_argument("path", metavar="RUN_OR_MODEL", help="a run's folder, or a model's folder")
    verify.add_argument("--key", metavar="FILE", help="public key (PEM) of who should have signed the model")
    text = "who should have signed it through Sigstore: an e-mail address, a workflow's URL"
    verify.add_argument("--identity", metavar="WHO", help=text)
    verify.add_argument("--issuer", metavar="URL", help="identity provider that vouches for that")
    register = commands.add_parser("register", help="register the model of an earlier run")
    register.add_argument("run", metavar="RUN", help="the run's folder")
    what = "settings of registry, in place of the run's own"
    register.add_argument("overrides", nargs="*", metavar="OVERRIDE", help=what)
    models = commands.add_parser("models", help="list what is registered, with scores")
    models.add_argument("--name", metavar="MODEL", help="only its versions")
    models.add_argument("--json", action="store_true", help="print JSON, with every fact")
    what = "settings of registry that say which one, and run_root; default: MLflow in the run root"
    models.add_argument("overrides", nargs="*", metavar="OVERRIDE", help=what)
    store = commands.add_parser("store", help="list or prune the artifact store")
    store.add_argument("action", nargs="?", choices=["list", "prune"], default="list")
    store.add_argument("--run-root", default="runs", help="the folder that holds it (default: runs)")
    how = store.add_mutually_exclusive_group()
    how.add_argument("--dry-run", action="store_true", help="prune: only say what would go (the default)")
    how.add_argument("--yes", action="store_true", help="prune: move it to the store's trash, for a week")
    how.add_argument("--now", action="store_true", help="prune: remove it at once, and all of the trash")
    return parser


def _add_recipes(parser: argparse.ArgumentParser) -> None:
    text = "copy a shipped recipe, with its tasks and data, to edit and run there"
    copy = parser.add_subparsers(dest="action", metavar="ACTION").add_parser("copy", help=text, description=f"{text}.")
    copy.add_argument("name", metavar="NAME", help="a name from `sft recipes`")
    copy.add_argument("folder", metavar="DIR", help="where to; nothing that is there is overwritten")


def _add_preview(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", metavar="RECIPE", help="a name from `sft recipes`, or a YAML's path")
    parser.add_argument("-n", dest="num", type=int, default=5, metavar="N", help="how many samples (default: 5)")
    parser.add_argument("--json", action="store_true", help="print JSON, token ids included")
    parser.add_argument("--html", metavar="FILE", help="also write a page")
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="as of `sft run`")


def _take_flags(options: argparse.Namespace) -> None:
    """Take out flags of ours that stand among the overrides, which argparse leaves as they are."""
    overrides = getattr(options, "overrides", [])
    if "--debug" in overrides:
        overrides.remove("--debug")
        options.debug = True
    if options.command == "run" and "--detach" in overrides:
        overrides.remove("--detach")
        options.detach = True
    for command, flag in (("eval", "recipe"), ("run", "until")):
        if options.command == command and f"--{flag}" in overrides[:-1]:
            place = overrides.index(f"--{flag}")
            setattr(options, flag, overrides[place + 1])
            del overrides[place : place + 2]
