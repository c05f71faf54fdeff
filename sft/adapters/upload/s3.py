"""Owns uploads to S3 and to servers that speak its protocol. Only here: botocore.

Keys are ``<prefix>/<16 digits of the model's digest>/<file>``, so that no model overwrites another. A large file is
sent in parts: the private folder holds the ids of unfinished uploads, and the server knows which parts it has. Every
object is read back and hashed, because no checksum that all such servers know is a sha256 of the whole object.

Credentials and endpoint come from the environment (``AWS_…``), as botocore reads it.
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
from sft.adapters.upload import (
    RETRY_HINT,
    ByteCounter,
    Update,
    Upload,
    Uploaded,
    check_child,
    digest_mismatch,
    run_child,
)
from sft.errors import StageError
from sft.files import write_json

_MIB = 1 << 20
_PART_BYTES = 16 * _MIB
_MAX_PARTS = 10_000  # https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html
_THREADS = 4
_READ_RETRY = RetryPolicy(max_attempts=3, first_wait_seconds=0.5)
_STATE = "state.json"
_PROBE = ".sft-may-write"
_NO_OBJECT = {"403", "404"}
"""Answers to HEAD for no such object; 403 if the key may not list the bucket."""
_WRONG_KEY = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken", "AuthFailure"}
_FULL = {"QuotaExceeded", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "InsufficientStorage", "507"}
_CHECK_KEYS = "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN)"
_CHECK_ENDPOINT = f"check AWS_ENDPOINT_URL and the network; {RETRY_HINT}"


def upload(upload: Upload, *, folder: Path, update: Update) -> Uploaded:
    """Upload a model and read it back.

    Args:
        upload: `host` is the bucket, `path` the prefix.
        folder: Private folder for the child process, from which the next call resumes after a kill.
        update: Shows how much was sent.

    Raises:
        StageError: The server refuses, can't be reached, or has other bytes than were sent.
    """
    return run_child(
        __name__, upload, uri=f"s3://{upload.host}/{upload.path}".rstrip("/"), folder=folder, update=update
    )


def check(host: str, path: str, *, folder: Path) -> str:
    """Ask whether a model may be uploaded: an upload is begun and given up, which leaves no object.

    Args:
        host: The bucket.
        path: The prefix.
        folder: Private folder for the child process.

    Returns:
        What a person should know; empty if there is nothing.

    Raises:
        StageError: The server refuses, or can't be reached.
    """
    return check_child(__name__, host, path, uri=f"s3://{host}/{path}".rstrip("/"), folder=folder)


def part_bytes(size: int) -> int:
    """Return the size of each part of a file: whole MiB, and so that there are no more parts than S3 allows."""
    return max(_PART_BYTES, -(-size // (_MAX_PARTS * _MIB)) * _MIB)


@dataclass(frozen=True)
class _Bucket:
    """A model's objects in a bucket.

    Attributes:
        client: The client of botocore.
        state: File with the id of an unfinished upload, or the ETag of an object that was compared, by file name.
    """

    client: Any
    upload: Upload
    state: Path
    counter: ByteCounter

    @property
    def folder(self) -> str:
        return "/".join(part for part in (self.upload.path, self.upload.short_digest) if part)

    def address(self, name: str) -> dict[str, str]:
        return {"Bucket": self.upload.host, "Key": f"{self.folder}/{name}"}

    def load_state(self) -> dict[str, dict[str, Any]]:
        """Return what earlier attempts have saved, by file name."""
        state: dict[str, dict[str, Any]] = (
            json.loads(self.state.read_text(encoding="utf-8")) if self.state.exists() else {}
        )
        return state

    def save_state(self, name: str, **facts: Any) -> None:
        """Save what the next attempt must know about a file."""
        write_json(self.state, self.load_state() | {name: facts})


def _handle(request: dict[str, Any]) -> Mapping[str, Any]:
    model, folder = Upload(**request["upload"]), Path(request["folder"])
    if request.get("is_check"):
        with _translate_errors(model):
            return {"note": _begin_and_give_up(_client(), model)}
    with _translate_errors(model):
        bucket = _Bucket(_client(), model, folder / _STATE, ByteCounter(folder))
        sent = [name for name in model.files if _upload_file(bucket, name)]
    bucket.state.unlink(missing_ok=True)
    uri = f"s3://{model.host}/{bucket.folder}"
    note = f"uploaded {len(sent)} of {len(model.files)} files to {uri}" if sent else f"{uri} has the same files already"
    return asdict(Uploaded(uri=uri, note=note))


def _begin_and_give_up(client: Any, model: Upload) -> str:
    """Begin an upload in parts, which needs the right to write, and give it up."""
    from botocore.exceptions import ClientError

    place = {"Bucket": model.host, "Key": "/".join(part for part in (model.path, _PROBE) if part)}
    upload_id = client.create_multipart_upload(**place)["UploadId"]
    try:
        client.abort_multipart_upload(**place, UploadId=upload_id)
    except ClientError as error:
        code = error.response["Error"].get("Code", "")
        return (
            f"s3://{model.host}/{place['Key']}: an upload was begun to see whether that is allowed, and stays ({code})"
        )
    return ""


def _client() -> Any:
    import botocore.session
    from botocore.config import Config

    session = botocore.session.get_session()
    region = session.get_config_variable("region") or os.environ.get("AWS_REGION") or "us-east-1"
    config = Config(
        max_pool_connections=_THREADS + 1,
        # botocore sends its checksums as trailers, which many servers don't know; we send MD5, and read back.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    return session.create_client("s3", region_name=region, config=config)


def _upload_file(bucket: _Bucket, name: str) -> bool:
    """Upload a file unless the bucket has it with the recorded bytes; return whether it was sent."""
    stored, size = _head(bucket, name), bucket.upload.size(name)
    if stored and stored["ContentLength"] == size:
        if bucket.load_state().get(name, {}).get("compared") == stored["ETag"]:
            return False
        if _hash(bucket, name) == bucket.upload.files[name]:
            bucket.save_state(name, compared=stored["ETag"])
            return False
    if size <= part_bytes(size):
        content = bucket.upload.file(name).read_bytes()
        bucket.client.put_object(**bucket.address(name), Body=content, ContentMD5=_md5(content))
        bucket.counter.add(size)
    else:
        _send_parts(bucket, name, size)
    if (digest := _hash(bucket, name)) != bucket.upload.files[name]:
        raise digest_mismatch(bucket.upload, name, digest)
    bucket.save_state(name, compared=(_head(bucket, name) or {}).get("ETag"))
    return True


def _head(bucket: _Bucket, name: str) -> Mapping[str, Any] | None:
    """Return the server's facts about an object; None if there is no such object."""
    from botocore.exceptions import ClientError

    try:
        facts: Mapping[str, Any] = bucket.client.head_object(**bucket.address(name))
    except ClientError as error:
        if error.response["Error"]["Code"] not in _NO_OBJECT:
            raise
        return None
    return facts


