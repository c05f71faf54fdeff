"""Downloads from a real server that breaks off, stalls, lies and refuses."""

from __future__ import annotations

import base64
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sft.adapters import http
from sft.adapters.http import Patience
from sft.adapters.retry import RetryPolicy
from sft.errors import DataError
from tests.servers.http import Resource, serving
from tests.support.command import records, sft, steps

CONTENT = random.Random(0).randbytes(1_000_000)
QUICK = Patience(connect_seconds=2, stall_seconds=0.3, retry=RetryPolicy(max_attempts=3, first_wait_seconds=0.01))


def fetch(resource: Resource, folder: Path, *, max_bytes: int | None = None) -> bytes:
    with serving({"/data.jsonl": resource}) as address:
        target = folder / "data.jsonl"
        http.download(f"{address}/data.jsonl", target, max_bytes=max_bytes, progress=lambda *_: None, patience=QUICK)
    assert sorted(path.name for path in folder.iterdir()) == ["data.jsonl"]
    return target.read_bytes()


def refused(resource: Resource, folder: Path, *, max_bytes: int | None = None) -> str:
    with pytest.raises(DataError) as caught:
        fetch(resource, folder, max_bytes=max_bytes)
    assert not (folder / "data.jsonl").exists()
    return str(caught.value)


def certificate_of_this_machine(folder: Path) -> tuple[Path, Path]:
    """Return the files of a new certificate and its key."""
    certificate, key = folder / "cert.pem", folder / "key.pem"
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    make += ["-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*make, "-out", str(certificate), "-keyout", str(key)], check=True, capture_output=True)
    return certificate, key


def test_a_connection_that_breaks_off_goes_on_and_sends_no_byte_twice(tmp_path: Path) -> None:
    resource = Resource(CONTENT, break_after=300_000, break_times=2)
    assert fetch(resource, tmp_path) == CONTENT
    assert resource.sent == [(0, 300_000), (300_000, 600_000), (600_000, 1_000_000)]


def test_a_part_that_was_not_asked_for_is_not_taken(tmp_path: Path) -> None:
    resource = Resource(CONTENT, break_after=300_000, break_times=1, wrong_parts=1)
    assert fetch(resource, tmp_path) == CONTENT
    assert resource.sent[-1] == (0, 1_000_000)


def test_a_token_in_an_address_logs_in_and_goes_no_further_than_its_host(tmp_path: Path) -> None:
    with serving({"/data.jsonl": (end := Resource(CONTENT))}) as elsewhere:
        begin = Resource(redirect=f"{elsewhere}/data.jsonl")
        with serving({"/data.jsonl": begin}) as address:
            url = address.replace("://", "://canary%2F1@") + "/data.jsonl"
            http.download(url, tmp_path / "data.jsonl", max_bytes=None, progress=lambda *_: None, patience=QUICK)
    assert begin.headers[0]["authorization"] == "Basic " + base64.b64encode(b"canary/1:").decode()
    assert "authorization" not in end.headers[0]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 451])
def test_a_hopeless_answer_is_not_asked_for_again(status: int, tmp_path: Path) -> None:
    resource = Resource(CONTENT, statuses=[status] * 9)
    said = refused(resource, tmp_path)
    assert str(status) in said
    assert "try: check dataset.uri" in said
    assert resource.num_requests == 1


@pytest.mark.parametrize(
    "claimed",
    [
        "bytes 300000-999999/2000000",  # of a longer file: the rest of it would be missing
        "bytes 300000-399999/1000000",  # less than comes
        "bytes 0-999999/1000000",
        "bytes 300000-x/1000000",
        "bytes \xb2-999999/1000000",
        "items 300000-999999/1000000",
        "bytes " + "9" * 5000 + "-999999/1000000",
    ],
)
def test_a_part_of_another_file_or_length_is_not_taken(claimed: str, tmp_path: Path) -> None:
    resource = Resource(CONTENT, break_after=300_000, content_range=claimed)
    assert fetch(resource, tmp_path) == CONTENT
    assert resource.sent[-1] == (0, 1_000_000)


