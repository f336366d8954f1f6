"""A web server whose answers depend on the path asked for, for tests of what lists name."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ENDLESS_PIECE = b"x" * 2**16


class OddServer:
    """Answers by path.

    ``/N`` answers with status N, ``/reset`` resets, ``/to?PLACE`` redirects there, ``/loop`` to itself, ``/endless``
    announces ten bytes and never ends.
    files: path -> bytes, which are served as they are. seen: (path, headers) of every request.
    """

    def __init__(self, files: Mapping[str, bytes], host: str = "127.0.0.1") -> None:
        self.files = dict(files)
        self.seen: list[tuple[str, dict[str, str]]] = []
        self._server = ThreadingHTTPServer((host, 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.port = self._server.server_port
        self.host = f"{host}:{self.port}"
        self.url = f"http://{self.host}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def headers(self, path: str) -> list[dict[str, str]]:
        """The headers of the requests for ``path``."""
        return [headers for seen, headers in self.seen if seen == path]

    def _handler(odd) -> type[BaseHTTPRequestHandler]:  # noqa: N805, C901 (one branch a kind of answer)
        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                path, _, query = self.path.partition("?")
                odd.seen.append((path, {name.lower(): value for name, value in self.headers.items()}))
                if path == "/reset":
                    self.reset()
                elif path in ("/to", "/loop"):
                    self.reply(302, b"", Location=query or path)
                elif path == "/endless":
                    self.endless()
                elif path in odd.files:
                    self.reply(200, odd.files[path])
                else:
                    self.reply(int(path[1:]) if path[1:].isdecimal() else 404, b"")

            def reply(self, status: int, data: bytes, **headers: str) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data)

            def reset(self) -> None:
                # With this option closing sends a reset instead of an orderly end.
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()

            def endless(self) -> None:
                self.send_response(200)
                if self.command == "HEAD":
                    self.send_header("Content-Length", "10")
                self.end_headers()
                while self.command != "HEAD":
                    try:
                        self.wfile.write(ENDLESS_PIECE)
                    except OSError:
                        return

            do_GET = do_HEAD = answer

            def log_message(self, *arguments: object) -> None:
                pass

        return Handler
