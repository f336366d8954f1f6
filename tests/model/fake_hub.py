"""A small Hugging Face hub on loopback that counts what it is asked for and can refuse or break off first."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class FakeHub:
    """Serves repositories of local folders. ``refuse``: how many requests get 429 before any is answered.

    ``break_off``: how many downloads of weights end in the middle. ``requests``: (method, path) -> how often.
    """

    def __init__(self, folders: dict[str, Path], *, refuse: int = 0, break_off: int = 0) -> None:
        self.folders, self.refuse, self.break_off = folders, refuse, break_off
        self.requests: Counter[tuple[str, str]] = Counter()
        self.lock = threading.Lock()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *arguments: object) -> None:
                pass

            def do_GET(self) -> None:
                hub.answer(self)

            do_HEAD = do_GET

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def commit(self, repository: str) -> str:
        """The repository's one commit: a hash of its files."""
        digest = hashlib.sha1(usedforsecurity=False)
        for path in sorted(self.folders[repository].iterdir()):
            digest.update(path.name.encode() + path.read_bytes())
        return digest.hexdigest()

    def downloads(self, name: str) -> int:
        """How often a file was asked for with GET."""
        return sum(n for (method, path), n in self.requests.items() if method == "GET" and path.endswith("/" + name))

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path = request.path.split("?")[0]
        with self.lock:
            self.requests[request.command, path] += 1
            refused = self.refuse > 0
            self.refuse -= refused
        if refused:
            return self._send(request, 429, b"slow down", {"Retry-After": "0"})
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?", path):
            return self._describe(request, *match.groups())
        if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self._file(request, *match.groups())
        return self._send(request, 404, b"")

    def _describe(self, request: BaseHTTPRequestHandler, repository: str, what: str | None, revision: str) -> None:
        if repository not in self.folders:
            return self._send(request, 404, b"{}", {"X-Error-Code": "RepoNotFound"})
        commit = self.commit(repository)
        if revision not in (None, "main", commit):
            return self._send(request, 404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        paths = sorted(self.folders[repository].iterdir())
        if what == "tree":
            entries = [
                {"type": "file", "path": path.name, "size": path.stat().st_size, "oid": "0" * 40} for path in paths
            ]
            return self._send(request, 200, json.dumps(entries).encode())
        description = {"id": repository, "sha": commit, "siblings": [{"rfilename": path.name} for path in paths]}
        return self._send(request, 200, json.dumps(description).encode())

    def _file(self, request: BaseHTTPRequestHandler, repository: str, revision: str, name: str) -> None:
        path = self.folders.get(repository, Path("/nowhere")) / name
        if not path.is_file():
            return self._send(request, 404, b"", {"X-Error-Code": "EntryNotFound"})
        data = path.read_bytes()
        headers = {"X-Repo-Commit": self.commit(repository), "ETag": f'"{hashlib.sha256(data).hexdigest()}"'}
        with self.lock:
            broken = request.command == "GET" and name.endswith(".safetensors") and self.break_off > 0
            self.break_off -= broken
        return self._send(request, 200, data, headers, broken=broken)

    def _send(
        self,
        request: BaseHTTPRequestHandler,
        status: int,
        body: bytes,
        headers: dict[str, str] | None = None,
        *,
        broken: bool = False,
    ) -> None:
        request.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        if request.command == "HEAD":
            return
        request.wfile.write(body[: len(body) // 2] if broken else body)
        if broken:
            request.wfile.flush()
            request.close_connection = True
