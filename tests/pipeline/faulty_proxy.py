"""An HTTP proxy before an S3 server that breaks the requests it is told to break."""

from __future__ import annotations

import http.client
import socket
import struct
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

Fault = Callable[[str, str, int], str | None]
"""(method, path with query, request number from 0) -> what happens to the request, None for nothing.

"500", "503", "403": answered so. "reset": the connection is. "stall": nothing for some time, then the end. "truncate":
half of the body comes. "lost": done, but the answer never comes.
"""

STALL_S = 6.0
_ERRORS = {"500": "InternalError", "503": "SlowDown", "403": "AccessDenied"}


class FaultyProxy:
    """Forwards to ``upstream`` from a port of its own; ``fault`` may be set at any time, ``broken`` counts."""

    def __init__(self, upstream: str, stall_s: float = STALL_S) -> None:
        self.stall_s = stall_s
        self.fault: Fault = lambda method, path, number: None
        self.requests = 0
        self.broken = 0
        self._upstream = urlsplit(upstream).netloc
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._closed.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _next_fault(self, method: str, path: str) -> str | None:
        with self._lock:
            fault = self.fault(method, path, self.requests)
            self.requests += 1
            self.broken += fault is not None
            return fault

    def _handler(proxy) -> type[BaseHTTPRequestHandler]:  # noqa: N805
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def forward(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                fault = proxy._next_fault(self.command, self.path)
                if fault == "reset":
                    self.reset()
                    return
                if fault == "stall":
                    # Either the client has gone by then, or it learns that it has to ask again.
                    proxy._closed.wait(proxy.stall_s)
                    self.close_connection = True
                    return
                if fault in _ERRORS:
                    self.fail(int(fault), _ERRORS[fault])
                    return
                upstream = http.client.HTTPConnection(proxy._upstream, timeout=30)
                headers = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
                upstream.request(self.command, self.path, body, headers)
                response = upstream.getresponse()
                data = response.read()
                if fault == "lost":
                    self.reset()
                    return
                self.send_response_only(response.status)
                for name, value in response.getheaders():
                    if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                        self.send_header(name, value)
                length = response.getheader("Content-Length", "0") if self.command == "HEAD" else str(len(data))
                self.send_header("Content-Length", length)
                self.end_headers()
                if fault == "truncate" and data:
                    self.wfile.write(data[: len(data) // 2])
                    self.close_connection = True
                else:
                    self.wfile.write(data)
                upstream.close()

            def reset(self) -> None:
                # With this option closing sends a reset instead of an orderly end.
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.close_connection = True
                self.connection.close()

            def fail(self, status: int, code: str) -> None:
                data = b"" if self.command == "HEAD" else f"<Error><Code>{code}</Code></Error>".encode()
                self.send_response_only(status)
                self.send_header("Content-Type", "application/xml")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = forward

            def log_message(self, *arguments: object) -> None:
                pass

        return Handler