def test_no_answer_makes_a_download_wait_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("tenacity.nap.time.sleep", pauses.append)
    for asked in ("1000000000", "9" * 5000, "Fri, 31 Dec 2099 23:59:59 GMT"):
        assert fetch(Resource(CONTENT, statuses=[503], retry_after=asked), tmp_path) == CONTENT
        (tmp_path / "data.jsonl").unlink()
    assert pauses == [60.0, 60.0, 60.0]
    for asked in ("-5", "nan", "\xb2", "soon", "Thu, 01 Jan 1970 00:00:00 GMT", "Thu, 99 Jan 1970"):
        assert fetch(Resource(CONTENT, statuses=[429], retry_after=asked), tmp_path) == CONTENT
        (tmp_path / "data.jsonl").unlink()
    assert all(pause < 1 for pause in pauses[3:])


@pytest.mark.parametrize(
    ("place", "said"),
    [("ftp://127.0.0.1/x", "to ftp"), ("file:///etc/passwd", "to file"), ("http://[x", "not an address")],
)
def test_a_redirect_to_what_is_not_http_is_refused_at_once(place: str, said: str, tmp_path: Path) -> None:
    resource = Resource(redirect=place)
    assert said in refused(resource, tmp_path)
    assert resource.num_requests == 1


def test_https_does_not_lead_to_http(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate = certificate_of_this_machine(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    target = tmp_path / "data.jsonl"
    with (
        serving({"/data.jsonl": (plain := Resource(CONTENT))}) as elsewhere,
        serving({"/data.jsonl": Resource(redirect=f"{elsewhere}/data.jsonl")}, certificate) as address,
        pytest.raises(DataError, match="redirects from https to http"),
    ):
        http.download(f"{address}/data.jsonl", target, max_bytes=None, progress=lambda *_: None, patience=QUICK)
    assert plain.num_requests == 0


def test_one_that_always_breaks_off_but_gets_on_is_fetched(tmp_path: Path) -> None:
    resource = Resource(CONTENT, break_after=90_000, break_times=99)
    assert fetch(resource, tmp_path) == CONTENT


def test_one_that_gets_nowhere_is_given_up_and_its_part_kept(tmp_path: Path) -> None:
    said = refused(Resource(CONTENT, break_after=0, break_times=99), tmp_path)
    assert "broke off" in said
    assert "3 times in a row" in said
    assert "resumes where it stopped" in said


def test_a_server_that_stalls_is_asked_again(tmp_path: Path) -> None:
    resource = Resource(CONTENT, stall_after=400_000)
    assert fetch(resource, tmp_path) == CONTENT
    assert resource.sent == [(0, 400_000), (400_000, 1_000_000)]


def test_an_object_that_changes_in_between_is_fetched_anew(tmp_path: Path) -> None:
    other = CONTENT[::-1]
    resource = Resource(CONTENT, break_after=300_000, then=other)
    assert fetch(resource, tmp_path) == other
    assert resource.sent == [(0, 300_000), (0, 1_000_000)]


def test_a_server_without_ranges_or_tags_is_fetched_anew(tmp_path: Path) -> None:
    for resource in (Resource(CONTENT, break_after=9, ranges=False), Resource(CONTENT, break_after=9, tagged=False)):
        assert fetch(resource, tmp_path) == CONTENT
        assert resource.sent == [(0, 9), (0, 1_000_000)]
        (tmp_path / "data.jsonl").unlink()


@pytest.mark.parametrize("damaged", ["x.part", "x.part.json"])
def test_a_torn_part_or_note_of_an_earlier_download_heals(damaged: str, tmp_path: Path) -> None:
    resource = Resource(CONTENT, break_after=300_000, break_times=99)
    with serving({"/x": resource}) as address:
        arguments = {"max_bytes": None, "patience": QUICK}

        def stop(arrived: int, _: int | None) -> None:
            if arrived >= 300_000:
                raise OSError("killed")

        with pytest.raises(OSError, match="killed"):
            http.download(f"{address}/x", tmp_path / "x", progress=stop, **arguments)
        (tmp_path / damaged).write_bytes(b"")
        http.download(f"{address}/x", tmp_path / "x", progress=lambda *_: None, **arguments)
    assert (tmp_path / "x").read_bytes() == CONTENT
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x"]


@pytest.mark.parametrize("statuses", [[500], [503, 502], [429]])
def test_an_answer_that_may_pass_is_asked_for_again(statuses: list[int], tmp_path: Path) -> None:
    assert fetch(Resource(CONTENT, statuses=list(statuses)), tmp_path) == CONTENT


def test_a_server_that_says_when_is_waited_for(tmp_path: Path) -> None:
    began = time.monotonic()
    assert fetch(Resource(CONTENT, statuses=[429], retry_after="1"), tmp_path) == CONTENT
    assert time.monotonic() - began >= 1


@pytest.mark.parametrize(
    ("status", "said"), [(401, "login"), (403, "refuses access"), (404, "no such file"), (410, "no longer")]
)
def test_a_refusal_is_said_at_once(status: int, said: str, tmp_path: Path) -> None:
    resource = Resource(CONTENT, statuses=[status])
    assert said in refused(resource, tmp_path)
    assert resource.num_requests == 1


def test_a_server_that_goes_on_failing_is_given_up(tmp_path: Path) -> None:
    assert "answers 500, 3 times in a row" in refused(Resource(CONTENT, statuses=[500] * 9), tmp_path)


def test_a_web_page_is_not_data(tmp_path: Path) -> None:
    assert "sends a web page" in refused(Resource(b"<html>login</html>", content_type="text/html"), tmp_path)


def test_less_than_was_promised_is_not_taken_for_all(tmp_path: Path) -> None:
    said = refused(Resource(b"short", claimed_length=100), tmp_path)
    assert "times in a row" in said


def test_more_than_is_allowed_is_refused_before_it_is_fetched(tmp_path: Path) -> None:
    resource = Resource(CONTENT)
    assert "dataset.max_download_bytes=1000" in refused(resource, tmp_path, max_bytes=1000)


def test_redirects_that_go_round_are_given_up(tmp_path: Path) -> None:
    assert "more than 5 redirects" in refused(Resource(redirect="/data.jsonl"), tmp_path)


def test_a_login_in_the_address_is_sent_and_never_shown(tmp_path: Path) -> None:
    resource = Resource(CONTENT, statuses=[403])
    with serving({"/data.jsonl": resource}) as address:
        url = address.replace("://", "://ada:hush-hush@") + "/data.jsonl"
        with pytest.raises(DataError) as caught:
            http.download(url, tmp_path / "x", max_bytes=None, progress=lambda *_: None, patience=QUICK)
    assert resource.headers[0]["authorization"] == "Basic YWRhOmh1c2gtaHVzaA=="
    assert "hush-hush" not in str(caught.value)


def test_a_certificate_that_does_not_verify_is_an_error(tmp_path: Path) -> None:
    certificate = certificate_of_this_machine(tmp_path)
    with serving({"/x": Resource(CONTENT)}, certificate) as address, pytest.raises(DataError) as caught:
        http.download(f"{address}/x", tmp_path / "x", max_bytes=None, progress=lambda *_: None, patience=QUICK)
    assert "its certificate does not verify" in str(caught.value)


def test_the_version_follows_the_content() -> None:
    resource = Resource(CONTENT)
    with serving({"/x": resource}) as address:
        first = http.version(f"{address}/x", QUICK)
        assert http.version(f"{address}/x", QUICK) == first
        resource.content = CONTENT[:-1]
        assert http.version(f"{address}/x", QUICK) != first
    assert sum(end - begin for begin, end in resource.sent) <= 3  # it costs a byte


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"ETag": 'W/"1"'}, {"ETag": 'W/"2"'}),
        ({"ETag": 'W/"1"', "Last-Modified": "Sat, 01 Nov 2025 10:00:00 GMT"}, {"ETag": 'W/"2"'}),
        ({"Last-Modified": "Sat, 01 Nov 2025 10:00:00 GMT"}, {"Last-Modified": "Sat, 01 Nov 2025 10:00:01 GMT"}),
    ],
)
def test_the_version_follows_a_weak_tag_and_the_date(before: dict[str, str], after: dict[str, str]) -> None:
    resource = Resource(CONTENT, tagged=False, also=before)
    with serving({"/x": resource}) as address:
        first = http.version(f"{address}/x", QUICK)
        assert http.version(f"{address}/x", QUICK) == first
        resource.also = {**before, **after}
        assert http.version(f"{address}/x", QUICK) != first
    assert sum(end - begin for begin, end in resource.sent) <= 3


