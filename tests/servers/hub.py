"""A small server that the real `huggingface_hub` and `datasets` clients take for the hub, over local folders."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_sft_test_token"
AWAY = "http://127.0.0.1:9"
"""An endpoint where nobody answers."""

_API = re.compile(
    r"^/api/(?P<kind>models|datasets)/(?P<repo>[^/]+/[^/]+)"
    r"(?:/(?P<what>revision|tree|paths-info|refs)(?:/(?P<revision>[^/]+)(?:/(?P<path>.*))?)?)?$"
)
_RESOLVE = re.compile(r"^/(?:(?P<kind>datasets)/)?(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)$")


@dataclass(frozen=True)
class Revision:
    """The files of one commit."""

    folder: Path

    @property
    def commit(self) -> str:
        """What a git hash would be: another one for other content."""
        text = "".join(f"{name}{self.digest(name)}" for name in self.files())
        return hashlib.sha1(text.encode()).hexdigest()

    def files(self) -> list[str]:
        return sorted(path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if path.is_file())

    def digest(self, name: str) -> str:
        """Git's name of a file's content."""
        content = (self.folder / name).read_bytes()
        return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()

    def entry(self, name: str) -> dict[str, Any]:
        """A file or folder as the tree's listing has it."""
        path = self.folder / name
        if path.is_dir():
            return {"type": "directory", "oid": "0" * 40, "size": 0, "path": name}
        return {"type": "file", "oid": self.digest(name), "size": path.stat().st_size, "path": name}

    def tree(self, folder: str, *, recursive: bool) -> list[str]:
        """Names below `folder`, which is empty for all."""
        root = self.folder / folder
        found = root.rglob("*") if recursive else root.glob("*")
        return sorted(path.relative_to(self.folder).as_posix() for path in found)


@dataclass
class Repo:
    """One repository.

    Attributes:
        folder: The files of its branch ``main``.
        kind: ``models`` or ``datasets``.
        gated: Whether its files ask for `TOKEN`; what it has, everybody may see.
        branches: The files of further branches, by name.
        failures: Answers 500 before the first good one.
        breaks_after_bytes: Where the next longer download breaks off; None = nowhere.
        requests: What was asked: method, path, range.
    """

    folder: Path
    kind: str = "models"
    gated: bool = False
    branches: dict[str, Path] = field(default_factory=dict)
    failures: int = 0
    breaks_after_bytes: int | None = None
    requests: list[str] = field(default_factory=list)

    @property
    def commit(self) -> str:
        return Revision(self.folder).commit

    def at(self, name: str) -> Revision | None:
        """What a branch or a commit holds."""
        known = {branch: Revision(folder) for branch, folder in {"main": self.folder, **self.branches}.items()}
        return known.get(name) or next((one for one in known.values() if one.commit == name), None)


