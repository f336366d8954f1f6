"""Sends a command to a Ray cluster as a job, follows the job's log, and reads its exit code."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import aiohttp
from ray.exceptions import RayError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from maskmill.pipeline.cluster.connect import JOB_FOLDER
from maskmill.pipeline.interruption import EXIT_SIGNAL

POLL_S = 0.5
STOP_GRACE_S = 60
"""How long a stopped job may finish its commits before Ray kills it."""
LOG_ATTEMPTS = 5
EXIT_STOPPED = EXIT_SIGNAL + signal.SIGINT

FOLDER = "job_folder"
"""Where the working directory lies in the upload. It is not the top of the upload, because Ray puts that first on the
import path of every process of the job: a ``numpy.py`` of the user would win over what is installed."""

# With SIGINT the run ends as after Ctrl-C and finishes its commits. Ray's default is SIGTERM, and SIGKILL after 3 s.
JOB_ENVIRONMENT = {JOB_FOLDER: FOLDER, "RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_GRACE_S)}
EXCLUDES = (
    ".git",
    ".venv",
    "venv",
    "__pycache__",
    "*.egg-info",
    ".*_cache",
    ".hypothesis",
    "build",
    "dist",
    "demo",
    ".env",
    "*.pem",
    "*.key",
)


class SubmitError(RuntimeError):
    """The cluster could not be reached, refused the request, or ended the job without saying how."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Submission:
    """A job to be sent.

    entrypoint: one shell command, run in the uploaded folder. working_dir: the folder to upload. excludes: patterns as
    in .gitignore; files that match are not uploaded.
    """

    entrypoint: str
    working_dir: Path
    excludes: Sequence[str] = EXCLUDES


@contextmanager
def _submit_errors() -> Iterator[None]:
    """Turn the errors of Ray's client into SubmitError. The client raises RuntimeError, and OSError for the network."""
    try:
        yield
    except (OSError, RuntimeError, RayError) as error:
        # Ray's message says only that it could not connect; its cause says why.
        cause = error.__cause__ or error.__context__
        raise SubmitError(str(error) if cause is None else f"{str(error).rstrip('.')}: {cause}") from error


class Cluster:
    """The job server of a Ray cluster.

    address: http(s)://head:8265, or what ray.init takes; None for RAY_API_SERVER_ADDRESS or RAY_ADDRESS, else a Ray on
    this machine. ca_file: certificate authority that an https address is checked against, None for the system's. Ray's
    client adds the token of RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token. The constructor and every method
    raise SubmitError.
    """

    def __init__(self, address: str | None, ca_file: Path | None = None) -> None:
        if address is not None:
            # Ray prefers this variable to the argument, so set it: what the user typed must win.
            os.environ["RAY_API_SERVER_ADDRESS"] = address
        with _submit_errors():
            self.client = JobSubmissionClient(address, verify=True if ca_file is None else str(ca_file))

    def submit(self, submission: Submission) -> str:
        """Upload the working directory and start the job; return the job's id."""
        with _submit_errors(), TemporaryDirectory() as upload:
            Path(upload, FOLDER).symlink_to(submission.working_dir.resolve())
            return self.client.submit_job(
                entrypoint=f"cd {FOLDER} && {submission.entrypoint}",
                runtime_env={
                    "working_dir": upload,
                    "excludes": [in_upload(pattern) for pattern in submission.excludes],
                    "env_vars": JOB_ENVIRONMENT,
                },
            )

    def follow(self, job_id: str, write: Callable[[str], None]) -> int:
        """Pass the job's log to ``write`` as it grows, until the job ends; return the job's exit code."""
        written = 0
        for attempt in range(1, LOG_ATTEMPTS + 1):
            tail = _Tail(write, skip=written)
            try:
                asyncio.run(self._tail(job_id, tail))
                break
            except (RuntimeError, OSError, aiohttp.ClientError) as error:
                written = max(written, tail.seen)
                if attempt == LOG_ATTEMPTS:
                    raise SubmitError(f"lost the log of job {job_id}, which goes on: {error}") from error
                time.sleep(POLL_S * attempt)
        return self.wait(job_id)

    async def _tail(self, job_id: str, tail: _Tail) -> None:
        async for chunk in self.client.tail_job_logs(job_id):
            tail.add(chunk)

    def wait(self, job_id: str) -> int:
        """Wait until the job has ended; return its exit code."""
        while True:
            with _submit_errors():
                details = self.client.get_job_info(job_id)
            if details.status.is_terminal():
                return exit_code(details)
            time.sleep(POLL_S)

    def stop(self, job_id: str) -> int:
        """Ask the job to stop, and wait until it has ended; return its exit code. What it committed stays."""
        with _submit_errors():
            self.client.stop_job(job_id)
        return self.wait(job_id)


def in_upload(pattern: str) -> str:
    """Return a .gitignore pattern of the working directory as a pattern of the upload, where it lies in FOLDER."""
    sign = "!" if pattern.startswith("!") else ""
    bare = pattern.removeprefix("!")
    # A pattern with a slash before its end is relative to the top; any other pattern matches at every level.
    return f"{sign}/{FOLDER}/{bare.lstrip('/')}" if "/" in bare.rstrip("/") else pattern


class _Tail:
    """Passes a log on. After a lost connection the log comes from its start again: ``skip`` characters are left out."""

    def __init__(self, write: Callable[[str], None], skip: int) -> None:
        self.write = write
        self.skip = skip
        self.seen = 0

    def add(self, chunk: str) -> None:
        """Take the next piece of the log."""
        new = chunk[max(0, self.skip - self.seen) :]
        self.seen += len(chunk)
        if new:
            self.write(new)


def exit_code(details: JobDetails) -> int:
    """Return the exit code of the job's command, EXIT_STOPPED if the job was stopped.

    Raises SubmitError if the command never ran, or its node was lost.
    """
    if details.status == JobStatus.STOPPED:
        return EXIT_STOPPED
    if details.driver_exit_code is None:
        raise SubmitError(f"job {details.submission_id} ended as {details.status.value}: {details.message}")
    code = int(details.driver_exit_code)
    # Ray gives a negative code for a command that a signal ended; return 128 and the signal's number, as shells do.
    return code if code >= 0 else EXIT_SIGNAL - code
