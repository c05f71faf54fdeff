"""Owns uploads to S3 and what speaks its protocol. Only here: botocore.

Keys are ``<prefix>/<16 digits of the model's digest>/<file>``, so that no model takes another's place. A large file
goes in parts; the ids of uploads under way are kept in the private folder, and the server knows which parts it has.
Every object is read back and hashed: no checksum that all such servers know is a sha256 of the whole object.

Credentials and endpoint are the environment's (``AWS_…``), as botocore reads it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sft.adapters.os import child
from sft.adapters.retry import RetryPolicy, retry
from sft.adapters.upload import RETRY_HINT, Sent, Told, Upload, Uploaded, other_content, run
from sft.errors import StageError
from sft.files import write_json

_MIB = 1 << 20
_PART_BYTES = 16 * _MIB
_MAX_PARTS = 10_000  # https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html
_THREADS = 4
_READ_RETRY = RetryPolicy(max_attempts=3, first_wait_seconds=0.5)
_STATE = "state.json"
_NOT_TOLD = {"403", "404"}
"""Answers to HEAD, which have no body: no such object, or (403) a key that may not list and so is not told."""
_WRONG_KEY = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken", "AuthFailure"}
_FULL = {"QuotaExceeded", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "InsufficientStorage", "507"}
_KEYS = "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN)"
_ENDPOINT = f"check AWS_ENDPOINT_URL and the network; {RETRY_HINT}"


def upload(upload: Upload, *, folder: Path, told: Told) -> Uploaded:
    """Uploads a model and reads it back.

    Args:
        upload: `host` is the bucket, `path` the prefix.
        folder: Private; what is in it after a kill lets the next call go on.
        told: Told how far it is.

    Raises:
        StageError: The server refuses, can't be reached, or has other bytes than were sent.
    """
    return run(__name__, upload, uri=f"s3://{upload.host}/{upload.path}".rstrip("/"), folder=folder, told=told)


def part_bytes(size: int) -> int:
    """Bytes of each part of a file: whole MiB, and no more parts than S3 takes."""
    return max(_PART_BYTES, -(-size // (_MAX_PARTS * _MIB)) * _MIB)


@dataclass(frozen=True)
class _Bucket:
    """A model's place in a bucket.

    Attributes:
        client: botocore's.
        state: File that keeps, by name, the id of an upload under way, or the ETag of an object that was compared.
    """

    client: Any
    upload: Upload
    state: Path
    sent: Sent

    @property
    def folder(self) -> str:
        return "/".join(part for part in (self.upload.path, self.upload.short_digest) if part)

    def where(self, name: str) -> dict[str, str]:
        return {"Bucket": self.upload.host, "Key": f"{self.folder}/{name}"}

    def noted(self, name: str) -> Mapping[str, Any]:
        """What is known of a file from an earlier try."""
        known: dict[str, Any] = json.loads(self.state.read_text(encoding="utf-8")) if self.state.exists() else {}
        found: Mapping[str, Any] = known.get(name, {})
        return found

    def note(self, name: str, **facts: Any) -> None:
        known = json.loads(self.state.read_text(encoding="utf-8")) if self.state.exists() else {}
        write_json(self.state, known | {name: facts})


def _handle(request: dict[str, Any]) -> Mapping[str, Any]:
    model, folder = Upload(**request["upload"]), Path(request["folder"])
    with _in_our_words(model):
        bucket = _Bucket(_client(), model, folder / _STATE, Sent(folder))
        sent = [name for name in model.files if _bring(bucket, name)]
    bucket.state.unlink(missing_ok=True)
    uri = f"s3://{model.host}/{bucket.folder}"
    note = (
        f"uploaded {len(sent)} of {len(model.files)} files to {uri}" if sent else f"the same files are at {uri} already"
    )
    return asdict(Uploaded(uri=uri, note=note))


def _client() -> Any:
    import botocore.session
    from botocore.config import Config

    session = botocore.session.get_session()
    region = session.get_config_variable("region") or os.environ.get("AWS_REGION") or "us-east-1"
    config = Config(
        max_pool_connections=_THREADS + 1,
        # botocore's own checksums come as trailers, which many a server does not know; we send MD5 and read back.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    return session.create_client("s3", region_name=region, config=config)


def _bring(bucket: _Bucket, name: str) -> bool:
    """Sees to it that an object is there with the recorded bytes; returns whether it was sent."""
    there, size = _head(bucket, name), bucket.upload.size(name)
    if there and there["ContentLength"] == size:
        if bucket.noted(name).get("compared") == there["ETag"]:
            return False
        if _hash(bucket, name) == bucket.upload.files[name]:
            bucket.note(name, compared=there["ETag"])
            return False
    if size <= part_bytes(size):
        content = bucket.upload.file(name).read_bytes()
        bucket.client.put_object(**bucket.where(name), Body=content, ContentMD5=_md5(content))
        bucket.sent.add(size)
    else:
        _send_parts(bucket, name, size)
    if (digest := _hash(bucket, name)) != bucket.upload.files[name]:
        raise other_content(bucket.upload, name, digest)
    bucket.note(name, compared=(_head(bucket, name) or {}).get("ETag"))
    return True


def _head(bucket: _Bucket, name: str) -> Mapping[str, Any] | None:
    """An object's facts; None where there is none."""
    from botocore.exceptions import ClientError

    try:
        facts: Mapping[str, Any] = bucket.client.head_object(**bucket.where(name))
    except ClientError as error:
        if error.response["Error"]["Code"] not in _NOT_TOLD:
            raise
        return None
    return facts