def _hash(bucket: _Bucket, name: str) -> str:
    """Return the sha256 of an object, read from the server."""
    from botocore.exceptions import BotoCoreError

    def read() -> str:
        digest = hashlib.sha256()
        for chunk in bucket.client.get_object(**bucket.address(name))["Body"].iter_chunks(_MIB):
            digest.update(chunk)
        return digest.hexdigest()

    return retry(read, _READ_RETRY, on=BotoCoreError)  # botocore itself repeats a request, but not a broken answer


def _send_parts(bucket: _Bucket, name: str, size: int) -> None:
    """Send the parts of a large file that the server lacks, and complete the upload."""
    step, address, file = part_bytes(size), bucket.address(name), bucket.upload.file(name)
    upload_id = bucket.load_state().get(name, {}).get("upload_id")
    tags = _parts(bucket, name, upload_id, step, size) if upload_id else None
    if tags is None:
        upload_id, tags = bucket.client.create_multipart_upload(**address)["UploadId"], {}
        bucket.save_state(name, upload_id=upload_id)

    def send(number: int) -> tuple[int, str]:
        with file.open("rb") as stream:
            stream.seek((number - 1) * step)
            content = stream.read(step)
        facts = {"UploadId": upload_id, "PartNumber": number, "Body": content, "ContentMD5": _md5(content)}
        tag: str = bucket.client.upload_part(**address, **facts)["ETag"]
        bucket.counter.add(len(content))
        return number, tag

    numbers = range(1, -(-size // step) + 1)
    pool = ThreadPoolExecutor(_THREADS)
    try:
        tags |= dict(pool.map(send, [number for number in numbers if number not in tags]))
    finally:
        pool.shutdown(cancel_futures=True)
    parts = [{"PartNumber": number, "ETag": tags[number]} for number in numbers]
    bucket.client.complete_multipart_upload(**address, UploadId=upload_id, MultipartUpload={"Parts": parts})


def _parts(bucket: _Bucket, name: str, upload_id: str, step: int, size: int) -> dict[int, str] | None:
    """Return the ETags of the complete parts that the server has, by number; None if it knows no such upload."""
    from botocore.exceptions import ClientError

    pages = bucket.client.get_paginator("list_parts").paginate(**bucket.address(name), UploadId=upload_id)
    try:
        parts = [part for page in pages for part in page.get("Parts", ())]
    except ClientError as error:
        if error.response["Error"]["Code"] != "NoSuchUpload":
            raise
        return None
    return {
        part["PartNumber"]: part["ETag"]
        for part in parts
        if part["Size"] == min(step, size - (part["PartNumber"] - 1) * step)
    }


def _md5(content: bytes) -> str:
    """Return the header ``Content-MD5``: the server refuses a part that differs."""
    return base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()


@contextmanager
def _translate_errors(model: Upload) -> Iterator[None]:
    """Say what went wrong.

    Raises:
        StageError: In place of anything that botocore raises.
    """
    from botocore import exceptions

    try:
        yield
    except exceptions.ClientError as error:
        answer = error.response["Error"]
        code, message = answer.get("Code", ""), answer.get("Message", "")
        what = f"the server answers {code}" + (f" ({message})" if message not in {"", code} else "")
        if code == "NoSuchBucket":
            raise StageError(f"there is no bucket {model.host}", fix=f"create it, or {_CHECK_ENDPOINT}") from error
        if code in _WRONG_KEY:
            raise StageError(f"{what}: it refuses the key", fix=f"{_CHECK_KEYS}; {RETRY_HINT}") from error
        if code in {"AccessDenied", "Forbidden", "403"}:
            rights = "s3:PutObject, s3:GetObject (what arrives is read back), s3:ListMultipartUploadParts"
            raise StageError(f"{what}: the key lacks a permission", fix=f"grant {rights}; or {_CHECK_KEYS}") from error
        if code in _FULL:
            raise StageError(f"{what}: it has no space left", fix=f"free space there; {RETRY_HINT}") from error
        raise StageError(what, fix=RETRY_HINT) from error
    except (exceptions.NoCredentialsError, exceptions.PartialCredentialsError) as error:
        raise StageError(f"no credentials: {error}", fix=_CHECK_KEYS) from error
    except exceptions.SSLError as error:
        fix = "set AWS_CA_BUNDLE to the certificate of the authority that signed it, if you trust that"
        raise StageError(f"the server's certificate does not verify: {error}", fix=fix) from error
    except (exceptions.ConnectionError, exceptions.HTTPClientError) as error:
        raise StageError(f"the server can't be reached: {error}", fix=_CHECK_ENDPOINT) from error
    except exceptions.BotoCoreError as error:
        raise StageError(str(error), fix=_CHECK_ENDPOINT) from error
    except ValueError as error:  # an endpoint without a scheme
        raise StageError(str(error), fix=_CHECK_ENDPOINT) from error


if __name__ == "__main__":
    child.main(_handle)
