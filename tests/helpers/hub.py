"""A hub on this machine: the routes that pushing, downloading and listing ask for, over HTTP."""

import base64
import hashlib
import json
import re
import sys
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

WRITER, READER = "hf_writer", "hf_reader"  # tokens: of the user `me`, with and without the right to write
_API = re.compile(
    r"/api/(models|datasets)/([\w.-]+/[\w.-]+)(?:/(revision|tree|preupload|commit|branch|paths-info)/(.+))?"
)
_RESOLVE = re.compile(r"/(?:(datasets)/)?([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)")


@dataclass
class Repo:
    """A repository: its files at each commit, and the commits of its branches."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    gated: bool = False
    private: bool = False

    def add(self, branch: str, files: dict[str, bytes]) -> str:
        """Put `files` on a branch as a commit, whose name is returned."""
        commit = hashlib.sha1(f"{len(self.commits)}{sorted(files)}".encode()).hexdigest()
        self.commits[commit], self.refs[branch] = files, commit
        return commit

    def at(self, revision: str) -> dict[str, bytes] | None:
        return self.commits.get(self.refs.get(revision, revision))


class FakeHub:
    """`with FakeHub() as hub`: serves `repos` at `endpoint`, keeps and the `requests` of clients."""

    def __init__(self):
        self.repos: dict[str, Repo] = {}
        self.requests: list[tuple[str, str]] = []

    def __enter__(self):
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error):
        self.server.shutdown()
        self.server.server_close()

    def files(self, repo: str, revision: str = "main") -> dict[str, bytes]:
        """The files of a repository, by name; none where there is no such."""
        return self.repos[repo].at(revision) or {} if repo in self.repos else {}

    def put(self, repo: str, branch: str = "main", **files: str) -> str:
        """Change files of a repository as somebody would on its page; returns the commit."""
        there = self.repos.setdefault(repo, Repo())
        changed = {name.replace("__", "."): text.encode() for name, text in files.items()}
        return there.add(branch, {**(there.at(branch) or {}), **changed})

    def environment(self, cache, token: str | None = WRITER) -> dict[str, str]:
        """Variables by which a process takes this hub for the hub, with a cache of its own."""
        token = {"HF_TOKEN": token} if token else {}
        return {"HF_ENDPOINT": self.endpoint, "HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1", **token}


def use_hub(hub: FakeHub, cache, monkeypatch, token: str | None = WRITER) -> None:
    """Let this process take a fake hub for the hub."""
    cache.mkdir(exist_ok=True)
    for name, value in hub.environment(cache, token).items():
        monkeypatch.setenv(name, value)
    if token is None:
        monkeypatch.delenv("HF_TOKEN", raising=False)
    constants = "huggingface_hub.constants"
    monkeypatch.setattr(f"{constants}.ENDPOINT", hub.endpoint)
    template = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(f"{constants}.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(f"{constants}.HF_HUB_CACHE", str(cache / "hub"))
    monkeypatch.setattr(f"{constants}.HF_TOKEN_PATH", str(cache / "token"))
    if "datasets" in sys.modules:  # which has read the variables already
        monkeypatch.setattr("datasets.config.HF_ENDPOINT", hub.endpoint)
        monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", cache / "datasets")


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path))
        if path == "/api/whoami-v2":
            return self.answer({"name": "me", "type": "user"}) if self.token() else self.fail(401, "")
        api, resolve = _API.fullmatch(path), _RESOLVE.fullmatch(path)
        if resolve:
            return self.send_file(*resolve.groups()[1:])
        if api is None:
            return self.fail(404, "EntryNotFound")
        _, name, what, revision = api.groups()
        repo, revision = self.hub.repos.get(name), (revision or "main").split("/")[0]
        if repo is None:
            return self.fail(404, "RepoNotFound")
        if repo.gated and what == "tree":
            return self.fail(403, "GatedRepo")
        files = repo.at(revision)
        if files is None and repo.refs:
            return self.fail(404, "RevisionNotFound")
        rows = [
            {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
            for path, data in (files or {}).items()
        ]
        if what == "tree":
            return self.answer(rows)
        siblings = [{"rfilename": row["path"]} for row in rows]
        self.answer(
            {"id": name, "sha": repo.refs.get(revision, revision), "siblings": siblings, "private": repo.private}
        )

    do_HEAD = do_GET

    def do_POST(self):
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path))
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        if path == "/api/repos/create":
            return self.create(json.loads(body))
        if path == "/api/validate-yaml":  # of a card
            return self.answer({"errors": [], "warnings": []})
        _, name, what, revision = _API.fullmatch(path).groups()
        repo = self.hub.repos.get(name)
        if repo is None:
            return self.fail(404, "RepoNotFound")
        if what == "paths-info":
            return self.answer([])
        if self.token() != WRITER or not name.startswith("me/"):
            return self.fail(403, "")
        if what == "branch":
            if revision in repo.refs:
                return self.fail(409, "")
            repo.refs[revision] = repo.refs["main"]
            self.answer({})
        elif what == "preupload":
            paths = [file["path"] for file in json.loads(body)["files"]]
            self.answer({"files": [{"path": p, "uploadMode": "regular", "shouldIgnore": False} for p in paths]})
        elif what == "commit":
            self.commit(name, repo, revision, [json.loads(line) for line in body.splitlines()])

    def create(self, fields: dict):
        name = f"{fields.get('organization') or 'me'}/{fields['name']}"
        if not self.token():
            return self.fail(401, "")
        if self.token() != WRITER or not name.startswith("me/"):
            return self.fail(403, "")
        if name in self.hub.repos:
            return self.send(409, json.dumps({"error": "exists", "url": f"{self.hub.endpoint}/{name}"}).encode(), {})
        self.hub.repos[name] = Repo(private=fields.get("visibility") == "private")
        self.hub.repos[name].add("main", {".gitattributes": b""})
        self.answer({"url": f"{self.hub.endpoint}/{name}", "name": name})

    def commit(self, name: str, repo: Repo, revision: str, lines: list[dict]):
        files = dict(repo.at(revision) or {})
        for line in lines:
            if line["key"] == "deletedFile":
                files.pop(line["value"]["path"])
            elif line["key"] == "file":
                files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        commit = repo.add(revision, files)
        self.answer({"success": True, "commitOid": commit, "commitUrl": f"{self.hub.endpoint}/{name}/commit/{commit}"})

    def send_file(self, name: str, revision: str, path: str):
        repo = self.hub.repos.get(name)
        files = None if repo is None else repo.at(revision)
        if files is None or path not in files:
            code = "RepoNotFound" if repo is None else "RevisionNotFound" if files is None else "EntryNotFound"
            return self.fail(404, code)
        if repo.gated:
            return self.fail(403, "GatedRepo")
        etag = f'"{hashlib.sha1(files[path]).hexdigest()}"'
        self.send(200, files[path], {"ETag": etag, "X-Repo-Commit": repo.refs.get(revision, revision)})

    def token(self) -> str | None:
        """That of the request; any but the two known ones is none."""
        token = (self.headers["Authorization"] or "").removeprefix("Bearer ")
        return token if token in (WRITER, READER) else None

    def answer(self, body):
        self.send(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def fail(self, status: int, code: str):
        self.send(status, json.dumps({"error": code or "refused"}).encode(), {"X-Error-Code": code} if code else {})

    def send(self, status: int, data: bytes, headers: dict[str, str]):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *words):
        pass
