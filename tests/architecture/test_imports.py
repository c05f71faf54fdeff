"""What the import contracts can't see: what a command really loads, and what ships."""

from __future__ import annotations

import ast
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from sft import __version__
from sft.config.compose import recipes, shipped

ROOT = Path(__file__).parents[2]
HEAVY = (
    *("torch", "transformers", "datasets", "lm_eval", "mlflow", "numpy", "pyarrow", "instructlab", "fsspec", "kfp"),
    *("kubernetes", "kubeflow_trainer_api", "pydantic"),
)
ON_A_CLUSTER = ["training/launcher=kubeflow", "training.launcher.gpus_per_worker=0"]


def loaded(*arguments: str, cwd: Path) -> set[str]:
    """Names of the heavy packages that a command has loaded when it ends."""
    code = (
        "import sys; from sft.cli import main; status = main(sys.argv[1:]);"
        f"print('LOADED', *(name for name in {HEAVY!r} if name in sys.modules)); sys.exit(status)"
    )
    command = [sys.executable, "-c", code, *arguments]
    answer = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=True)
    return set(answer.stdout.rpartition("LOADED")[2].split())


@pytest.mark.parametrize("arguments", [["recipes"], ["store"], ["plan", "quickstart"]], ids=lambda a: a[0])
def test_looking_loads_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    assert loaded(*arguments, cwd=tmp_path) == set()


def test_planning_a_trainjob_loads_no_client(tmp_path: Path) -> None:
    settings = [*ON_A_CLUSTER, f"training.launcher.mount_path={tmp_path}"]
    assert loaded("plan", "quickstart", *settings, cwd=tmp_path) == set()


def test_help_does_not_load_hydra(tmp_path: Path) -> None:
    code = "import sys\nfrom sft.cli import main\ntry: main(['--help'])\nfinally: assert 'hydra' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)


@pytest.mark.long
@pytest.mark.slow
def test_every_room_imports(tmp_path: Path) -> None:
    modules = sorted(ROOT.glob("sft/**/*.py"))
    assert len(modules) > 20
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in modules if path.stem != "__main__"]
    code = f"import importlib\nfor name in {names!r}: importlib.import_module(name.removesuffix('.__init__'))"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)


def test_no_module_imports_what_is_for_tests() -> None:
    modules = sorted(ROOT.glob("sft/**/*.py"))
    assert len(modules) > 20
    for path in modules:
        names = {name for node in ast.walk(ast.parse(path.read_text())) for name in imported(node)}
        assert not {name for name in names if name.partition(".")[0] in {"unittest", "mock", "pytest", "tests"}}, path


def imported(node: ast.AST) -> list[str]:
    """Modules that a statement imports."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []


def test_an_editable_install_reads_the_checkout() -> None:
    assert shipped("conf") == ROOT / "conf"


@pytest.mark.slow
def test_a_wheel_carries_configs_and_recipes_and_works_without_a_checkout(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    [wheel] = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    assert (site / "sft" / "py.typed").is_file()
    assert wheel.name == f"sft_runner-{__version__}-py3-none-any.whl"
    environment = {"PYTHONPATH": str(site), "PATH": "/usr/bin:/bin"}

    def said(*arguments: str) -> str:
        run = [sys.executable, "-m", "sft", *arguments]
        return subprocess.run(run, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout

    assert said("--version") == f"sft {__version__}\n"
    assert [line.split()[0] for line in said("recipes").splitlines()] == [recipe.name for recipe in recipes()]
    assert f"include_path: {site}/sft/recipes/tasks" in said("plan", "quickstart", "--config")
    assert "wrote mine/tasks/spell_numbers.jsonl" in said("recipes", "copy", "quickstart", "mine")
    assert f"include_path: {tmp_path}/mine/tasks" in said("plan", "mine/quickstart.yaml", "--config")
