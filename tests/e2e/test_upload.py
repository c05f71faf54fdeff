"""A run's model is uploaded before it is registered, through the real command line and to a real server."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.servers import rclone
from tests.support.command import Answer, sft

pytestmark = pytest.mark.slow


def _read(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(file.read_text())
    return content


@pytest.mark.long
def test_a_run_uploads_its_model_and_registers_the_place(done: tuple[Path, Answer], tmp_path: Path) -> None:
    subprocess.run(["cp", "-a", done[0] / "runs", tmp_path], check=True)  # links stay links
    (tmp_path / "s3" / "bucket").mkdir(parents=True)
    command = ("run", "quickstart", "registry.upload=s3://bucket/models", "registry.model_name=placed")
    with rclone.s3(tmp_path / "s3", written=True) as endpoint:
        environment = {
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ACCESS_KEY_ID": rclone.KEY_ID,
            "AWS_SECRET_ACCESS_KEY": rclone.SECRET,
        }
        refused = sft(*command, cwd=tmp_path, **{**environment, "AWS_SECRET_ACCESS_KEY": "canary-wrong"})
        answer = sft(*command, cwd=tmp_path, **environment)
        again = sft(*command, cwd=tmp_path, **environment)
    assert refused.status == 1
    assert "uploading to s3://bucket/models failed: " in refused.err
    assert answer.status == 0, answer.err
    made = [line.split()[1].rstrip(":") for line in answer.out.splitlines() if line.startswith("✓")]
    assert made == ["upload", "register"]
    uri = answer.out.partition("\nuploaded    ")[2].split()[0]
    model = tmp_path / answer.out.partition("\nmodel       ")[2].split()[0]
    there = tmp_path / "s3" / uri.removeprefix("s3://")
    assert {file.relative_to(there): file.read_bytes() for file in there.rglob("*") if file.is_file()} == {
        file.relative_to(model): file.read_bytes() for file in model.rglob("*") if file.is_file()
    }
    registrations = map(_read, tmp_path.glob("runs/store/register/*/registration.json"))
    [registration] = [one for one in registrations if one["name"] == "placed"]
    assert (registration["version"], registration["uri"], registration["metadata"]["uri"]) == ("1", uri, uri)
    assert again.out.startswith("nothing to do: ")
    written = [file.read_bytes() for file in (tmp_path / "runs").rglob("*") if file.is_file()]
    assert not [content for content in written if rclone.SECRET.encode() in content or b"canary-wrong" in content]
    run = next(f for f in tmp_path.glob("runs/*/run.json") if "s3://bucket/models" in f.read_text()).parent
    whole = sft("verify", str(run), cwd=tmp_path)
    assert whole.status == 0, whole.err
    alone = sft("verify", str(there), cwd=tmp_path)
    assert alone.status == 0, alone.err
    [told] = tmp_path.glob("runs/store/upload/*/upload.json")
    here = sft("register", str(run), "registry.upload=null", "registry.model_name=here", cwd=tmp_path)
    assert here.status == 0, here.err
    addresses = {
        one["name"]: one["uri"] for one in map(_read, tmp_path.glob("runs/store/register/*/registration.json"))
    }
    assert addresses["placed"] == uri
    assert addresses["here"] == model.as_uri()
    told.write_text(told.read_text().replace('"sft.json": "', '"sft.json": "0'))
    assert f"{told} is not what the record says" in sft("verify", str(run), cwd=tmp_path).err
