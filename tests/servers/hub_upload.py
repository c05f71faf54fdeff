"""The hub as the real client uploads to it: repositories are made, large files come by Git LFS, a commit joins them.

Without Xet: a client is told so by ``HF_HUB_DISABLE_XET``.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.servers.hub import TOKEN, Handler, Repo, Revision, serving

_REPO = re.compile(
    r"^/api/models/(?P<repo>[^/]+/[^/]+)/(?P<what>preupload|commit|tree|paths-info)/(?P<revision>[^/]+)$"
)
_BATCH = re.compile(r"^/(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch$")
_OBJECT = re.compile(r"^/lfs/(?P<oid>[0-9a-f]{64})$")
_LARGE = ".safetensors"
"""What goes by Git LFS; each such file of a commit is an LFS file."""


@dataclass
class Hub:
    """A hub that takes models.

    Attributes:
        root: Where commits and large files are kept.
        repos: What it has, by ``org/name``; a commit is a new folder.
        received: sha256 of each large file that was sent here, as often as it was.
        commits: Message of each commit.
        private: Whether a repository was asked to be.
        holds: sha256 of a large file of which half is taken in, and then no more until `released`.
        held: That it has come to that.
        damages: Text in small files, and what a commit makes of it.
    """

    root: Path
    repos: dict[str, Repo] = field(default_factory=dict)
    received: list[str] = field(default_factory=list)
    commits: list[str] = field(default_factory=list)
    private: dict[str, bool] = field(default_factory=dict)
    holds: str | None = None
    held: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)
    damages: tuple[bytes, bytes] | None = None

    def object(self, oid: str) -> Path:
        return self.root / "lfs" / oid

    def create(self, name: str) -> Repo:
        """An empty repository, with what the hub puts into it."""
        folder = self.root / "commits" / name / "0"
        folder.mkdir(parents=True)
        (folder / ".gitattributes").write_text("*.safetensors filter=lfs diff=lfs merge=lfs -text\n")
        self.repos[name] = Repo(folder)
        return self.repos[name]

    def commit(self, name: str, lines: list[dict[str, Any]]) -> str:
        """Applies a commit's operations; returns its hash."""
        repo = self.repos[name]
        old = repo.folder
        new = old.parent / str(len(repo.branches) + 1)
        shutil.copytree(old, new)
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                self.commits.append(value["summary"])
                continue
            path = new / value["path"]
            path.parent.mkdir(parents=True, exist_ok=True)
            if line["key"] == "file":
                content = base64.b64decode(value["content"])
                path.write_bytes(content.replace(*self.damages) if self.damages else content)
            elif line["key"] == "lfsFile":
                path.unlink(missing_ok=True)
                path.hardlink_to(self.object(value["oid"]))
            else:
                path.unlink()
        repo.branches[f"before-{new.name}"] = old  # what was committed can still be asked for
        repo.folder = new
        return repo.commit


@contextmanager
def taking(root: Path) -> Iterator[tuple[str, Hub]]:
    """Serves a hub that is empty; gives the endpoint and the hub."""
    one = Hub(root)
    (root / "lfs").mkdir(parents=True)

    class Taking(_Taking):
        hub = one

    with serving(one.repos, Taking) as endpoint:
        yield endpoint, one


class _Taking(Handler):
    hub: Hub

    def do_POST(self) -> None:
        url = urlsplit(self.path)
        repo, batch = _REPO.match(url.path), _BATCH.match(url.path)
        if url.path not in {"/api/repos/create", "/api/validate-yaml"} and not repo and not batch:
            super().do_GET()
            return
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.fail(401)
        elif url.path == "/api/validate-yaml":
            self.send_json({"errors": [], "warnings": []})
        elif url.path == "/api/repos/create":
            self.create(json.loads(body))
        elif batch:
            self.send_json({"transfer": "basic", "objects": [self.place(one) for one in json.loads(body)["objects"]]})
        elif repo:
            self.change(repo["repo"], repo["what"], unquote(repo["revision"]), body)

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if (repo := _REPO.match(url.path)) and (revision := self.revision(repo["repo"], unquote(repo["revision"]))):
            names = revision.tree("", recursive=parse_qs(url.query).get("recursive", [""])[0].lower() == "true")
            self.send_json([_entry(revision, name) for name in names])
        else:
            super().do_GET()

    def do_PUT(self) -> None:
        oid = (_OBJECT.match(urlsplit(self.path).path) or {"oid": ""})["oid"]
        size = int(self.headers["Content-Length"])
        if oid == self.hub.holds:
            self.rfile.read(size // 2)
            self.hub.held.set()
            self.hub.released.wait()
            self.close_connection = True
            return
        content = self.rfile.read(size)
        self.hub.received.append(oid)
        if hashlib.sha256(content).hexdigest() == oid:
            self.hub.object(oid).write_bytes(content)
            self.send_json({})
        else:
            self.fail(400)

    def is_private(self, name: str) -> bool:
        return self.hub.private.get(name, False)

    def revision(self, name: str, revision: str) -> Revision | None:
        return self.served[name].at(revision) if name in self.served else None

    def create(self, wanted: dict[str, Any]) -> None:
        name = f"{wanted['organization']}/{wanted['name']}"
        if wanted["organization"] == "others":
            self.fail(403)
            return
        known = name in self.hub.repos
        if not known:
            self.hub.create(name)
            self.hub.private[name] = wanted.get("visibility") == "private"
        url = f"http://{self.headers['Host']}/{name}"
        self.send_json({"url": url}, status=409 if known else 200)

    def change(self, name: str, what: str, revision: str, body: bytes) -> None:
        if (found := self.revision(name, revision)) is None:
            self.fail(404, "RepoNotFound")
        elif what == "paths-info":
            paths = parse_qs(body.decode())["paths"]
            self.send_json([_entry(found, path) for path in paths if (found.folder / path).exists()])
        elif what == "preupload":
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(_LARGE) else "regular",
                    "shouldIgnore": False,
                    "oid": None,
                }
                for file in json.loads(body)["files"]
            ]
            self.send_json({"files": files})
        else:
            lines = [json.loads(line) for line in body.splitlines()]
            if lines[0]["value"].get("parentCommit", found.commit) != found.commit:
                self.fail(412)
                return
            commit = self.hub.commit(name, lines)
            self.send_json({"commitUrl": f"http://{self.headers['Host']}/{name}/commit/{commit}", "commitOid": commit})

    def place(self, wanted: dict[str, Any]) -> dict[str, Any]:
        """Where an LFS object goes; nowhere where it is there."""
        if self.hub.object(wanted["oid"]).exists():
            return wanted
        return {**wanted, "actions": {"upload": {"href": f"http://{self.headers['Host']}/lfs/{wanted['oid']}"}}}


def _entry(revision: Revision, name: str) -> dict[str, Any]:
    """A file of the tree; a large one with its sha256, and with its pointer's name in git."""
    entry, path = revision.entry(name), revision.folder / name
    if name.endswith(_LARGE):
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {entry['size']}\n".encode()
        entry["oid"] = hashlib.sha1(f"blob {len(pointer)}\0".encode() + pointer).hexdigest()
        entry["lfs"] = {"oid": sha256, "size": entry["size"], "pointerSize": len(pointer)}
    return entry