def _hash(bucket: _Bucket, name: str) -> str:
    """sha256 of an object, read from the server."""
    from botocore.exceptions import BotoCoreError

    def read() -> str:
        digest = hashlib.sha256()
        for chunk in bucket.client.get_object(**bucket.where(name))["Body"].iter_chunks(_MIB):
            digest.update(chunk)
        return digest.hexdigest()

    return retry(read, _READ_RETRY, on=BotoCoreError)  # botocore itself repeats a request, but not a broken answer


def _send_parts(bucket: _Bucket, name: str, size: int) -> None:
    """Sends what the server lacks of a large file, and puts it together."""
    step, where, file = part_bytes(size), bucket.where(name), bucket.upload.file(name)
    upload_id = bucket.noted(name).get("upload_id")
    tags = _parts(bucket, name, upload_id, step, size) if upload_id else None
    if tags is None:
        upload_id, tags = bucket.client.create_multipart_upload(**where)["UploadId"], {}
        bucket.note(name, upload_id=upload_id)

    def send(number: int) -> tuple[int, str]:
        with file.open("rb") as stream:
            stream.seek((number - 1) * step)
            content = stream.read(step)
        facts = {"UploadId": upload_id, "PartNumber": number, "Body": content, "ContentMD5": _md5(content)}
        tag: str = bucket.client.upload_part(**where, **facts)["ETag"]
        bucket.sent.add(len(content))
        return number, tag

    numbers = range(1, -(-size // step) + 1)
    pool = ThreadPoolExecutor(_THREADS)
    try:
        tags |= dict(pool.map(send, [number for number in numbers if number not in tags]))
    finally:
        pool.shutdown(cancel_futures=True)
    parts = [{"PartNumber": number, "ETag": tags[number]} for number in numbers]
    bucket.client.complete_multipart_upload(**where, UploadId=upload_id, MultipartUpload={"Parts": parts})


def _parts(bucket: _Bucket, name: str, upload_id: str, step: int, size: int) -> dict[int, str] | None:
    """ETags of the whole parts that the server has of an upload, by number; None where it knows no such upload."""
    from botocore.exceptions import ClientError

    pages = bucket.client.get_paginator("list_parts").paginate(**bucket.where(name), UploadId=upload_id)
    try:
        listed = [part for page in pages for part in page.get("Parts", ())]
    except ClientError as error:
        if error.response["Error"]["Code"] != "NoSuchUpload":
            raise
        return None
    return {
        part["PartNumber"]: part["ETag"]
        for part in listed
        if part["Size"] == min(step, size - (part["PartNumber"] - 1) * step)
    }


def _md5(content: bytes) -> str:
    """What ``Content-MD5`` says: the server refuses a part that differs."""
    return base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()


@contextmanager
def _in_our_words(model: Upload) -> Iterator[None]:
    """Says what went wrong.

    Raises:
        StageError: In place of whatever botocore raises.
    """
    from botocore import exceptions

    try:
        yield
    except exceptions.ClientError as error:
        said = error.response["Error"]
        code, message = said.get("Code", ""), said.get("Message", "")
        what = f"the server answers {code}" + (f" ({message})" if message not in {"", code} else "")
        if code == "NoSuchBucket":
            raise StageError(f"there is no bucket {model.host}", fix=f"make it, or {_ENDPOINT}") from error
        if code in _WRONG_KEY:
            raise StageError(f"{what}: it doesn't take the key", fix=f"{_KEYS}; {RETRY_HINT}") from error
        if code in {"AccessDenied", "Forbidden", "403"}:
            rights = "s3:PutObject, s3:GetObject (what arrives is read back), s3:ListMultipartUploadParts"
            raise StageError(f"{what}: the key lacks a right", fix=f"it needs {rights}; or {_KEYS}") from error
        if code in _FULL:
            raise StageError(f"{what}: it has no space left", fix=f"make some; {RETRY_HINT}") from error
        raise StageError(what, fix=RETRY_HINT) from error
    except (exceptions.NoCredentialsError, exceptions.PartialCredentialsError) as error:
        raise StageError(f"no credentials: {error}", fix=_KEYS) from error
    except exceptions.SSLError as error:
        fix = "set AWS_CA_BUNDLE to the authority's certificate if you trust it"
        raise StageError(f"the server's certificate does not verify: {error}", fix=fix) from error
    except (exceptions.ConnectionError, exceptions.HTTPClientError) as error:
        raise StageError(f"the server can't be reached: {error}", fix=_ENDPOINT) from error
    except exceptions.BotoCoreError as error:
        raise StageError(str(error), fix=_ENDPOINT) from error
    except ValueError as error:  # an endpoint without a scheme
        raise StageError(str(error), fix=_ENDPOINT) from error


if __name__ == "__main__":
    child.main(_handle)