@contextmanager
def serving(repos: dict[str, Repo], handler: type[Handler] | None = None) -> Iterator[str]:
    """Serves repositories by name; gives the endpoint for ``HF_ENDPOINT``.

    Args:
        repos: Repository by ``org/name``.
        handler: Answers more than a hub that is only read from.
    """

    class Serving(handler or Handler):  # type: ignore[misc]
        served = repos

    server = ThreadingHTTPServer(("127.0.0.1", 0), Serving)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    served: dict[str, Repo]

    def log_message(self, *_: Any) -> None:
        """Says nothing."""

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        match = _API.match(url.path) or _RESOLVE.match(url.path)
        repo = self.served.get(match["repo"]) if match else None
        if match is None or repo is None or repo.kind != (match["kind"] or "models"):
            self.fail(404, "RepoNotFound")
            return
        repo.requests.append(f"{self.command} {unquote(url.path)} {self.headers.get('Range', '')}".rstrip())
        revision = repo.at(unquote(match["revision"] or "main"))
        path = unquote(match["path"] or "")
        if repo.failures:
            repo.failures -= 1
            self.fail(500)
        elif revision is None:
            self.fail(404, "RevisionNotFound")
        elif match.re is not _RESOLVE:
            self.answer_api(match["what"], repo, revision, path, parse_qs(url.query), body)
        elif repo.gated and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.fail(403 if "Authorization" in self.headers else 401, "GatedRepo", revision.commit)
        else:
            self.answer_file(repo, revision, path)

    do_HEAD = do_POST = do_GET

    def answer_api(
        self, what: str | None, repo: Repo, revision: Revision, path: str, query: dict[str, list[str]], body: str
    ) -> None:
        if what == "tree" and not (revision.folder / path).is_dir():
            self.fail(404, "EntryNotFound")
        elif what == "tree":
            names = revision.tree(path, recursive=query.get("recursive", ["false"])[0].lower() == "true")
            self.send_json([revision.entry(name) for name in names])
        elif what == "paths-info":
            wanted = json.loads(body)["paths"] if body.startswith("{") else parse_qs(body).get("paths", [])
            self.send_json([revision.entry(name) for name in wanted if name and (revision.folder / name).exists()])
        elif what == "refs":
            branches = [{"name": name, "ref": f"refs/heads/{name}"} for name in ("main", *repo.branches)]
            for branch in branches:
                found = repo.at(branch["name"])
                branch["targetCommit"] = found.commit if found else ""
            self.send_json({"branches": branches, "converts": [], "tags": []})
        else:
            name = next(name for name, one in self.served.items() if one is repo)
            facts = {
                "id": name,
                "sha": revision.commit,
                "private": self.is_private(name),
                "gated": repo.gated,
                "tags": [],
            }
            self.send_json({**facts, "siblings": [{"rfilename": file} for file in revision.files()]})

    def is_private(self, _name: str) -> bool:
        return False

    def answer_file(self, repo: Repo, revision: Revision, path: str) -> None:
        if not (revision.folder / path).is_file():
            self.fail(404, "EntryNotFound", revision.commit)
            return
        content = (revision.folder / path).read_bytes()
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        begin = int(wanted[1]) if wanted else 0
        end = min(len(content), int(wanted[2]) + 1) if wanted and wanted[2] else len(content)
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{len(content)}")
        self.send_header("ETag", f'"{revision.digest(path)}"')
        self.send_header("X-Repo-Commit", revision.commit)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(end - begin))
        self.end_headers()
        if self.command == "HEAD":
            return
        if repo.breaks_after_bytes is not None and end - begin > repo.breaks_after_bytes:
            end = begin + repo.breaks_after_bytes
            repo.breaks_after_bytes = None
            self.close_connection = True
        self.wfile.write(content[begin:end])

    def send_json(self, content: object, status: int = 200) -> None:
        text = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    def fail(self, status: int, code: str | None = None, commit: str | None = None) -> None:
        """An error as the hub says it, by a code in a header."""
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        if commit:
            self.send_header("X-Repo-Commit", commit)
        self.send_header("Content-Length", "0")
        self.end_headers()


def write_gsm8k(source: Path, folder: Path) -> None:
    """GSM8K as the hub has it: parquet files in two configs, and a card that names them.

    Args:
        source: Folder of ``train.jsonl`` and ``test.jsonl``.
        folder: The repository's folder.
    """
    import pyarrow as pa
    import pyarrow.parquet

    card = ["---", "configs:"]
    for config in ("main", "socratic"):
        (folder / config).mkdir(parents=True)
        card += [f"- config_name: {config}", "  data_files:"]
        for split in ("train", "test"):
            rows = [json.loads(line) for line in (source / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]
            name = PurePosixPath(config, f"{split}-00000-of-00001.parquet")
            pyarrow.parquet.write_table(pa.Table.from_pylist(rows), folder / name)
            card += [f"  - split: {split}", f"    path: {config}/{split}-*"]
    (folder / "README.md").write_text("\n".join([*card, "---", ""]), encoding="utf-8")
