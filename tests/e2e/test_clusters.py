"""What holds between sft and a cluster, with pods that run a line of Python: on the stand-in, and on a real one.

More of it, by faults that only the stand-in has, is in `tests/integration/test_trainjob.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("kubernetes")
from sft.adapters.kubeflow import job, watch
from sft.adapters.kubeflow.access import connect
from sft.errors import StageError
from tests.servers.kubernetes.jobs import JobRun
from tests.servers.kubernetes.server import wait_until
from tests.support.cluster import ON_EVERY_CLUSTER, Site, site
from tests.support.command import sft
from tests.support.trainjobs import SLEEP, Seen, begin, stay

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
DOCS = (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
RANKS = ROOT / "deploy" / "trainjob" / "serviceaccount.yaml"
WITHOUT_VIEW = (("[pods, events]", "[pods]"), ("pods/log", "nothing"), ("[jobsets]", "[nothing]"))


@pytest.fixture(params=ON_EVERY_CLUSTER)
def there(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    with site(request.param, tmp_path) as one:
        reach(one.environment, monkeypatch)
        before = set(one.jobs())
        yield one
        for name in set(one.jobs()) - before:
            one.delete(name)


@pytest.fixture
def seen() -> Seen:
    return Seen()


def reach(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


def done(there: Site) -> str:
    """A script that does what a training does at its end."""
    return f"import pathlib; pathlib.Path({str(there.root / 'finished.json')!r}).write_text('{{}}')"


def test_the_same_training_in_two_places_is_two_jobs_and_neither_takes_the_other_away(there: Site, seen: Seen) -> None:
    mine = there.asked(SLEEP)
    theirs = replace(mine, folder=str(there.root / "theirs"))
    cluster, my_name = begin(mine, there.root, seen, there.access)
    _, their_name = begin(theirs, there.root, seen, there.access)
    assert my_name != their_name
    job.delete(cluster, theirs, their_name, seen.display())
    assert {my_name, their_name} & set(there.jobs()) == {my_name}
    assert begin(mine, there.root, seen, there.access)[1] == my_name
    assert f"resumes TrainJob {my_name}" in seen.text


def test_a_job_that_is_deleted_is_gone_with_its_pods_and_its_name_is_free(there: Site, seen: Seen) -> None:
    wanted = there.asked(SLEEP)
    cluster, name = begin(wanted, there.root, seen, there.access)
    wait_until(lambda: len(cluster.pods(name)) == 2, 300)
    job.delete(cluster, wanted, name, seen.display())
    assert cluster.pods(name) == []
    assert name not in there.jobs()
    assert begin(wanted, there.root, seen, there.access)[1] == name


def test_rights_that_are_missing_are_known_before_anything_runs_and_all_at_once(
    there: Site, seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    with there.with_role(("[create, list, delete]", "[list]")) as (environment, access):
        reach(environment, monkeypatch)
        with pytest.raises(StageError, match=r"create trainjobs\S+, delete trainjobs") as caught:
            job.check_access(connect(access, seen.lines.append), there.asked(SLEEP), seen.lines.append)
    assert "deploy/base/rbac.yaml" in str(caught.value.fix)


def test_without_the_rights_that_serve_people_a_job_runs_and_what_is_not_shown_is_said(
    there: Site, seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    with there.with_role(*WITHOUT_VIEW) as (environment, access):
        reach(environment, monkeypatch)
        wanted = there.asked(done(there))
        job.check_access(connect(access, seen.lines.append), wanted, seen.lines.append)
        assert "get jobsets.jobset.x-k8s.io, list events, get pods/log; the training goes without" in seen.text
        stay(wanted, there.root, seen, access=access)


def test_a_runtime_that_is_not_there_is_no_missing_right(there: Site, seen: Seen) -> None:
    with pytest.raises(StageError, match=r"admission webhook .* denied the request") as caught:
        job.check_access(
            connect(there.access, seen.lines.append), there.asked(SLEEP, runtime="nosuch"), seen.lines.append
        )
    assert "rbac.yaml" not in str(caught.value.fix)


@pytest.mark.long
def test_what_nobody_mends_ends_the_job_with_the_controllers_own_words(
    there: Site, seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "_MENDED_SECONDS", 2.0)
    with pytest.raises(StageError, match=r'serviceaccount "nosuch" not found') as caught:
        stay(there.asked(SLEEP, service_account="nosuch"), there.root, seen, access=there.access)
    assert "training.launcher.service_account" in str(caught.value.fix)
    assert "no pod: " in seen.text


def test_an_image_that_is_not_there_ends_the_job_with_its_name(
    there: Site, seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "_MENDED_SECONDS", 2.0)
    image = "nosuch.invalid/sft:1"
    if there.server is not None:
        there.server.faults.image_errors = dict.fromkeys((0, 1), f'Back-off pulling image "{image}"')
    with pytest.raises(StageError, match="nosuch") as caught:
        stay(there.asked(SLEEP, image=image), there.root, seen, access=there.access)
    assert "training.launcher.image" in str(caught.value.fix)


@pytest.mark.exhaustive
def test_a_deleted_pod_of_a_job_counts_as_no_failure_and_the_next_one_goes_on(there: Site) -> None:
    """Point 17: SIGTERM ends a stage that isn't the training with 75, which the Job's failure policy ignores."""
    small = ["dataset.uri=synthetic://spell-numbers?rows=300&seed=3", "training.num_epochs=1", "eval.tasks=[]"]
    small.append("eval.holdout.generate=false")
    with there.job("quickstart", *small, f"run_root={there.on_a_jobs_volume}/runs", "registry=none") as job:
        wait_until(lambda: job.look() or "evaluate:base" in job.log(), 300)
        assert job.look() == "", job.log()
        job.delete_pod()
        wait_until(job.look, 600)
        assert job.look() == "Complete", job.log()
        assert job.num_failed == 0
        if isinstance(job, JobRun):
            assert job.statuses == [75, 0]
        assert "tokenize: done before" in job.log(), job.log()


@pytest.mark.exhaustive
def test_the_docs_first_job_ends_with_a_registered_model(there: Site) -> None:
    """`docs/kubernetes.md`, "One run as a Job": its recipe as it is, made small by overrides behind the options."""
    [(recipe, options)] = re.findall(r"^sft export job (deploy/base/\S+) (.*?) \| kubectl apply", DOCS, re.MULTILINE)
    assert options == "--image $IMAGE"
    small = ["dataset.uri=synthetic://spell-numbers?rows=300&seed=4", "training.num_epochs=1"]
    small += ["eval.holdout.generate=false", f"run_root={there.on_a_jobs_volume}/runs"]
    with there.job(str(ROOT / recipe), *small) as job:
        wait_until(job.look, 600)
        assert job.look() == "Complete", job.log()
        assert re.search(r"registered +sft-model version 1 in ", job.log()), job.log()
    models = sft("models", f"run_root={there.root}/runs", cwd=there.root)
    assert models.out.startswith("sft-model 1 "), models.err


def test_the_manifests_service_account_gives_the_pods_no_token(there: Site, seen: Seen) -> None:
    cluster = connect(there.access, seen.lines.append)
    tokens = {}
    with there.service_account(RANKS) as ranks:
        for key, account in (("1" * 20, ranks), ("2" * 20, None)):
            _, name = begin(there.asked(SLEEP, service_account=account, key=key), there.root, seen, there.access)
            wait_until(lambda name=name: len(cluster.pods(name)) == 2, 300)
            [container] = cluster.pods(name)[0]["spec"]["containers"]
            tokens[account] = any("serviceaccount" in mount["mountPath"] for mount in container["volumeMounts"])
    assert tokens == {"sft-ranks": False, None: True}
