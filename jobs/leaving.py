"""Ends a command whose threads cannot be ended."""

from __future__ import annotations

import os
import sys
from typing import NoReturn


def leave(exit_code: int) -> NoReturn:
    """End this process now: a thread is still inside Ray, and tearing the interpreter down under it crashes.

    A Ray of our own ends with its driver; in a cluster this ends the job's actors.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)