def test_the_version_is_of_the_content_where_a_server_says_nothing_of_its_changes() -> None:
    resource = Resource(CONTENT, tagged=False)
    with serving({"/x": resource}) as address:
        first = http.version(f"{address}/x", QUICK)
        assert http.version(f"{address}/x", QUICK) == first
        resource.content = CONTENT[:-1] + b"?"
        assert http.version(f"{address}/x", QUICK) != first
        with pytest.raises(DataError, match=r"dataset\.max_download_bytes=999"):
            http.version(f"{address}/x", QUICK, max_bytes=999)


def test_a_full_disk_is_an_os_error_and_the_next_try_goes_on(tmp_path: Path) -> None:
    resource = Resource(CONTENT)
    limited = (
        "import resource, signal, sys; from pathlib import Path; from sft.adapters import http\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, 600_000))\n"
        "try: http.download(sys.argv[1], Path(sys.argv[2]), max_bytes=None, progress=lambda *_: None)\n"
        "except OSError as error: print('no space:', error.strerror)"
    )
    with serving({"/x": resource}) as address:
        command = [sys.executable, "-c", limited, f"{address}/x", str(tmp_path / "x")]
        assert "no space: File too large" in subprocess.run(command, capture_output=True, text=True, check=True).stdout
        http.download(f"{address}/x", tmp_path / "x", max_bytes=None, progress=lambda *_: None, patience=QUICK)
    assert (tmp_path / "x").read_bytes() == CONTENT
    assert resource.sent[-1][0] > 0


