"""The webhook: what arrives over HTTP, what is tried again, and what is never told."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from maskmill.pipeline.run import notify as module
from maskmill.pipeline.run.notify import ended_message, notify
from tests.end_to_end.conftest import command_here


class Hook:
    """A web server that keeps what it is sent and answers with the next of ``answers``, then 200."""

    def __init__(self) -> None:
        self.received: list[dict[str, Any]] = []
        self.answers: list[int] = []
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                hook.received.append(json.loads(body))
                self.send_response(hook.answers.pop(0) if hook.answers else 200)
                self.end_headers()

            def log_message(self, *arguments: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/hooks/s3cret"


@pytest.fixture
def hook() -> Iterator[Hook]:
    hook = Hook()
    yield hook
    hook.server.shutdown()


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE_S", 0.0)


def message(error: str | None = None) -> dict[str, Any]:
    summary = {"attempt_images": 7, "attempt_failed": 2}
    return ended_message(output="s3://b/out", exit_code=3, run_id="r", summary=summary, error=error)


def test_the_summary_arrives(hook: Hook) -> None:
    assert notify(hook.url, message())
    (received,) = hook.received
    assert received["text"] == "maskmill: s3://b/out ended with exit code 3: 7 images labelled now, 2 of them failed"
    assert (received["event"], received["exit_code"], received["summary"]["attempt_failed"]) == ("run_ended", 3, 2)


def test_a_server_error_is_tried_again(hook: Hook) -> None:
    hook.answers = [503, 502]
    assert notify(hook.url, message())
    assert len(hook.received) == 3


@pytest.mark.parametrize("gone", [False, True])
def test_a_failure_is_logged_without_the_address(hook: Hook, gone: bool, caplog: pytest.LogCaptureFixture) -> None:
    hook.answers = [500] * 3
    url = "http://127.0.0.1:9/hooks/s3cret" if gone else hook.url
    assert not notify(url, message())
    assert "could not be sent" in caplog.text
    assert "s3cret" not in caplog.text


def test_wrong_usage_of_an_unattended_run_is_told_too(hook: Hook, tmp_path: Path) -> None:
    places = (tmp_path / "nothing", tmp_path / "out", "--classes", "cat,dog")
    done = command_here("label", *places, "--notify-url", hook.url)
    assert done.returncode == 2
    (received,) = hook.received
    assert (received["exit_code"], received["summary"]) == (2, None)
    assert "no such file or folder" in received["error"]
    assert "s3cret" not in done.stderr


def test_a_bad_address_is_refused_without_repeating_it(tmp_path: Path) -> None:
    done = command_here("label", tmp_path, tmp_path / "out", "--classes", "cat", "--notify-url", "hooks.example/s3cret")
    assert done.returncode == 2
    assert "--notify-url must begin with http:// or https://" in done.stderr
    assert "s3cret" not in done.stderr
