"""A server of this machine that speaks the Hub's API, as far as its client needs it for models."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_" + "a" * 34
LARGE = ".safetensors"  # goes by LFS


@dataclass
class Repository:
    """A model: what its commits hold, by their hash, and where its branches stand."""

    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes], message: str = "", branch: str = "main") -> str:
        before = self.commits.get(self.branches.get(branch, ""), {})
        oid = hashlib.sha1(f"{branch}{len(self.commits)}".encode()).hexdigest()
        self.commits[oid] = before | files
        self.branches[branch] = oid
        self.messages.append(message)
        return oid

    def head(self, branch: str = "main") -> dict[str, bytes]:
        return self.commits[self.branches[branch]]


@dataclass
class FakeHub:
    """The models, what was uploaded by LFS, and the requests made."""

    address: str = ""
    models: dict[str, Repository] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: FakeHub

    def _serve(self) -> None:
        path = unquote(urlsplit(self.path).path)
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        self.hub.requests.append(f"{self.command} {path}")
        for method, pattern, answer in _ROUTES:
            found = re.fullmatch(pattern, path)
            if self.command in method.split() and found:
                answer(self, *found.groups(), body=body)
                return
        self._answer(404, b"")

    do_GET = do_HEAD = do_POST = do_PUT = _serve  # noqa: N815

    @property
    def known(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _json(self, value: Any, status: int = 200) -> None:
        self._answer(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _error(self, status: int, code: str, message: str) -> None:
        self._answer(status, b"", {"X-Error-Code": code, "X-Error-Message": message})

    def _commit_of(self, model: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """Return a revision's hash and files; else answer as the Hub does."""
        repository = self.hub.models.get(model)
        if repository is None or (repository.private and not self.known):
            self._error(401, "RepoNotFound", "Repository not found")
            return None
        oid = repository.branches.get(revision, revision)
        if oid not in repository.commits:
            self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return None
        return oid, repository.commits[oid]

    def create(self, *, body: bytes) -> None:
        asked = json.loads(body)
        if not self.known:
            self._error(401, "", "Invalid username or password.")
            return
        name = f"{asked['organization']}/{asked['name']}"
        there = name in self.hub.models
        private = asked.get("visibility") == "private" or asked.get("private") is True
        self.hub.models.setdefault(name, Repository(private))
        self._json({"url": f"{self.hub.address}/{name}", "id": name}, 409 if there else 200)

    def branch(self, model: str, branch: str, *, body: bytes) -> None:  # noqa: ARG002
        repository = self.hub.models[model]
        if branch not in repository.branches:
            repository.branches[branch] = repository.branches.get("main") or repository.commit({})
        self._json({})

    def info(self, model: str, revision: str | None = None, *, body: bytes) -> None:  # noqa: ARG002
        if found := self._commit_of(model, revision or "main"):
            files = [{"rfilename": name} for name in found[1]]
            self._json({"id": model, "sha": found[0], "siblings": files, "tags": []})

    def tree(self, model: str, revision: str, *, body: bytes) -> None:  # noqa: ARG002
        if found := self._commit_of(model, revision):
            self._json(
                [
                    {"type": "file", "path": name, "size": len(data), "oid": _git_oid(data)}
                    | (
                        {"lfs": {"oid": _sha(data), "size": len(data), "pointerSize": 130}}
                        if name.endswith(LARGE)
                        else {}
                    )
                    for name, data in found[1].items()
                ]
            )

    def resolve(self, model: str, revision: str, file: str, *, body: bytes) -> None:  # noqa: ARG002
        found = self._commit_of(model, revision)
        if found and file not in found[1]:
            self._error(404, "EntryNotFound", "Entry not found")
        elif found:
            data = found[1][file]
            tag = _sha(data) if file.endswith(LARGE) else _git_oid(data)
            self._answer(200, data, {"X-Repo-Commit": found[0], "ETag": f'"{tag}"'})

    def valid(self, *, body: bytes) -> None:
        assert json.loads(body)["content"].startswith("---\n")
        self._json({"errors": [], "warnings": []})

    def preupload(self, model: str, revision: str, *, body: bytes) -> None:
        if not self.known:
            self._error(403, "", "Forbidden: you have no right to write here")
        elif revision not in {*self.hub.models[model].branches, "main"}:
            self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        else:
            files = [each["path"] for each in json.loads(body)["files"]]
            self._json(
                {
                    "files": [
                        {
                            "path": name,
                            "uploadMode": "lfs" if name.endswith(LARGE) else "regular",
                            "shouldIgnore": False,
                        }
                        for name in files
                    ]
                }
            )

    def batch(self, model: str, *, body: bytes) -> None:  # noqa: ARG002
        objects = [
            {
                **each,
                "actions": {"upload": {"href": f"{self.hub.address}/large/{each['oid']}"}},
            }
            for each in json.loads(body)["objects"]
        ]
        self._json({"transfer": "basic", "objects": objects})

    def put(self, oid: str, *, body: bytes) -> None:
        assert _sha(body) == oid
        self.hub.large[oid] = body
        self._answer(200, b"")

    def commit(self, model: str, revision: str, *, body: bytes) -> None:
        header, *lines = [json.loads(line) for line in body.splitlines()]
        files = {}
        for line in lines:
            value = line["value"]
            files[value["path"]] = (
                self.hub.large[value["oid"]]
                if line["key"] == "lfsFile"
                else base64.b64decode(value["content"])
            )
        summary = header["value"]["summary"]
        oid = self.hub.models[model].commit(files, summary, revision)
        self._json({"commitUrl": f"{self.hub.address}/{model}/commit/{oid}", "commitOid": oid})

    def log_message(self, format: str, *args: object) -> None:
        pass


_MODEL = "([^/]+/[^/]+)"
_ROUTES = [
    ("POST", "/api/repos/create", _Handler.create),
    ("POST", f"/api/models/{_MODEL}/branch/(.+)", _Handler.branch),
    ("GET", f"/api/models/{_MODEL}", _Handler.info),
    ("GET", f"/api/models/{_MODEL}/revision/(.+)", _Handler.info),
    ("GET", f"/api/models/{_MODEL}/tree/([^/]+)/?", _Handler.tree),
    ("GET HEAD", f"/{_MODEL}/resolve/([^/]+)/(.+)", _Handler.resolve),
    ("POST", "/api/validate-yaml", _Handler.valid),
    ("POST", f"/api/models/{_MODEL}/preupload/(.+)", _Handler.preupload),
    ("POST", f"/{_MODEL}.git/info/lfs/objects/batch", _Handler.batch),
    ("PUT", "/large/([0-9a-f]+)", _Handler.put),
    ("POST", f"/api/models/{_MODEL}/commit/(.+)", _Handler.commit),
]


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@contextmanager
def hub_server() -> Iterator[FakeHub]:
    """Serve an empty Hub on the loopback."""
    hub = FakeHub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.block_on_close = False  # the client keeps its connections open
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
