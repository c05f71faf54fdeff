"""Sizes of parts, and a server's codes in our words. The rest is tested against a real server."""

from __future__ import annotations

import pytest
from botocore.exceptions import ClientError

from sft.adapters.upload import Upload, s3
from sft.errors import StageError

MIB = 1 << 20
MODEL = Upload(host="bucket", path="", tag=None, folder="", files={}, digest="", name="", version="")


@pytest.mark.parametrize("size", [0, 1, 16 * MIB, 160_000 * MIB, 160_000 * MIB + 1, 5 << 40])
def test_a_file_has_at_most_ten_thousand_parts_of_whole_mebibytes(size: int) -> None:
    step = s3.part_bytes(size)
    assert step % MIB == 0
    assert step >= 16 * MIB
    assert step * 10_000 >= size
    assert step == 16 * MIB or (step - MIB) * 10_000 < size


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("NoSuchBucket", "there is no bucket bucket"),
        ("AccessDenied", "s3:PutObject, s3:GetObject"),
        ("SignatureDoesNotMatch", "check AWS_ACCESS_KEY_ID"),
        ("ExpiredToken", "AWS_SESSION_TOKEN"),
        ("XMinioStorageFull", "no space left"),
        ("SlowDown", "the server answers SlowDown (please)"),
    ],
)
def test_a_servers_code_comes_with_what_to_try(code: str, said: str) -> None:
    error = ClientError({"Error": {"Code": code, "Message": "please"}}, "PutObject")
    with pytest.raises(StageError) as caught, s3._translate_errors(MODEL):
        raise error
    assert said in str(caught.value)
