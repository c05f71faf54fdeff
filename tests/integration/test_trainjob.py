"""What can go wrong between a run and its TrainJob, on the stand-in cluster. The pods run a line of Python here; that
they train is `tests/e2e/test_trainjob.py`."""

from __future__ import annotations

import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("kubernetes")
from sft.adapters.instructlab.monitor import RankLost
from sft.adapters.kubeflow import access, job, watch
from sft.adapters.kubeflow.access import connect
from sft.adapters.kubeflow.cluster import TokenRefused
from sft.adapters.retry import RetryPolicy
from sft.errors import ConfigError, Preempted, SftError, StageError
from sft.progress_events import EventProgress
from tests.servers.kubernetes import KubernetesServer
from tests.servers.kubernetes.server import DROP, LOSE, wait_until
from tests.support.cluster import ROLE, contracts
from tests.support.command import sft
from tests.support.trainjobs import ACCESS, DONE, SLEEP, Seen, asked, begin, stay


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KubernetesServer]:
    monkeypatch.setattr(job, "POLL_SECONDS", 0.05)
    monkeypatch.setattr("sft.adapters.kubeflow.watch.POLL_SECONDS", 0.05)
    secrets = {"wandb": {"WANDB_API_KEY": "canary-wandb-key"}}
    volumes = {"sft-workspace": tmp_path}
    with KubernetesServer(contracts(), ROLE, volumes=volumes, home=tmp_path, secrets=secrets) as one:
        for name, value in one.environment.items():
            monkeypatch.setenv(name, value)
        yield one


def test_a_job_is_watched_to_its_end_with_what_its_pods_say(
    server: KubernetesServer, tmp_path: Path, seen: Seen
) -> None:
    script = f"import os; print('I am', os.environ['PET_NODE_RANK'], os.environ['WANDB_API_KEY'][:6]); {DONE}"
    name = stay(asked(tmp_path, script, secrets={"wandb": ("WANDB_API_KEY",)}), tmp_path, seen)
    assert "  node 0: I am 0 canary" in seen.lines
    assert "  node 1: I am 1 canary" in seen.lines
    assert "canary-wandb-key" not in yaml.safe_dump(server.created)
    assert list(server.jobs()) == [name]


def test_what_cant_begin_is_ended_with_its_last_lines_and_uses_every_right_of_the_role(
    server: KubernetesServer, tmp_path: Path, seen: Seen
) -> None:
    with pytest.raises(StageError, match="status 1") as caught:
        stay(asked(tmp_path, "import nosuchpackage"), tmp_path, seen)
    assert "No module named 'nosuchpackage'" in caught.value.message
    assert not isinstance(caught.value, RankLost)
    assert server.jobs() == {}
    [rules] = [one["rules"] for one in yaml.safe_load_all(ROLE.read_text()) if one["kind"] == "Role"]
    assert server.used == {(v, r) for rule in rules for r in rule["resources"] for v in rule["verbs"]}


def test_a_pod_out_of_memory_is_named_with_the_setting_and_may_be_tried_again(
    server: KubernetesServer, tmp_path: Path, seen: Seen
) -> None:
    server.faults.backoff_limit = 0
    wanted = asked(tmp_path, SLEEP)
    killer = threading.Thread(
        target=lambda: (
            wait_until(lambda: any("node 1: at work" in line for line in seen.lines)),
            server.controller.kill(wanted.name, 1),
        )
    )
    killer.start()
    with pytest.raises(RankLost, match=r"node 1 used more than its memory \(OOMKilled\)") as caught:
        stay(wanted, tmp_path, seen)
    killer.join()
    assert "training.launcher.memory" in str(caught.value.fix)


