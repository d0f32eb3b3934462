"""A Hub on the loopback interface: the part of its API that publishing and loading use."""

import base64
import hashlib
import itertools
import json
import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

LARGE = re.compile(r"\.(safetensors|parquet|png|jpg)$|^tokenizer\.json$")
TOKENS = {"hf_writer": "write", "hf_reader": "read", "hf_fine": "fineGrained"}


@dataclass
class Repository:
    """A repository: branches, commits, and whether it is private."""

    private: bool = False
    sdk: str | None = None
    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    titles: list[str] = field(default_factory=list)

    def commit(self, branch: str, files: dict[str, bytes], title: str) -> str:
        """Set a branch to these files."""
        digest = hashlib.sha1(f"{len(self.commits)} {title}".encode()).hexdigest()
        self.commits[digest], self.branches[branch] = files, digest
        self.titles.append(title)
        return digest

    def resolve(self, revision: str) -> str | None:
        """Return the commit of a branch or commit."""
        return revision if revision in self.commits else self.branches.get(revision)

    def files(self, revision: str = "main") -> dict[str, bytes]:
        """Return the files of a branch or commit."""
        return self.commits[self.resolve(revision) or ""]


class LoopbackHub(ThreadingHTTPServer):
    """The server and all that it holds.

    Attributes:
        repositories: by type ("models", "datasets", "spaces") and name.
        objects: large files by SHA-256.
        requests: method and path of each request.
        break_on: regular expression of "METHOD path"; such requests are cut off without an answer.
        break_after: bytes that an upload which is cut off gets through before.
        breaking: set when a request has been cut off.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.break_on: str | None = None
        self.break_after = 0
        self.breaking = threading.Event()
        self.pull_requests = itertools.count(1)
        self.lock = threading.Lock()

    @property
    def endpoint(self) -> str:
        """Value for HF_ENDPOINT."""
        return f"http://127.0.0.1:{self.server_port}"

    def model(self, name: str) -> Repository:
        """Return a model's repository."""
        return self.repositories["models", name]

    def handle_error(self, request, client_address) -> None:
        """Say nothing about clients that hang up."""


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    server: LoopbackHub

    def log_message(self, format, *args):
        """Keep quiet."""

    def do_HEAD(self):
        self.dispatch()

    def do_GET(self):
        self.dispatch()

    def do_POST(self):
        self.dispatch()

    def do_PUT(self):
        self.dispatch()

    def dispatch(self) -> None:
        """Find the action for a path and answer."""
        address = urlsplit(self.path)
        self.query = parse_qs(address.query)
        line = f"{self.command} {unquote(address.path)}"
        self.server.requests.append(line)
        length = int(self.headers.get("Content-Length") or 0)
        if self.server.break_on and re.search(self.server.break_on, line):
            self.rfile.read(min(length, self.server.break_after))
            self.server.breaking.set()
            self.close_connection = True
            return
        self.body = self.rfile.read(length)
        role = TOKENS.get(self.headers.get("Authorization", "").removeprefix("Bearer "))
        self.role = role
        for pattern, action, writes in ROUTES:
            if match := re.fullmatch(pattern, line):
                if "Authorization" in self.headers and role is None:
                    return self.error(401, "Invalid credentials in Authorization header")
                if writes and role != "write":
                    return self.error(403, "Forbidden: you must use a write token to upload to a repository.")
                with self.server.lock:
                    return action(self, *match.groups())
        return self.error(404, f"no such route: {line}", "EntryNotFound")

    def json(self, content, status: int = 200) -> None:
        """Answer with JSON."""
        self.answer(json.dumps(content).encode(), {"Content-Type": "application/json"}, status)

    def error(self, status: int, message: str, code: str | None = None) -> None:
        """Answer with an error as the Hub words it."""
        headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self.answer(json.dumps({"error": message}).encode(), headers | {"Content-Type": "application/json"}, status)

    def answer(self, content: bytes, headers: dict[str, str], status: int = 200, length: int | None = None) -> None:
        """Send status, headers and, unless only the head was asked for, content."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content) if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def find(self, kind: str, name: str) -> Repository | None:
        """Return a repository that the token may see, or answer that there is none."""
        repository = self.server.repositories.get((kind, name))
        if repository is None or (repository.private and self.role is None):
            self.error(401 if self.role is None else 404, "Repository not found", "RepoNotFound")
            return None
        return repository

    def whoami(self) -> None:
        if self.role is None:
            return self.error(401, "Invalid username or password.")
        token = {"role": self.role, "displayName": "test"}
        return self.json({"type": "user", "name": "tester", "orgs": [], "auth": {"accessToken": token}})

    def create(self) -> None:
        wanted = json.loads(self.body)
        key = f"{wanted.get('type') or 'model'}s", f"{wanted.get('organization') or 'tester'}/{wanted['name']}"
        if key in self.server.repositories:
            return self.json({"error": "You already created this repo", "url": key[1]}, 409)
        private = wanted.get("visibility") == "private" or bool(wanted.get("private"))
        repository = self.server.repositories[key] = Repository(private, wanted.get("sdk"))
        repository.commit(
            "main", {".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"}, "initial commit"
        )
        prefix = "" if key[0] == "models" else f"{key[0]}/"
        return self.json({"url": f"{self.server.endpoint}/{prefix}{key[1]}", "name": key[1]})

    def branch(self, kind: str, name: str, branch: str) -> None:
        if repository := self.find(kind, name):
            if branch in repository.branches:
                return self.error(409, "Reference already exists")
            repository.branches[branch] = repository.branches["main"]
            return self.json({})
        return None

    def validate_yaml(self) -> None:
        self.json({"warnings": [], "errors": []})

    def preupload(self, kind: str, name: str, revision: str) -> None:
        if repository := self.find(kind, name):
            files = repository.files(revision)
            answers = []
            for file in json.loads(self.body)["files"]:
                path = file["path"]
                large = bool(LARGE.search(path))
                known = files.get(path)
                oid = known and (hashlib.sha256(known).hexdigest() if large else git_hash(known))
                mode = "lfs" if large else "regular"
                answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
            self.json({"files": answers})

    def batch(self, prefix: str | None, name: str) -> None:
        answers = []
        for item in json.loads(self.body)["objects"]:
            answer = {"oid": item["oid"], "size": item["size"]}
            if item["oid"] not in self.server.objects:
                answer["actions"] = {"upload": {"href": f"{self.server.endpoint}/lfs/{item['oid']}"}}
            answers.append(answer)
        self.json({"transfer": "basic", "objects": answers})

    def upload(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            return self.error(400, "the content does not have the hash that it should have")
        self.server.objects[oid] = self.body
        return self.json({})

    def commit(self, kind: str, name: str, revision: str) -> None:
        if repository := self.find(kind, name):
            files, title = dict(repository.files(revision)), ""
            for line in self.body.splitlines():
                entry = json.loads(line)
                value = entry["value"]
                if entry["key"] == "header":
                    title = value["summary"]
                elif entry["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif entry["key"] == "lfsFile":
                    files[value["path"]] = self.server.objects[value["oid"]]
                elif entry["key"] == "deletedFile":
                    del files[value["path"]]
            pull_request = None
            if "create_pr" in self.query:
                revision = f"refs/pr/{next(self.server.pull_requests)}"
                pull_request = f"{self.server.endpoint}/{name}/discussions/{revision.rpartition('/')[2]}"
            digest = repository.commit(revision, files, title)
            url = f"{self.server.endpoint}/{name}/commit/{digest}"
            self.json({"success": True, "commitOid": digest, "commitUrl": url, "pullRequestUrl": pull_request})

    def info(self, kind: str, name: str, revision: str | None = None) -> None:
        if repository := self.find(kind, name):
            commit = repository.resolve(revision or "main")
            if commit is None:
                return self.error(404, "Invalid rev id", "RevisionNotFound")
            siblings = [{"rfilename": path} for path in repository.commits[commit]]
            content = {"id": name, "sha": commit, "private": repository.private, "siblings": siblings}
            return self.json(content | {"tags": [], "downloads": 0, "likes": 0, "gated": False, "disabled": False})
        return None

    def tree(self, kind: str, name: str, revision: str, folder: str | None) -> None:
        if repository := self.find(kind, name):
            commit = repository.resolve(revision)
            if commit is None:
                return self.error(404, "Invalid rev id", "RevisionNotFound")
            start = f"{folder.strip('/')}/" if folder else ""
            inside = {path: data for path, data in repository.commits[commit].items() if path.startswith(start)}
            if not inside:
                return self.error(404, "no such folder", "EntryNotFound")
            folders = {path[: at.start()] for path in inside for at in re.finditer("/", path[len(start) :])}
            folders = {start + path for path in folders} if start else folders
            entries = [file_entry(path, data) for path, data in inside.items()]
            entries += [{"type": "directory", "path": path, "oid": "0" * 40, "size": 0} for path in sorted(folders)]
            if self.query.get("recursive", ["false"])[0].lower() != "true":
                entries = [entry for entry in entries if "/" not in entry["path"][len(start) :]]
            return self.json(entries)
        return None

    def paths(self, kind: str, name: str, revision: str) -> None:
        if repository := self.find(kind, name):
            wanted = parse_qs(self.body.decode()).get("paths") or json.loads(self.body or b"{}").get("paths", [])
            files = repository.files(revision)
            self.json([file_entry(path, files[path]) for path in wanted if path in files])

    def file(self, prefix: str | None, name: str, revision: str, path: str) -> None:
        if repository := self.find((prefix or "models/").strip("/"), name):
            commit = repository.resolve(revision)
            if commit is None:
                return self.error(404, "Invalid rev id", "RevisionNotFound")
            content = repository.commits[commit].get(path)
            headers = {"X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
            if content is None:
                message = {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}
                return self.answer(b"", headers | message, 404)
            headers["ETag"] = f'"{git_hash(content)}"'
            if LARGE.search(path):
                headers |= {
                    "X-Linked-Etag": f'"{hashlib.sha256(content).hexdigest()}"',
                    "X-Linked-Size": str(len(content)),
                }
            if found := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
                begin, end = int(found[1]), int(found[2] or len(content) - 1)
                headers["Content-Range"] = f"bytes {begin}-{min(end, len(content) - 1)}/{len(content)}"
                return self.answer(content[begin : end + 1], headers, 206)
            return self.answer(content, headers)
        return None


def git_hash(content: bytes) -> str:
    """Hash a file as git does."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def file_entry(path: str, content: bytes) -> dict:
    """Describe a file as the tree does."""
    entry = {"type": "file", "path": path, "oid": git_hash(content), "size": len(content)}
    if LARGE.search(path):
        entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
    return entry


