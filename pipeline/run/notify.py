"""Sends how a run ended to a web address. A failure to send never changes the exit code."""

from __future__ import annotations

import http.client
import json
import logging
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

log = logging.getLogger(__name__)

TIMEOUT_S = 10.0
ATTEMPTS = 3
PAUSE_S = 1.0


def ended_message(
    *, output: str, exit_code: int, run_id: str | None, summary: Mapping[str, Any] | None, error: str | None
) -> dict[str, Any]:
    """Return the JSON to send. ``text`` is for people: chat services such as Slack show only that key."""
    counts = ""
    if summary is not None:
        counts = f": {summary['attempt_images']} images labelled now, {summary['attempt_failed']} of them failed"
    return {
        "text": f"maskmill: {output} ended with exit code {exit_code}{counts}{f' ({error})' if error else ''}",
        "event": "run_ended",
        "output": output,
        "run_id": run_id,
        "exit_code": exit_code,
        "error": error,
        "summary": None if summary is None else dict(summary),
    }


def notify(url: str, message: Mapping[str, Any]) -> bool:
    """POST ``message`` as JSON to ``url`` (http or https), at most ATTEMPTS times; return whether it was accepted.

    A failure is logged without the address, because such addresses often hold a secret.
    """
    data, headers = json.dumps(message).encode(), {"Content-Type": "application/json", "User-Agent": "maskmill"}
    reason = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(PAUSE_S)
        try:
            request = urllib.request.Request(url, data, headers)  # noqa: S310 (http and https only, by configuration)
            with urllib.request.urlopen(request, timeout=TIMEOUT_S):  # noqa: S310 (as above)
                return True
        except urllib.error.HTTPError as error:
            reason = f"HTTP status {error.code}"
        except (OSError, ValueError, http.client.HTTPException) as error:
            reason = type(error).__name__
    log.warning("the end of the run could not be sent to --notify-url: %s", reason)
    return False