def test_killed_in_the_middle_the_next_process_goes_on(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from sft.adapters import http\n"
        "http.download(sys.argv[1], Path(sys.argv[2]), max_bytes=None, progress=lambda *_: None)"
    )
    resource = Resource(CONTENT, stall_after=500_000, stall_seconds=5)
    with serving({"/x": resource}) as address:
        process = subprocess.Popen([sys.executable, "-c", code, f"{address}/x", str(tmp_path / "x")])
        part = tmp_path / "x.part"
        while not (part.exists() and part.stat().st_size):
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        arrived = part.stat().st_size
        http.download(f"{address}/x", tmp_path / "x", max_bytes=None, progress=lambda *_: None, patience=QUICK)
    assert (tmp_path / "x").read_bytes() == CONTENT
    assert resource.sent[-1] == (arrived, 1_000_000)


def test_the_dataset_stage_reads_over_http(tmp_path: Path) -> None:
    rows = [
        {"messages": [{"role": "user", "content": str(n)}, {"role": "assistant", "content": f"{n}."}]}
        for n in range(50)
    ]
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    with serving({"/rows.jsonl": Resource(content, break_after=1000)}) as address:
        broken = ["model=hub", f"model.name_or_path={tmp_path}"]
        uri = f"dataset.uri={address}/rows.jsonl?token=x"
        sft("run", "quickstart", "dataset=http", uri, *broken, cwd=tmp_path)
    [record] = records(tmp_path / "runs")
    facts = steps(record)["dataset"]["facts"]
    assert (facts["num_train"], facts["num_eval"]) == (45, 5)
    assert sorted(path.name for path in Path(steps(record)["dataset"]["path"]).iterdir()) == [
        "eval.jsonl",
        "manifest.json",
        "rejected.jsonl",
        "train.jsonl",
    ]


@pytest.mark.parametrize("address", ["https://[::1/rows.jsonl", "http://h]/rows.jsonl"])
def test_an_address_that_is_none_is_told(address: str) -> None:
    with pytest.raises(DataError, match=r"is not an address that can be asked"):
        http.version(address)