def test_a_job_without_a_place_waits_with_the_reason_and_begins_when_there_is_one(
    server: KubernetesServer, tmp_path: Path, seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "_EVENTS_SECONDS", 0.05)
    why = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
    server.faults.unschedulable[1] = why
    waits = f"(1 of 2 pods running; node 1 waits: Unschedulable: {why})"

    seen.on_line = lambda line: server.faults.unschedulable.clear() if line == waits else None
    stay(asked(tmp_path, f"import time; time.sleep(0.5); {DONE}"), tmp_path, seen)
    assert waits in seen.lines
    assert any(line.endswith(f"FailedScheduling: {why}") for line in seen.lines)


@pytest.mark.long
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"image": "nosuch:1"}, "ImagePullBackOff"),
        ({"secrets": {"nosuch": ("KEY",)}}, 'CreateContainerConfigError: secret "nosuch" not found'),
        ({"pvc": "nosuch"}, 'persistentvolumeclaim "nosuch" not found'),
    ],
)
def test_a_job_that_does_not_begin_in_time_is_ended_with_the_reason(
    changes: dict[str, Any], said: str, server: KubernetesServer, tmp_path: Path, seen: Seen
) -> None:
    if "image" in changes:
        server.faults.image_errors = {0: "manifest unknown", 1: "manifest unknown"}
    with pytest.raises(StageError, match="has not started within") as caught:
        stay(asked(tmp_path, DONE, **changes), tmp_path, seen, start_timeout_seconds=1)
    assert said in caught.value.message
    assert server.jobs() == {}


def test_a_job_without_pods_waits_with_the_reason_of_who_makes_them(
    server: KubernetesServer, tmp_path: Path, seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "_EVENTS_SECONDS", 0.05)
    server.faults.no_pods = "exceeded quota: team, requested: cpu=4, used: cpu=8, limited: cpu=8"
    seen.on_line = lambda line: setattr(server.faults, "no_pods", "") if line.startswith("(0 of 2 pods running;") else 0
    name = stay(asked(tmp_path, DONE), tmp_path, seen)
    said = f'FailedCreate: Error creating: pods "{name}-node-0-0-" is forbidden: exceeded quota: team'
    assert f"(0 of 2 pods running; no pod: {said}" in seen.text
    assert "EndpointSlice" not in seen.text


