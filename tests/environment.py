"""The environment of all processes that tests start: how many threads they use, and where their Rays live."""

from __future__ import annotations

import os
import sys
import tempfile

THREADS = 1
"""Threads of torch in this process and in those it starts: several run at once, and one thread's sums repeat best."""


def set_threads() -> None:
    """Set the threads of this process and of those it starts, whatever the environment says and a test has set."""
    os.environ["OMP_NUM_THREADS"] = str(THREADS)
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # where a test asks for two, one that waits leaves the core to others
    torch = sys.modules.get("torch")  # not imported here: many tests do without it
    if torch is not None and torch.get_num_threads() != THREADS:
        torch.set_num_threads(THREADS)


def own_ray_folder() -> str:
    """Give all Rays started from now on a folder for their sessions; returns it.

    No other program on the machine finds these Rays there, and none of theirs is found from here. Their workers run
    with full priority (Ray's own choice is the lowest but four), so that time-outs mean the same on a busy machine.
    """
    folder = tempfile.mkdtemp(prefix="mm-")  # a short path, because Ray's sockets lie below it
    os.environ.pop("RAY_ADDRESS", None)
    os.environ["RAY_TMPDIR"] = folder
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 (Ray's own spelling)
    return folder
