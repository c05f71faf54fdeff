"""A run that trains in a TrainJob of two pods, through everything that can happen to it, and to the same weights.

On the stand-in cluster (`tests.support.cluster`), whose pods are real processes that really train; on a real one, too,
where there is one.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from sft.files import sha256_file
from tests.servers.kubernetes.server import wait_until
from tests.support.cluster import ON_EVERY_CLUSTER, Site, site
from tests.support.command import Answer, records, sft, steps
from tests.support.training import ranks

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(1200)]

SMALL = ["training.num_epochs=25", "dataset.max_samples=800", "registry=none", "eval=none"]
STEPS = 300


def weights(root: Path) -> str:
    [file] = root.glob("runs/store/train/*/model/model.safetensors")
    return sha256_file(file)


def rows(root: Path) -> list[dict[str, Any]]:
    """Of the training at work, or done."""
    for file in root.glob("runs/store/**/logs/metrics.jsonl"):
        return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return []


def run(there: Site, *arguments: str, cwd: Path | None = None) -> subprocess.Popen[str]:
    """A process of its own, whose lines can be read when it has ended."""
    return subprocess.Popen(
        [sys.executable, "-u", "-m", "sft", *arguments],
        cwd=cwd or there.root,
        env={**os.environ, **there.environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def told_until(process: subprocess.Popen[str], text: str) -> str:
    """Return what a process says, up to the line with a text or its end."""
    assert process.stdout
    lines: list[str] = []
    while not (lines and text in lines[-1]) and (line := process.stdout.readline()):
        lines.append(line)
    return "".join(lines)


def command(there: Site) -> list[str]:
    return ["run", "quickstart", *SMALL, *there.settings, f"run_root={there.root}/runs"]


@dataclass(frozen=True)
class Story:
    """What happened to one run: begun and left alone, watched, orphaned, preempted, and brought to its end.

    Attributes:
        there: Where.
        left: What ``sft run --detach`` said.
        attached: What ``sft attach`` said, from another folder, until it was killed.
        orphaned_at: Steps done when the process that stayed with the job was killed.
        preempted_at: Steps done when a pod was taken away.
        back: What the command said that came back.
        jobs: Names of the jobs that were there, at each of these times.
    """

    there: Site
    left: Answer
    attached: Answer
    orphaned_at: int
    preempted_at: int
    back: Answer
    jobs: tuple[list[str], ...]


@pytest.fixture(scope="module", params=ON_EVERY_CLUSTER)
def there(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with site(request.param, tmp_path_factory.mktemp("volume")) as one:
        yield one


@pytest.fixture(scope="module")
def story(there: Site) -> Story:
    left = sft(*command(there), "--detach", cwd=there.root, **there.environment)
    assert left.status == 0, left
    jobs = [list(there.jobs())]
    [name] = jobs[0]
    found = re.search(r"`sft attach (\S+)`", left.err)
    assert found, left.err
    elsewhere = there.root / "elsewhere"
    elsewhere.mkdir()
    watcher = run(there, "attach", found[1], cwd=elsewhere)
    attached = told_until(watcher, "resumes TrainJob")  # on a busy machine the training is ahead by then
    wait_until(lambda: len(rows(there.root)) >= 3, 300)
    watcher.kill()
    attached += watcher.communicate()[0]
    orphaned_at = len(rows(there.root))
    wait_until(lambda: len(rows(there.root)) >= orphaned_at + 5, 120)
    jobs.append(list(there.jobs()))
    there.preempt(name, 1)
    preempted_at = len(rows(there.root))
    back = sft(*command(there), cwd=there.root, **there.environment)
    was = Answer(watcher.returncode, attached, "")
    return Story(there, left, was, orphaned_at, preempted_at, back, (*jobs, list(there.jobs())))


def test_a_run_that_is_left_alone_says_how_to_come_back(story: Story) -> None:
    assert "trains on" in story.left.err
    assert "Traceback" not in story.left.err


def test_attach_comes_back_from_wherever_it_is_called(story: Story) -> None:
    assert story.attached.status == -signal.SIGKILL, story.attached.out
    assert "resumes TrainJob" in story.attached.out
    assert "= tokenize: done before" in story.attached.out


def test_a_job_goes_on_without_the_process_that_stayed_with_it(story: Story) -> None:
    assert story.preempted_at >= story.orphaned_at + 5


def test_the_command_that_comes_back_goes_on_with_the_job_and_begins_no_other(story: Story) -> None:
    assert story.back.status == 0, story.back.out + story.back.err
    assert "resumes TrainJob" in story.back.out
    assert story.jobs[0] == story.jobs[1] == story.jobs[2]


def test_a_preempted_pod_saves_its_state_and_the_training_goes_on_from_there(story: Story) -> None:
    assert story.preempted_at < STEPS, "the training was over before the pod was taken away"
    assert re.search(r"resumes after step \d+", story.back.out), story.back.out
    assert [row["step"] for row in rows(story.there.root)] == list(range(1, STEPS + 1))


@pytest.mark.exhaustive
def test_the_record_and_the_weights_are_those_of_two_nodes_that_nothing_happened_to(
    story: Story, tmp_path: Path
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        rendezvous = f"127.0.0.1:{probe.getsockname()[1]}"
    launcher = ["num_workers=2", "procs_per_worker=1", f"rendezvous={rendezvous}"]
    settings = ["run", "quickstart", *SMALL, *(f"training.launcher.{setting}" for setting in launcher)]
    other = subprocess.Popen(
        [sys.executable, "-m", "sft", *settings, "training.launcher.node_rank=1"],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    first = sft(*settings, "training.launcher.node_rank=0", cwd=tmp_path)
    assert (first.status, other.wait(60)) == (0, 0), first.err
    assert weights(story.there.root) == weights(tmp_path)
    [here], [pods] = records(tmp_path / "runs"), records(story.there.root / "runs")
    assert steps(here)["train"]["output"] == steps(pods)["train"]["output"]


def test_the_clusters_token_is_on_no_page_of_the_run(story: Story) -> None:
    if story.there.server is None:
        pytest.skip("a kubeconfig's token is not the test's to look for")
    told = [story.left.out + story.left.err + story.back.out + story.back.err]
    told += [path.read_text(errors="replace") for path in story.there.root.rglob("*") if path.is_file()]
    assert len(told) > 20
    assert not any(story.there.server.token in text for text in told)


def test_a_run_needs_no_more_rights_than_the_manifests_give(story: Story) -> None:
    if story.there.server is None:
        pytest.skip("a real cluster does not say what was used")
    assert story.there.server.violations == []


def test_no_rank_outlives_its_pod(story: Story) -> None:
    assert ranks(story.there.root) == []


@pytest.fixture
def prepared(story: Story) -> Iterator[Site]:
    """The same cluster, with a volume on which all is done that comes before the training."""
    with_data = story.there.root / "again"
    for stage in ("dataset", "model", "tokenize"):
        shutil.copytree(story.there.root / "runs" / "store" / stage, with_data / "runs" / "store" / stage)
    yield replace(story.there, root=with_data)
    for name in set(story.there.jobs()) - set(story.jobs[-1]):
        story.there.delete(name)
    wait_until(lambda: set(story.there.jobs()) == set(story.jobs[-1]))
    shutil.rmtree(with_data)


@pytest.mark.exhaustive
def test_a_job_that_somebody_else_applied_is_the_runs_own(prepared: Site) -> None:
    settings = [*command(prepared)[1:], "training.seed=7", "training.num_epochs=8"]
    exported = sft("export", "trainjob", *settings, cwd=prepared.root, **prepared.environment)
    assert exported.status == 0, exported.err
    prepared.apply(exported.out)
    answer = sft("run", *settings, cwd=prepared.root, **prepared.environment)
    assert answer.status == 0, answer.out + answer.err
    assert f"resumes TrainJob {yaml.safe_load(exported.out)['metadata']['name']}" in answer.out


@pytest.mark.exhaustive
def test_ctrl_c_asks_once_and_then_takes_the_job_away(prepared: Site) -> None:
    before = set(prepared.jobs())
    watcher = run(prepared, *command(prepared), "training.seed=8")
    wait_until(lambda: set(prepared.jobs()) - before, 120)
    wait_until(lambda: rows(prepared.root), 300)
    watcher.send_signal(signal.SIGINT)
    assert watcher.stdout is not None
    said = ""
    while "Ctrl-C again" not in said:
        line = watcher.stdout.readline()
        assert line, said
        said += line
    assert set(prepared.jobs()) - before, "the first Ctrl-C only asks"
    watcher.send_signal(signal.SIGINT)
    rest, _ = watcher.communicate(timeout=200)
    assert watcher.returncode == 130, said + rest
    assert "Traceback" not in said + rest
    assert set(prepared.jobs()) == before


@pytest.mark.exhaustive
def test_a_run_that_is_told_to_stop_ends_with_75_and_the_next_one_goes_on(prepared: Site) -> None:
    before = set(prepared.jobs())
    settings = [*command(prepared), "training.seed=11", "training.num_epochs=8"]
    watcher = run(prepared, *settings)
    wait_until(lambda: rows(prepared.root), 300)
    watcher.send_signal(signal.SIGTERM)
    said, _ = watcher.communicate(timeout=60)
    assert watcher.returncode == 75, said
    assert "Traceback" not in said
    [name] = set(prepared.jobs()) - before
    answer = sft(*settings, cwd=prepared.root, **prepared.environment)
    assert answer.status == 0, answer.out + answer.err
    assert set(prepared.jobs()) - before == {name}, (
        "the job that trained on is the run's own, and there is no second one"
    )


@pytest.mark.exhaustive
def test_a_node_that_is_killed_comes_back_and_all_go_on_together(prepared: Site) -> None:
    before = set(prepared.jobs())
    settings = ["training.seed=9", "training.num_epochs=2", "training.checkpoint_every_steps=2"]
    watcher = run(prepared, *command(prepared), *settings)
    wait_until(lambda: len(rows(prepared.root)) >= 4, 300)
    [name] = set(prepared.jobs()) - before
    prepared.kill(name, 1)
    said, _ = watcher.communicate(timeout=200)
    assert watcher.returncode == 0, said
    assert re.search(r"node 1: restarted after status (137|69)", said), said
    assert re.search(r"node 0: resumes after step \d+", said), said
    assert [row["step"] for row in rows(prepared.root)] == list(range(1, 25))


@pytest.mark.exhaustive
def test_one_of_eight_nodes_that_is_killed_counts_once(prepared: Site) -> None:
    before = set(prepared.jobs())
    settings = ["training.seed=10", "training.num_epochs=1", "training.checkpoint_every_steps=2"]
    settings += ["training.launcher.num_workers=8", "training.stall_timeout_seconds=300"]
    watcher = run(prepared, *command(prepared), *settings)
    wait_until(lambda: len(rows(prepared.root)) >= 4, 500)
    [name] = set(prepared.jobs()) - before
    prepared.kill(name, 5)
    said, _ = watcher.communicate(timeout=500)
    assert watcher.returncode == 0, said
    assert re.search(r"node 5: restarted after status (137|69)", said), said
    assert prepared.num_ends(name) == 1, said
    assert [row["step"] for row in rows(prepared.root)] == list(range(1, 13))


@pytest.mark.exhaustive
def test_an_error_that_would_come_again_ends_the_job_with_the_nodes_own_words(prepared: Site) -> None:
    before = set(prepared.jobs())
    diverging = ("training.learning_rate=1000", "training.weight_decay=1000")  # weights grow a millionfold each step
    answer = sft(*command(prepared), *diverging, cwd=prepared.root, **prepared.environment)
    assert answer.status == 1, answer.out
    assert re.search(r"TrainJob sft-quickstart-\S+, node \d: training failed: .* is (nan|inf) at step", answer.err)
    assert "lower training.learning_rate" in answer.err
    assert "Traceback" not in answer.err
    assert set(prepared.jobs()) == before
