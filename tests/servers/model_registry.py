"""A stand-in for the Kubeflow Model Registry server that holds both sides to the published contract.

Every request and every answer is checked against the OpenAPI document; what doesn't fit is kept in
`violations`. Semantics as in kubeflow/model-registry's ``internal/core``: 201 on create, 200 otherwise, 404 and
409 with an `Error` body. As met with a real server: ``name`` is a pattern and ``filterQuery`` is exact, a whole
double comes back without its point, names have 255 characters (an artifact's with its version's number before it),
listings come in pages, and who registers in what is archived isn't told. Faults are queued with `fail`.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import ssl
import threading
import time
from collections import defaultdict, deque
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from openapi_core import OpenAPI
from openapi_core.exceptions import OpenAPIError
from openapi_core.testing import MockRequest, MockResponse

DROP = 0
"""A fault: the connection breaks after the request arrived."""

CONTRACT_VERSION = "v1alpha3"
"""The contract's path prefix. Servers of ``v1`` have the same shapes under another prefix."""

LONGEST_NAME = 255

_PATH = re.compile(r"^/api/model_registry/(?P<api>\w+)/(?P<collection>\w+)(?:/(?P<id>\d+)(?:/(?P<part>\w+))?)?$")
_PARENTS = {"model_versions": "registeredModelId", "model_artifacts": "modelVersionId"}
_PARTS = {"versions": "model_versions", "artifacts": "model_artifacts"}

Row = dict[str, Any]


@cache
def contract(path: Path) -> OpenAPI:
    return OpenAPI.from_file_path(str(path))


class ModelRegistryServer(ThreadingHTTPServer):
    """Serves one API version to whoever has the token, from memory.

    Attributes:
        url: Where it is.
        violations: What broke the contract, either side.
        requests: (method, last word of the path, status) of every request, in order.
        rows: Collection -> id -> row.
        page_size: At most so many rows in a page.
        ignores_case: Whether names that differ in case are one, as on MySQL.
    """

    daemon_threads = True

    def __init__(
        self,
        contract_file: Path,
        *,
        token: str,
        api: str = CONTRACT_VERSION,
        prefix: str = "",
        certificate: tuple[Path, Path] | None = None,
    ) -> None:
        """Starts to listen; `prefix` is a gateway's path, `certificate` files of certificate and key, for TLS."""
        super().__init__(("127.0.0.1", 0), _Handler)
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            self.socket = context.wrap_socket(self.socket, server_side=True)
        self.prefix, self.page_size, self.ignores_case = prefix, 1_000, False
        self.url = f"{'https' if certificate else 'http'}://127.0.0.1:{self.server_port}{prefix}"
        self.openapi, self.token, self.api = contract(contract_file), token, api
        self.violations: list[str] = []
        self.requests: list[tuple[str, str, int]] = []
        self.rows: dict[str, dict[str, Row]] = defaultdict(dict)
        self.lock = threading.Lock()
        self._faults: dict[tuple[str, str], deque[int]] = defaultdict(deque)
        self._ids = itertools.count(1)

    def __enter__(self) -> ModelRegistryServer:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def fail(self, method: str, word: str, *faults: int) -> None:
        """The next requests of `method` whose path ends in `word` get these statuses, or `DROP`."""
        self._faults[method, word].extend(faults)

    def fault(self, method: str, word: str) -> int | None:
        queue = self._faults[method, word]
        return queue.popleft() if queue else None

    def answer(self, method: str, path: str, query: dict[str, str], body: Row) -> tuple[int, Any]:
        match = _PATH.match(path.removeprefix(self.prefix)) if path.startswith(self.prefix) else None
        if match is None or match["api"] != self.api:
            return 404, "404 page not found\n"  # the router's own answer, not of the contract
        collection, row_id, part = match["collection"], match["id"], match["part"]
        if row_id and row_id not in self.rows[collection]:
            return error(404, f"no {collection} for id {row_id}: not found")
        if part:
            kind = _PARTS[part]
            if method == "POST":
                return self._create(kind, {**body, _PARENTS[kind]: row_id})
            return 200, self._page([r for r in self.rows[kind].values() if r[_PARENTS[kind]] == row_id], query)
        if row_id:
            row = self.rows[collection][row_id]
            if method == "PATCH":
                row |= whole_numbers(body) | {"lastUpdateTimeSinceEpoch": now()}
            return 200, row
        if method == "POST":
            return self._create(collection, body)
        if collection.endswith("s"):
            return 200, self._page(list(self.rows[collection].values()), query)
        return self._find(f"{collection}s", query)

    def _create(self, collection: str, body: Row) -> tuple[int, Any]:
        parent = _PARENTS.get(collection)
        kept = f"{body[parent]}:{body['name']}" if collection == "model_artifacts" and parent else body["name"]
        if len(kept) > LONGEST_NAME:
            return error(500, "ERROR: value too long for type character varying(255) (SQLSTATE 22001)")
        for row in self.rows[collection].values():
            if self._is_same(row["name"], body["name"]) and (parent is None or row[parent] == body[parent]):
                return error(409, f"{collection} {body['name']} already exists: conflict")
        row_id = str(next(self._ids))
        times = {"createTimeSinceEpoch": now(), "lastUpdateTimeSinceEpoch": now()}
        self.rows[collection][row_id] = {"state": "LIVE", **whole_numbers(body), "id": row_id, **times}
        return 201, self.rows[collection][row_id]

    def _find(self, collection: str, query: dict[str, str]) -> tuple[int, Any]:
        parent = _PARENTS.get(collection)
        for row in self.rows[collection].values():
            is_child = parent is None or row[parent] == query["parentResourceId"]
            if is_child and re.fullmatch(sql_pattern(query["name"]), row["name"], re.DOTALL):
                return 200, row
        return error(404, f"no {collection} named {query['name']}: not found")

    def _is_same(self, one: str, other: str) -> bool:
        return one == other or (self.ignores_case and one.casefold() == other.casefold())

    def _page(self, rows: list[Row], query: dict[str, str]) -> Row:
        if wanted := query.get("filterQuery"):
            quoted = re.fullmatch(r'name="((?:[^"\\]|\\.)*)"', wanted, re.DOTALL)
            if quoted is None:
                raise NotImplementedError(f"the stand-in reads no filter but a name's: {wanted}")
            name = re.sub(r"\\(.)", r"\1", quoted[1], flags=re.DOTALL)
            rows = [row for row in rows if self._is_same(row["name"], name)]
        if query.get("sortOrder") == "DESC":
            rows = rows[::-1]
        start, size = int(query.get("nextPageToken", 0)), min(int(query.get("pageSize", 20)), self.page_size)
        token = str(start + size) if start + size < len(rows) else ""
        return page(rows[start : start + size], token)