KIND, NAME = r"(models|datasets|spaces)", r"([\w.-]+/[\w.-]+)"
REVISION = r"((?:refs/pr/\d+)|[^/]+)"
ROUTES = [
    (r"GET /api/whoami-v2", Handler.whoami, False),
    (r"POST /api/repos/create", Handler.create, True),
    (r"POST /api/validate-yaml", Handler.validate_yaml, False),
    (rf"POST /api/{KIND}/{NAME}/branch/(.+)", Handler.branch, True),
    (rf"POST /api/{KIND}/{NAME}/preupload/{REVISION}", Handler.preupload, True),
    (rf"POST /api/{KIND}/{NAME}/commit/{REVISION}", Handler.commit, True),
    (rf"POST /api/{KIND}/{NAME}/paths-info/{REVISION}", Handler.paths, False),
    (rf"GET /api/{KIND}/{NAME}/tree/{REVISION}(?:/(.*))?", Handler.tree, False),
    (rf"GET /api/{KIND}/{NAME}/revision/{REVISION}", Handler.info, False),
    (rf"GET /api/{KIND}/{NAME}", Handler.info, False),
    (rf"POST /(datasets/|spaces/)?{NAME}\.git/info/lfs/objects/batch", Handler.batch, True),
    (r"PUT /lfs/(\w+)", Handler.upload, False),
    (rf"(?:GET|HEAD) /(datasets/|spaces/)?{NAME}/resolve/{REVISION}/(.+)", Handler.file, False),
]


@contextmanager
def running_hub():
    """Run a Hub while a test needs it."""
    hub = LoopbackHub()
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
