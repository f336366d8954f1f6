"""Lets one attempt at a time write to an output: a lease there names the attempt, which renews it while it runs."""

from __future__ import annotations

import getpass
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from maskmill.pipeline.output.folder import Output

log = logging.getLogger(__name__)

LEASE = "_lease.json"
RENEW_S = 10.0
LAPSES_S = 60.0
"""A lease that has not been renewed for so long is void: its holder is gone, or cannot write any more."""


class LeaseHeldError(RuntimeError):
    """Another attempt is writing to the output."""


class LeaseLostError(RuntimeError):
    """Another attempt has taken over; this one stops, and the shards that either has committed stay."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Lease:
    """The contents of the lease file. Times are seconds since 1970."""

    attempt: str
    user: str
    host: str
    pid: int
    process: str
    acquired_at: float
    renewed_at: float

    def is_void(self, now: float) -> bool:
        """Whether the holder is gone: its process on this machine has ended, or it has been silent for LAPSES_S."""
        if now - self.renewed_at > LAPSES_S:
            return True
        return self.host == socket.gethostname() and self.process != _process_identity(self.pid)


def _process_identity(pid: int) -> str:
    """A text that tells a process from later ones of the same number, also after a reboot; "" if none runs."""
    try:
        started = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return f"{boot}/{started}"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # containers often run under a user number without a name
        return str(os.getuid())


def _new_lease(attempt: str) -> Lease:
    now, pid = time.time(), os.getpid()
    return Lease(
        attempt=attempt,
        user=_user(),
        host=socket.gethostname(),
        pid=pid,
        process=_process_identity(pid),
        acquired_at=now,
        renewed_at=now,
    )


class LeaseKeeper:
    """Holds the lease of one attempt and renews it from a separate thread."""

    def __init__(self, output: Output, attempt: str) -> None:
        self.output = output
        self.lease = _new_lease(attempt)
        self.taken_by: Lease | None = None
        self.failure: Exception | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    def check(self) -> None:
        """Raise LeaseLostError if another attempt has taken over, or the error that stopped the renewals."""
        if self.failure is not None:
            raise self.failure
        if self.taken_by is not None:
            raise LeaseLostError(f"attempt {self.taken_by.attempt} on {self.taken_by.host} has taken over the output")

    def check_now(self) -> None:
        """Renew the lease now, then do as :meth:`check`."""
        self.check()
        self._renew_once()
        self.check()

    def start(self, take_over: bool) -> None:
        """Take the lease. Raises LeaseHeldError, naming the holder, unless it is void or ``take_over``."""
        held = read_lease(self.output)
        now = time.time()
        if held is not None and not held.is_void(now) and not take_over:
            raise LeaseHeldError(
                f"the output is in use by {held.user}@{held.host} (process {held.pid}, attempt {held.attempt}), "
                f"since {now - held.acquired_at:.0f} s, last heard of {now - held.renewed_at:.0f} s ago; wait for it, "
                "or use --take-over if it is gone"
            )
        self._write()
        self._thread.start()

    def stop(self) -> None:
        """Give the lease back, unless another attempt holds it by now."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        held = read_lease(self.output)
        if held is not None and held.attempt == self.lease.attempt:
            self.output.remove(LEASE)

    def _renew(self) -> None:
        try:
            while self.taken_by is None and not self._stop.wait(RENEW_S):
                self._renew_once()
        except Exception as error:  # noqa: BLE001 (raised by check, in the thread that can act on it)
            self.failure = error

    def _renew_once(self) -> None:
        held = read_lease(self.output)
        if held is not None and held.attempt != self.lease.attempt:
            self.taken_by = held
            return
        self.lease = replace(self.lease, renewed_at=time.time())
        self._write()

    def _write(self) -> None:
        self.output.write_json(LEASE, asdict(self.lease))


def read_lease(output: Output) -> Lease | None:
    """Who holds the output now, None if nobody does."""
    plain = output.read_json(LEASE)
    return None if plain is None else Lease(**plain)


@contextmanager
def held_lease(output: Output, attempt: str, take_over: bool) -> Iterator[LeaseKeeper]:
    """Hold the lease while the body runs. A signal that arrives while the lease is taken gives it back as well."""
    keeper = LeaseKeeper(output, attempt)
    try:
        keeper.start(take_over)
        yield keeper
    finally:
        keeper.stop()
