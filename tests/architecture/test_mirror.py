"""``tests/unit`` mirrors ``sft``: a module has its unit file, or ``mirror.py`` says which test covers it and why.

What a listed test covers is checked as far as reading can tell: from what the test imports, and from the commands that
it types, the module must be reached through imports (inside functions too) and through names of modules that a child
process runs.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests.architecture.mirror import COVERED_BY, TOPICS

ROOT = Path(__file__).parents[2]
UNIT = Path("tests/unit")
NAME = re.compile(r"\b(sft|tests)(\.\w+)+")
COMMANDS = {"eval": "evaluate", "attach": "run", "import": "import_", "-sc": "completion"}
"""Modules of `sft.cli` whose command has another name."""


@cache
def modules() -> dict[str, Path]:
    """Return path by dotted name of every module of ours that does more than name its package."""
    paths = [path.relative_to(ROOT) for path in sorted((ROOT / "sft").rglob("*.py"))]
    assert len(paths) > 100
    return {dotted(path): path for path in paths if path.name != "__init__.py" or holds_code(path)}


def dotted(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def holds_code(path: Path) -> bool:
    """Whether a package defines something of its own, rather than only naming what its modules define."""
    body = ast.parse((ROOT / path).read_text(encoding="utf-8")).body
    return any(isinstance(node, ast.FunctionDef | ast.ClassDef) for node in body)


def unit_file(module: str) -> Path:
    *folders, name = module.split(".")[1:]
    return UNIT.joinpath(*folders, f"test_{name}.py")


def unit_files() -> list[Path]:
    files = [path.relative_to(ROOT) for path in sorted((ROOT / UNIT).rglob("test_*.py"))]
    assert len(files) > 50
    return files


@cache
def source_of(name: str) -> Path | None:
    """Return the file of a module of ours or of the tests, None for any other name."""
    path = ROOT.joinpath(*name.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


@cache
def names_in(file: Path) -> frozenset[str]:
    """Return modules that a file imports or names in a text, and the modules of the commands that it types."""
    named, texts = set[str](), set[str]()
    nodes = [*ast.walk(ast.parse(file.read_text(encoding="utf-8")))]
    docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    for node in nodes:
        match node:
            case ast.ImportFrom(module=str(module)):
                named |= {f"{module}.{alias.name}" for alias in node.names} | {module}
            case ast.Import():
                named |= {alias.name for alias in node.names}
            case ast.Constant(value=str(text)) if id(node) not in docstrings:
                texts.add(text)
                named |= {match[0] for match in NAME.finditer(text)}
    if "tests.support.command" in named:
        named |= {f"sft.cli.{COMMANDS.get(text, text)}" for text in texts}
    return frozenset(name for name in named if NAME.fullmatch(name) and source_of(name))


def reached(start: Path) -> set[str]:
    """Return every module that a test gets to; the command line itself leads only to the commands that it types."""
    seen: set[str] = set()
    waiting = [*names_in(start)]
    while waiting:
        name = waiting.pop()
        file = source_of(name)
        if name in seen or file is None:
            continue
        seen.add(name)
        if name not in {"sft.cli", "sft.__main__"}:
            waiting += names_in(file)
    return seen


@pytest.mark.parametrize("module", [*modules()])
def test_a_module_has_its_unit_file_or_stands_in_the_list(module: str) -> None:
    has_file = (ROOT / unit_file(module)).is_file()
    assert has_file is not (module in COVERED_BY), "write its unit file, or say in mirror.py what covers it; not both"


@pytest.mark.parametrize("file", unit_files(), ids=str)
def test_a_unit_file_mirrors_a_module_and_imports_it(file: Path) -> None:
    module = TOPICS.get(file.relative_to(UNIT).as_posix()) or dotted(
        Path("sft") / file.relative_to(UNIT).with_name(f"{file.stem.removeprefix('test_')}.py")
    )
    assert source_of(module), "name it after a module, or say in mirror.py which one it belongs to"
    imported = names_in(ROOT / file)
    through = {name for other in imported if (source := source_of(other)) for name in names_in(source)}
    assert module in imported | through


@pytest.mark.parametrize(("module", "file"), [(module, file) for module, (file, _) in COVERED_BY.items()])
def test_what_is_said_to_cover_a_module_reaches_it(module: str, file: str) -> None:
    assert module in modules(), "there is no such module any more"
    assert (ROOT / "tests" / file).is_file()
    assert module in reached(ROOT / "tests" / file)


def test_every_entry_has_a_reason() -> None:
    assert all(len(reason.split()) >= 3 for _, reason in COVERED_BY.values())


def test_no_topic_is_stale() -> None:
    assert {file for file in TOPICS if not (ROOT / UNIT / file).is_file()} == set()
    assert {module for module in TOPICS.values() if module not in modules()} == set()


def test_a_command_that_is_not_typed_is_not_reached() -> None:
    typed = reached(ROOT / "tests" / "integration" / "test_verify.py")
    assert "sft.cli.export" not in typed
    assert "sft.kfp.pipeline" not in typed