class _Handler(BaseHTTPRequestHandler):
    server: ModelRegistryServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Silence."""

    def _serve(self) -> None:
        url = urlsplit(self.path)
        raw = self.rfile.read(int(self.headers.get("content-length") or 0))
        query, word = dict(parse_qsl(url.query)), url.path.rsplit("/", 1)[-1]
        request = MockRequest(
            "http://localhost:8080",
            self.command,
            url.path.removeprefix(self.server.prefix).replace(f"/{self.server.api}/", f"/{CONTRACT_VERSION}/"),
            args=query,
            headers=dict(self.headers),
            data=raw,
        )
        with self.server.lock:
            fault = self.server.fault(self.command, word)
            if self.headers.get("authorization") != f"Bearer {self.server.token}":
                status, answer = error(401, "missing or wrong bearer token")
            elif fault is not None:
                status, answer = error(fault, "injected")
            else:
                if f"/{self.server.api}/" in url.path:  # else asked for another server's API
                    with self._held_to_the_contract("request"):
                        self.server.openapi.validate_request(request)
                status, answer = self.server.answer(self.command, url.path, query, json.loads(raw or b"{}"))
            self.server.requests.append((self.command, word, status))
            if status == DROP:
                self.close_connection = True
                return
            data = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
            if not isinstance(answer, str):
                with self._held_to_the_contract("answer"):
                    self.server.openapi.validate_response(request, MockResponse(data, status))
        self.send_response(status)
        self.send_header("content-type", "text/plain" if isinstance(answer, str) else "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PATCH = _serve

    @contextlib.contextmanager
    def _held_to_the_contract(self, what: str) -> Any:
        try:
            yield
        except OpenAPIError as violation:
            cause = violation.__cause__
            details = getattr(cause, "schema_errors", None) or cause or ""
            self.server.violations.append(f"{what} {self.command} {self.path}: {violation} {details}")


def error(status: int, message: str) -> tuple[int, Row]:
    return status, {"code": str(status), "message": message}


def page(rows: list[Row], token: str) -> Row:
    return {"items": rows, "nextPageToken": token, "pageSize": max(len(rows), 1), "size": len(rows)}


def sql_pattern(name: str) -> str:
    """Return the regular expression of a name that is read as SQL's LIKE reads it."""
    return "".join({"_": ".", "%": ".*"}.get(letter, re.escape(letter)) for letter in name)


def whole_numbers(body: Row) -> Row:
    """Return a body as it is kept: a double that is whole has no point."""
    properties = body.get("customProperties") or {}
    kept = {
        key: {**value, "double_value": int(value["double_value"])}
        if float(value.get("double_value", 0.5)).is_integer()
        else value
        for key, value in properties.items()
    }
    return {**body, **({"customProperties": kept} if properties else {})}


def now() -> str:
    return str(int(time.time() * 1000))
