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
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_sft_test_token"
_API = re.compile(
    r"^/api/(?P<kind>models|datasets)/(?P<repo>[^/]+/[^/]+)"
    r"(?:/(?P<what>revision|tree|paths-info|refs)(?:/(?P<rest>.*))?)?$"
)
_RESOLVE = re.compile(r"^/(?:(?P<kind>datasets)/)?(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)$")


@dataclass
class Repo:
    """One repository.

    Attributes:
        folder: Its files.
        kind: ``models`` or ``datasets``.
        gated: Whether it asks for `TOKEN`.
        failures: Answers 500 before the first good one.
    """

    folder: Path
    kind: str = "models"
    gated: bool = False
    failures: int = 0
    requests: list[str] = field(default_factory=list)

    @property
    def commit(self) -> str:
        """What a git hash would be: another one for other content."""
        names = sorted(self.files())
        text = "".join(f"{name}{hashlib.sha256((self.folder / name).read_bytes()).hexdigest()}" for name in names)
        return hashlib.sha1(text.encode()).hexdigest()

    def files(self) -> list[str]:
        return [path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if path.is_file()]

    def entries(self, names: list[str]) -> list[dict[str, Any]]:
        found = []
        for name in names:
            content = (self.folder / name).read_bytes()
            found.append({"type": "file", "oid": hashlib.sha1(content).hexdigest(), "size": len(content), "path": name})
        return found


@contextmanager
def serving(repos: dict[str, Repo]) -> Iterator[str]:
    """Serves repositories by name; gives the endpoint for ``HF_ENDPOINT``."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            """Says nothing."""

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_POST(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = unquote(urlsplit(self.path).path)
            api, resolve = _API.match(path), _RESOLVE.match(path)
            match = api or resolve
            repo = repos.get(match["repo"]) if match else None
            kind = (match["kind"] or "models") if match else ""
            if match is None or repo is None or repo.kind != kind:
                self.fail(404, "RepoNotFound")
                return
            repo.requests.append(f"{self.command} {path}")
            if repo.failures:
                repo.failures -= 1
                self.fail(500, "")
            elif repo.gated and self.headers.get("Authorization") != f"Bearer {TOKEN}":
                self.fail(403 if self.headers.get("Authorization") else 401, "GatedRepo")
            elif api:
                self.answer_api(repo, api["what"], api["rest"] or "", body)
            elif resolve:
                self.answer_file(repo, resolve["revision"], resolve["path"])

        def answer_api(self, repo: Repo, what: str | None, rest: str, body: bytes) -> None:
            revision, _, folder = rest.partition("/")
            if what in {"revision", "tree", "paths-info"} and revision not in {"main", repo.commit}:
                self.fail(404, "RevisionNotFound")
            elif what == "tree":
                names = [name for name in repo.files() if name.startswith(f"{folder}/" if folder else "")]
                deep = parse_qs(urlsplit(self.path).query).get("recursive", ["false"])[0].lower() == "true"
                top = [name for name in names if deep or "/" not in name[len(folder) :].lstrip("/")]
                if folder and not names:
                    self.fail(404, "EntryNotFound")
                else:
                    self.send_json(repo.entries(top) + ([] if deep else self.folders(names, folder)))
            elif what == "paths-info":
                wanted = self.paths_in(body)
                self.send_json(
                    repo.entries([name for name in repo.files() if name in wanted]) + self.dirs(repo, wanted)
                )
            elif what == "refs":
                branch = {"name": "main", "ref": "refs/heads/main", "targetCommit": repo.commit}
                self.send_json({"branches": [branch], "converts": [], "tags": []})
            else:
                name = next(name for name, other in repos.items() if other is repo)
                facts = {"id": name, "sha": repo.commit, "private": False, "gated": repo.gated, "tags": []}
                self.send_json({**facts, "siblings": [{"rfilename": name} for name in repo.files()]})

        @staticmethod
        def paths_in(body: bytes) -> list[str]:
            text = body.decode()
            found: list[str] = json.loads(text)["paths"] if text.startswith("{") else parse_qs(text).get("paths", [])
            return found

        @staticmethod
        def folders(names: list[str], folder: str) -> list[dict[str, Any]]:
            rest = [name[len(folder) :].lstrip("/") for name in names]
            found = sorted({name.partition("/")[0] for name in rest if "/" in name})
            lead = f"{folder}/" if folder else ""
            return [{"type": "directory", "oid": "0" * 40, "size": 0, "path": f"{lead}{name}"} for name in found]

        @staticmethod
        def dirs(repo: Repo, wanted: list[str]) -> list[dict[str, Any]]:
            found = [path for path in wanted if path and (repo.folder / path).is_dir()]
            return [{"type": "directory", "oid": "0" * 40, "size": 0, "path": path} for path in found]

        def answer_file(self, repo: Repo, revision: str, path: str) -> None:
            if revision not in {"main", repo.commit}:
                self.fail(404, "RevisionNotFound", repo.commit)
                return
            if not (repo.folder / path).is_file():
                self.fail(404, "EntryNotFound", repo.commit)
                return
            content, begin = (repo.folder / path).read_bytes(), 0
            end = len(content)
            wanted = self.headers.get("Range", "").removeprefix("bytes=")
            if wanted:
                first, _, last = wanted.partition("-")
                begin, end = int(first), min(end, int(last) + 1) if last else end
            self.send_response(206 if wanted else 200)
            if wanted:
                self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{len(content)}")
            self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", repo.commit)
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Length", str(end - begin))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content[begin:end])

        def send_json(self, content: object) -> None:
            text = json.dumps(content).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(text)

        def fail(self, status: int, code: str, commit: str | None = None) -> None:
            self.send_response(status)
            if code:
                self.send_header("X-Error-Code", code)
            if commit:
                self.send_header("X-Repo-Commit", commit)
            self.send_header("Content-Length", "0")
            self.end_headers()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


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
            name = f"{config}/{split}-00000-of-00001.parquet"
            pyarrow.parquet.write_table(pa.Table.from_pylist(rows), folder / name)
            card += [f"  - split: {split}", f"    path: {config}/{split}-*"]
    (folder / "README.md").write_text("\n".join([*card, "---", ""]), encoding="utf-8")