def test_a_program_reads_why_a_job_has_no_pods(
    server: KubernetesServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What `sft run --json` prints meanwhile."""
    monkeypatch.setattr(watch, "_EVENTS_SECONDS", 0.05)
    monkeypatch.setattr("sft.progress._PLAIN_EVERY_SECONDS", 0.0)
    server.faults.no_pods = "exceeded quota: team"
    display = EventProgress()

    def mend(line: str) -> None:
        if "FailedCreate" in line:
            server.faults.no_pods = ""
        display.update(line)

    name = stay(asked(tmp_path, DONE), tmp_path, Seen(on_line=mend))
    said = f'FailedCreate: Error creating: pods "{name}-node-0-0-" is forbidden: exceeded quota: team'
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert f"(0 of 2 pods running; no pod: {said})" in [one["text"] for one in events if one["event"] == "progress"]


@pytest.mark.long
def test_a_job_that_can_never_have_pods_is_ended_at_once(server: KubernetesServer, tmp_path: Path, seen: Seen) -> None:
    mount = "spec.template.spec.containers[0].volumeMounts[1].mountPath"
    server.faults.invalid_jobs = f'{mount}: Invalid value: "/dev/shm": must be unique'
    with pytest.raises(StageError, match=r"can't run, and was deleted\n.*JobCreationFailed.*must be unique") as caught:
        stay(asked(tmp_path, DONE), tmp_path, seen)
    assert "ClusterTrainingRuntime" in str(caught.value.fix)
    assert server.jobs() == {}


@pytest.mark.long
def test_what_the_job_before_could_not_do_does_not_end_the_next_one(
    server: KubernetesServer, tmp_path: Path, seen: Seen
) -> None:
    """Both have one name, and the events of the first are still there."""
    server.faults.invalid_jobs = 'spec.template.spec.priorityClassName: Invalid value: "nosuch"'
    with pytest.raises(StageError, match="can't run, and was deleted"):
        stay(asked(tmp_path, DONE), tmp_path, seen)
    server.faults.invalid_jobs = ""
    time.sleep(1)  # times have whole seconds
    again = Seen()
    assert stay(asked(tmp_path, DONE), tmp_path, again) in server.jobs()
    assert "JobCreationFailed" not in again.text


@pytest.mark.long
def test_what_nobody_mends_ends_the_job_without_any_timeout(
    server: KubernetesServer, tmp_path: Path, seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "_MENDED_SECONDS", 0.3)
    with pytest.raises(StageError, match='serviceaccount "nosuch" not found') as caught:
        stay(asked(tmp_path, DONE, service_account="nosuch"), tmp_path, seen)
    assert "training.launcher.service_account" in str(caught.value.fix)
    assert server.jobs() == {}


def test_a_job_that_has_no_more_time_names_the_setting(server: KubernetesServer, tmp_path: Path, seen: Seen) -> None:
    with pytest.raises(StageError, match="had no more time") as caught:
        stay(asked(tmp_path, SLEEP, deadline_seconds=1), tmp_path, seen)
    assert "training.launcher.deadline_seconds" in str(caught.value.fix)
    assert not isinstance(caught.value, RankLost)


def test_a_job_that_begins_suspended_waits_for_who_resumes_it(
    server: KubernetesServer, tmp_path: Path, seen: Seen
) -> None:
    wanted = asked(tmp_path, DONE, suspend=True)

    def resume(line: str) -> None:
        if line.startswith("(suspended"):
            server.jobs()[wanted.name].object["spec"]["suspend"] = False

    seen.on_line = resume
    stay(wanted, tmp_path, seen)
    assert "(suspended until a queue or a person resumes it)" in seen.lines


def test_the_manifests_service_account_gives_the_pods_no_token(
    server: KubernetesServer, tmp_path: Path, seen: Seen
) -> None:
    tokens = {}
    for account in ("sft-ranks", None):
        name = stay(asked(tmp_path, DONE, service_account=account, key=str(account)), tmp_path, seen)
        [container] = server.jobs()[name].pods[0].object["spec"]["containers"]
        tokens[account] = any("serviceaccount" in mount["mountPath"] for mount in container["volumeMounts"])
    assert tokens == {"sft-ranks": False, None: True}


def test_a_suspended_job_waits_for_its_queue(server: KubernetesServer, tmp_path: Path, seen: Seen) -> None:
    server.faults.suspended = True

    def resume(line: str) -> None:
        if line.startswith("(suspended"):
            server.faults.suspended = False

    seen.on_line = resume
    stay(asked(tmp_path, DONE), tmp_path, seen)
    assert "(suspended until a queue or a person resumes it)" in seen.lines


@pytest.mark.long
def test_a_token_that_expires_leaves_the_job_and_a_new_one_goes_on_with_it(
    server: KubernetesServer, tmp_path: Path, seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = asked(tmp_path, f"import time; print('at work', flush=True); time.sleep(3); {DONE}")
    seen.on_line = lambda line: setattr(server, "token", "canary-new-token") if "at work" in line else None
    with pytest.raises(StageError, match=r"token \(HTTP 401\); it may have expired; TrainJob .* trains on") as caught:
        stay(wanted, tmp_path, seen)
    assert "then repeat the command" in str(caught.value.fix)
    assert "canary" not in str(caught.value)
    monkeypatch.setenv("KUBERNETES_AUTH_TOKEN", server.token)
    seen.on_line = lambda _: None
    name = stay(wanted, tmp_path, seen)
    assert f"  resumes TrainJob {name} in namespace sft" in seen.lines
    assert len(server.created) == 1


def test_a_server_that_fails_now_and_then_is_asked_again(server: KubernetesServer, tmp_path: Path, seen: Seen) -> None:
    server.fail("list", "trainjobs", 503, DROP)
    server.fail("create", "trainjobs", 500)
    server.fail("list", "pods", DROP, 429)
    server.fail("get", "pods/log", 500)
    stay(asked(tmp_path, DONE), tmp_path, seen)
    assert seen.text.count("asking again") >= 5
    assert len(server.created) == 1


def test_a_machine_that_is_lost_with_its_logs_holds_nothing_up(
    server: KubernetesServer, tmp_path: Path, seen: Seen
) -> None:
    server.faults.silent_kubelets = {1}
    wanted = asked(tmp_path, f"import time; print('at work', flush=True); time.sleep(2); {DONE}")
    began = time.monotonic()
    stay(wanted, tmp_path, seen)
    assert time.monotonic() - began < 60
    assert "  node 0: at work" in seen.lines
    [line] = [line for line in seen.lines if "log can't be read" in line]
    assert line.startswith("  node 1: its log can't be read now: ")
    assert "10250" in line
    assert "asking again" not in seen.text


def test_what_a_log_could_not_tell_is_told_later(
    server: KubernetesServer, tmp_path: Path, seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "_UNREAD_SECONDS", 0.1)
    server.faults.silent_kubelets = {1}
    seen.on_line = lambda line: server.faults.silent_kubelets.clear() if "log can't be read" in line else None
    stay(asked(tmp_path, f"import time; print('at work', flush=True); time.sleep(2); {DONE}"), tmp_path, seen)
    assert seen.lines.count("  node 1: at work") == 1


def test_a_created_job_whose_answer_was_lost_is_not_made_twice(
    server: KubernetesServer, tmp_path: Path, seen: Seen
) -> None:
    server.fail("create", "trainjobs", LOSE)
    stay(asked(tmp_path, DONE), tmp_path, seen)
    assert len(server.created) == len(server.jobs()) == 1


def test_a_job_of_that_name_that_is_anothers_is_left_alone(
    server: KubernetesServer, tmp_path: Path, seen: Seen
) -> None:
    wanted = asked(tmp_path, SLEEP)
    there, name = begin(wanted, tmp_path, seen)
    del server.jobs()[name].object["metadata"]["labels"]["sft/key"]
    with pytest.raises(StageError, match="of another run"):
        begin(wanted, tmp_path, seen)
    assert list(server.jobs()) == [name]
    there.delete(name)


def test_a_job_that_somebody_deletes_is_said(server: KubernetesServer, tmp_path: Path, seen: Seen) -> None:
    wanted = asked(tmp_path, SLEEP)
    seen.on_line = lambda line: server.controller.delete(wanted.name) if "node 0: at work" in line else None
    with pytest.raises(StageError, match="was deleted by somebody else"):
        stay(wanted, tmp_path, seen)


def test_a_failed_job_is_taken_away_before_its_like_begins(
    server: KubernetesServer, tmp_path: Path, seen: Seen
) -> None:
    server.faults.backoff_limit = 0
    with pytest.raises(StageError, match="ended with status 3"):
        stay(asked(tmp_path, "raise SystemExit(3)"), tmp_path, seen)
    stay(asked(tmp_path, DONE), tmp_path, seen)
    assert len(server.created) == 2
    assert len(server.jobs()) == 1


def test_a_signal_to_this_process_leaves_the_job(server: KubernetesServer, tmp_path: Path, seen: Seen) -> None:
    def told(line: str) -> None:
        if "at work" in line:
            raise Preempted("SIGTERM: stopped")  # as the command line's handler does

    seen.on_line = told
    wanted = asked(tmp_path, SLEEP)
    with pytest.raises(Preempted, match=r"SIGTERM: stopped; TrainJob .* trains on"):
        stay(wanted, tmp_path, seen)
    assert list(server.jobs()) == [wanted.name]


# Ctrl-C may come while a connection is made, which nobody closes then but the collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_ctrl_c_asks_and_a_second_one_deletes_the_job(server: KubernetesServer, tmp_path: Path, seen: Seen) -> None:
    def press() -> None:
        for told in ("at work", "Ctrl-C again"):
            wait_until(lambda told=told: told in seen.text)  # type: ignore[misc]
            os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        stay(asked(tmp_path, SLEEP), tmp_path, seen)
    thread.join()
    assert server.jobs() == {}
    gc.collect()


def test_a_new_job_begins_only_when_no_pod_of_the_old_one_writes(
    server: KubernetesServer, tmp_path: Path, seen: Seen
) -> None:
    lingering = (
        "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: (time.sleep(1), sys.exit(3)));"
        "print('at work', flush=True); time.sleep(60)"
    )
    wanted = asked(tmp_path, lingering)
    there, name = begin(wanted, tmp_path, seen)
    [one] = server.jobs().values()
    wait_until(lambda: len(one.pods) == 2 and all(pod.process for pod in one.pods))
    time.sleep(0.3)
    processes = [pod.process for pod in one.pods]
    job.delete(there, wanted, name, seen.display())
    assert all(process and process.poll() is not None for process in processes)
    assert server.jobs() == {}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"runtime": "nosuch"}, "specified ClusterTrainingRuntime must be created before the TrainJob"),
        ({"env": {"PET_NNODES": "3"}}, "must not have reserved envs"),
        ({"namespace": "elsewhere"}, "the namespace of the provided object"),
    ],
)
def test_what_the_cluster_would_refuse_is_known_before_anything_runs(
    changes: dict[str, Any], said: str, server: KubernetesServer, tmp_path: Path, seen: Seen
) -> None:
    with pytest.raises(StageError, match=said):
        job.check_access(connect(ACCESS, seen.lines.append), asked(tmp_path, DONE, **changes), seen.lines.append)
    assert server.created == []


def test_asking_whether_it_would_be_taken_makes_no_job(server: KubernetesServer, tmp_path: Path, seen: Seen) -> None:
    job.check_access(connect(ACCESS, seen.lines.append), asked(tmp_path, DONE), seen.lines.append)
    assert server.created == []
    assert server.jobs() == {}


def test_an_older_trainer_is_named(tmp_path: Path, seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    without = frozenset({"runtimePatches"})
    with KubernetesServer(contracts(), ROLE, volumes={}, home=tmp_path, without=without) as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(StageError, match=r"has no spec\.runtimePatches: its Kubeflow Trainer is too old") as caught:
            job.check_access(connect(ACCESS, seen.lines.append), asked(tmp_path, DONE), seen.lines.append)
    assert caught.value.fix == "install Kubeflow Trainer 2.2 or later"
    assert server.violations == []


def with_role(monkeypatch: pytest.MonkeyPatch, folder: Path, *changes: tuple[str, str]) -> KubernetesServer:
    """A cluster whose token has a changed role, and the environment that names it."""
    text = ROLE.read_text()
    for before, after in changes:
        assert before in text
        text = text.replace(before, after)
    (folder / "role.yaml").write_text(text)
    server = KubernetesServer(contracts(), folder / "role.yaml", volumes={"sft-workspace": folder}, home=folder)
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return server


def test_rights_that_are_missing_are_named_all_at_once_with_the_manifest_that_gives_them(
    tmp_path: Path, seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        with_role(monkeypatch, tmp_path, ("[create, list, delete]", "[list]")),
        pytest.raises(StageError) as caught,
    ):
        job.check_access(connect(ACCESS, seen.lines.append), asked(tmp_path, DONE), seen.lines.append)
    trainjobs = "trainjobs.trainer.kubeflow.org"
    assert caught.value.message == f"not allowed in namespace sft: create {trainjobs}, delete {trainjobs}"
    assert "deploy/base/rbac.yaml" in str(caught.value.fix)


def test_without_the_rights_that_serve_people_the_training_runs_and_says_what_it_can_not_show(
    tmp_path: Path, seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "POLL_SECONDS", 0.05)
    monkeypatch.setattr("sft.adapters.kubeflow.watch.POLL_SECONDS", 0.05)
    changes = (("[pods, events]", "[pods]"), ("pods/log", "nothing"), ("[jobsets]", "[nothing]"))
    with with_role(monkeypatch, tmp_path, *changes) as server:
        there = connect(ACCESS, seen.lines.append)
        job.check_access(there, asked(tmp_path, DONE), seen.lines.append)
        [told] = seen.lines
        assert "get jobsets.jobset.x-k8s.io, list events, get pods/log; the training goes without" in told
        stay(asked(tmp_path, DONE), tmp_path, seen)
        with pytest.raises(StageError, match="status 1"):
            stay(asked(tmp_path, "raise SystemExit(1)", key="f" * 20), tmp_path, seen)
        assert len(server.jobs()) == 1


@pytest.mark.long
@pytest.mark.parametrize(
    "message",
    [
        'admission webhook "v.example" denied the request: no such runtime',
        'trainjobs.trainer.kubeflow.org "a" is forbidden: exceeded quota: team, requested: count/trainjobs=1',
        'trainjobs.trainer.kubeflow.org "a" is forbidden: ValidatingAdmissionPolicy "p" with binding "b" denied '
        "request: no",
        'trainjobs.trainer.kubeflow.org "a" is forbidden: unable to create new content in namespace sft because it is '
        "being terminated",
    ],
)
def test_what_admission_refuses_is_no_missing_right(
    message: str, server: KubernetesServer, tmp_path: Path, seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusal = {"kind": "Status", "status": "Failure", "reason": "Forbidden", "message": message, "code": 403}
    monkeypatch.setattr(server, "_create", lambda *_: (403, refusal))
    with pytest.raises(StageError, match="the cluster refuses the TrainJob") as caught:
        job.check_access(connect(ACCESS, seen.lines.append), asked(tmp_path, DONE), seen.lines.append)
    assert message in caught.value.message
    assert caught.value.fix is None


def test_the_same_training_for_another_run_root_or_volume_is_a_job_of_its_own(
    server: KubernetesServer, tmp_path: Path, seen: Seen
) -> None:
    mine = asked(tmp_path, SLEEP)
    theirs = replace(mine, folder=str(tmp_path / "theirs"))
    there, my_name = begin(mine, tmp_path, seen)
    _, their_name = begin(theirs, tmp_path, seen)
    assert my_name != their_name
    assert len({my_name, their_name, replace(mine, pvc="other").name}) == 3
    job.delete(there, theirs, their_name, seen.display())
    assert list(server.jobs()) == [my_name]
    assert begin(mine, tmp_path, seen)[1] == my_name
    job.delete(there, mine, my_name, seen.display())


def test_a_deletion_that_does_not_end_is_said_with_what_is_left(
    server: KubernetesServer, tmp_path: Path, seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "_DELETION_SECONDS", 0.5)
    wanted = asked(tmp_path, SLEEP)
    there, name = begin(wanted, tmp_path, seen)
    wait_until(lambda: len(server.jobs()[name].pods) == 2)
    # As Trainer 2.3 does with a job that is deleted after its pods: these come again as often as they are taken.
    delete = server.controller.delete
    monkeypatch.setattr(server.controller, "delete", lambda name, **_: delete(name, in_foreground=True))
    with pytest.raises(StageError, match=f"TrainJob {name} was deleted .* there is still the TrainJob") as caught:
        job.delete(there, wanted, name, seen.display())
    assert f"kubectl describe trainjob,jobset {name} -n sft" in str(caught.value.fix)
    wait_until(lambda: len(server.jobs()[name].pods) == 2)
    monkeypatch.setattr(job, "_DELETION_SECONDS", 60.0)
    delete(name)
    job.delete(there, wanted, name, seen.display())
    assert server.jobs() == {}


def test_a_wrong_token_is_said_without_the_token(
    server: KubernetesServer, tmp_path: Path, seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBERNETES_AUTH_TOKEN", "canary-wrong-token")
    with pytest.raises(TokenRefused) as caught:
        job.check_access(connect(ACCESS, seen.lines.append), asked(tmp_path, DONE), seen.lines.append)
    assert "canary" not in str(caught.value)


def test_a_server_that_is_away_is_named(tmp_path: Path, seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "_CHECK_RETRY", RetryPolicy(max_seconds=0.0))
    monkeypatch.setenv("KUBERNETES_SERVER_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("KUBERNETES_AUTH_TOKEN", "canary-cluster-token")
    with pytest.raises(StageError, match=r"http://127\.0\.0\.1:9 can't be reached"):
        job.check_access(connect(ACCESS, seen.lines.append), asked(tmp_path, DONE), seen.lines.append)


def test_a_certificate_must_be_trusted_unless_a_person_says_otherwise(
    tmp_path: Path, seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    make += ["-addext", "subjectAltName=IP:127.0.0.1", "-out", str(certificate), "-keyout", str(key)]
    subprocess.run(make, check=True, capture_output=True)
    wanted = asked(tmp_path, DONE)
    with KubernetesServer(contracts(), ROLE, volumes={}, home=tmp_path, certificate=(certificate, key)) as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(job, "_CHECK_RETRY", RetryPolicy(max_seconds=0.0))
        with pytest.raises(StageError, match="certificate") as caught:
            job.check_access(connect(ACCESS, seen.lines.append), wanted, seen.lines.append)
        assert "training.launcher.ca" in str(caught.value.fix)
        job.check_access(connect(replace(ACCESS, ca=str(certificate)), seen.lines.append), wanted, seen.lines.append)
        assert seen.lines == []
        job.check_access(connect(replace(ACCESS, verify_tls=False), seen.lines.append), wanted, seen.lines.append)
        assert "whoever answers as" in seen.text


def kubeconfig(server: KubernetesServer, folder: Path) -> Path:
    file = folder / "kubeconfig"
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "it", "user": "me", "namespace": "sft"}}],
        "clusters": [{"name": "it", "cluster": {"server": server.url}}],
        "users": [{"name": "me", "user": {"token": server.token}}],
    }
    file.write_text(yaml.safe_dump(content))
    return file


def test_a_kubeconfig_says_server_token_and_namespace(
    server: KubernetesServer, tmp_path: Path, seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in server.environment:
        monkeypatch.delenv(name)
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig(server, tmp_path)))
    there = connect(replace(ACCESS, namespace=None), seen.lines.append)
    assert there.namespace == "sft"
    job.check_access(there, asked(tmp_path, DONE), seen.lines.append)


def test_a_pod_finds_its_own_cluster_and_namespace(
    server: KubernetesServer, tmp_path: Path, seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in server.environment:
        monkeypatch.delenv(name)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "nosuch"))
    account = tmp_path / "account"
    account.mkdir()
    (account / "token").write_text(server.token)
    (account / "namespace").write_text("sft\n")
    monkeypatch.setattr(access, "_POD", account)
    loaded = lambda client_configuration: setattr(client_configuration, "host", server.url)  # noqa: E731
    monkeypatch.setattr("kubernetes.config.load_incluster_config", loaded)  # it reads /var/run alone
    assert connect(replace(ACCESS, namespace=None), seen.lines.append).namespace == "sft"


@pytest.mark.parametrize("package", ["kubernetes", "kubeflow_trainer_api"])
def test_a_client_that_is_not_installed_is_told_with_its_command(
    package: str, server: KubernetesServer, tmp_path: Path, seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SftError, match=package) as caught:
        job.check_access(connect(ACCESS, seen.lines.append), asked(tmp_path, DONE), seen.lines.append)
    assert caught.value.fix == "pip install 'sft-runner[kubeflow]'"


def test_half_an_environment_and_none_at_all_are_refused(
    tmp_path: Path, seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "nosuch"))
    monkeypatch.delenv("KUBERNETES_AUTH_TOKEN", raising=False)
    monkeypatch.delenv("KUBERNETES_SERVER_URL", raising=False)
    with pytest.raises(ConfigError, match="no cluster is named"):
        connect(ACCESS, seen.lines.append)
    monkeypatch.setenv("KUBERNETES_SERVER_URL", "https://cluster.example")
    with pytest.raises(ConfigError, match="KUBERNETES_AUTH_TOKEN: must be set, too"):
        connect(ACCESS, seen.lines.append)
    monkeypatch.setenv("KUBERNETES_AUTH_TOKEN", "canary")
    with pytest.raises(ConfigError, match="must be set if neither"):
        connect(replace(ACCESS, namespace=None), seen.lines.append)


def pods_settings(folder: Path) -> list[str]:
    """What the quickstart needs to train in pods, of which a folder is the volume."""
    launcher = ["gpus_per_worker=0", "procs_per_worker=1", "namespace=sft", f"mount_path={folder}"]
    return ["training/launcher=kubeflow", *(f"training.launcher.{setting}" for setting in launcher)]


@pytest.mark.long
def test_a_run_asks_the_cluster_before_it_does_anything(server: KubernetesServer, tmp_path: Path) -> None:
    answer = sft("run", "quickstart", *pods_settings(tmp_path), "training.launcher.runtime=nosuch", cwd=tmp_path)
    assert answer.status == 1
    assert "ClusterTrainingRuntime must be created" in answer.err
    assert "Traceback" not in answer.err
    assert list((tmp_path / "runs" / "store").glob("[!.]*")) == []


@pytest.mark.long
def test_a_part_of_a_run_that_does_not_train_needs_no_cluster(tmp_path: Path) -> None:
    settings = [*pods_settings(tmp_path), "dataset.max_samples=100"]
    away = {"KUBECONFIG": str(tmp_path / "nosuch"), "KUBERNETES_SERVER_URL": "", "KUBERNETES_AUTH_TOKEN": ""}
    answer = sft("run", "quickstart", "--until", "dataset", *settings, cwd=tmp_path, **away)
    assert answer.status == 0, answer.err
    early = sft("export", "trainjob", "quickstart", *settings, cwd=tmp_path, **away)
    assert early.status == 1
    assert "the pods take what model and tokenize will make, which is not done yet" in early.err
    assert "--until tokenize" in early.err


@pytest.mark.long
def test_attach_and_detach_are_for_runs_that_a_cluster_trains(tmp_path: Path) -> None:
    answer = sft("run", "quickstart", "--detach", cwd=tmp_path)
    assert answer.status == 2
    assert "--detach: is for a run that a cluster trains; add training/launcher=kubeflow" in answer.err
    there = ["training/launcher=kubeflow", "training.launcher.procs_per_worker=1"]
    early = sft("run", "quickstart", "--detach", "--until=dataset", *there, cwd=tmp_path)
    assert "--detach: is for a run that a cluster trains, and --until=dataset ends before that" in early.err
    swept = sft("run", "quickstart", "--detach", "-m", "training.seed=1,2", cwd=tmp_path)
    assert "--detach: is for one run" in swept.err
    here = ["run", "quickstart", "--until", "dataset", "dataset.max_samples=100"]
    assert sft(*here, cwd=tmp_path).status == 0
    [folder] = tmp_path.glob("runs/quickstart-*")
    attached = sft("attach", str(folder), cwd=tmp_path)
    assert attached.status == 2
    assert "trains with torchrun, where it was begun: its own command goes on with it" in attached.err
    assert sft("export", "trainjob", "quickstart", cwd=tmp_path).status == 2
