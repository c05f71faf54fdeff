"""Locks hold among processes, and it is known where they don't hold among machines."""

from __future__ import annotations

from pathlib import Path

import pytest

from sft.file_locks import local_lock_option, try_lock

MOUNTS = """\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
40 22 0:50 / /shared rw,relatime shared:2 - nfs4 server:/export rw,vers=4.2,hard,proto=tcp,local_lock=none
41 22 0:51 / /old rw,relatime - nfs server:/old rw,vers=3,nolock,proto=tcp,local_lock=all
42 22 0:52 / /my\\040runs rw - nfs server:/runs rw,vers=3,local_lock=flock
43 41 0:53 / /old/fast rw,relatime - tmpfs tmpfs rw
"""


@pytest.mark.parametrize(
    ("folder", "option"),
    [
        ("/home/me/runs", None),
        ("/shared/runs", None),
        ("/old/runs", "local_lock=all"),
        ("/my runs/a", "local_lock=flock"),
        ("/old/fast/runs", None),
        ("/olden", None),
    ],
)
def test_an_nfs_mount_says_whether_other_machines_see_its_locks(
    folder: str, option: str | None, tmp_path: Path
) -> None:
    (tmp_path / "mountinfo").write_text(MOUNTS)
    assert local_lock_option(Path(folder), tmp_path / "mountinfo") == option


def test_without_a_table_of_mounts_nothing_is_known(tmp_path: Path) -> None:
    assert local_lock_option(tmp_path, tmp_path / "absent") is None


def test_a_lock_is_given_back(tmp_path: Path) -> None:
    with (tmp_path / "x").open("w") as one, (tmp_path / "x").open("w") as other:
        try_lock(one)
        try_lock(other)
