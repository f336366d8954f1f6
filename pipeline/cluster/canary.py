"""Runs one small task before the work, to find out whether the workers of this Ray can run anything, and if not, why.

Ray restarts a worker that dies without limit, and tells the driver little about it: a worker that dies before it has
registered with Ray leaves its error in a log file only.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray

from maskmill.pipeline.cluster.attended import WorkersBrokenError, attended

OWN_RAY_ANSWERS_S = 240.0
"""How long a Ray that was started for this run may take to answer. It has room at once, so later no answer comes."""
BELIEVED_S = 10.0
"""After this time without an answer, errors in the logs of workers are taken for the reason."""
SHOWN_LINES = 30
_TAIL_BYTES = 64 * 2**10
_FAILURE = re.compile(r"Traceback|Error|Fatal|\*\*\* SIG|cannot open|No such file|No space|not found", re.IGNORECASE)
_RAY_LINE = re.compile(r"^(\[\d{4}-\d\d-\d\d |:job_id:|:task_name:|:actor_name:)")


class WorkerLogs:
    """The logs that workers of this machine write, if Ray runs on this machine.

    own_ray: this run started Ray, so all lines count, including those of workers that started before this object was
    made; else only lines written from now on.
    """

    def __init__(self, *, own_ray: bool = False) -> None:
        self.sizes = {} if own_ray else {path.name: path.stat().st_size for path in self._files()}

    @property
    def folder(self) -> Path | None:
        """Return the folder of Ray's logs, None before Ray has one."""
        node: Any = ray._private.worker._global_node  # Ray has no public way to this folder
        return None if node is None else Path(node.get_logs_dir_path())

    def look(self, waited_s: float) -> None:
        """Raise WorkersBrokenError if a worker has written an error and ``waited_s`` is more than BELIEVED_S."""
        if waited_s > BELIEVED_S and (error := self.error()) is not None:
            raise WorkersBrokenError(f"Ray's workers cannot start; the last one wrote (see {self.folder}):\n{error}")

    def _files(self) -> list[Path]:
        folder = self.folder
        return [] if folder is None else [*folder.glob("raylet.err"), *folder.glob("worker-*.err")]

    def error(self) -> str | None:
        """Return the last error that a worker wrote, None if there is none."""
        for path in sorted(self._files(), key=lambda path: path.stat().st_mtime, reverse=True):
            with path.open("rb") as stream:
                stream.seek(max(self.sizes.get(path.name, 0), path.stat().st_size - _TAIL_BYTES))
                text = stream.read().decode("utf-8", "replace")
            lines = [line for line in text.splitlines() if line.strip() and not _RAY_LINE.match(line)]
            if any(_FAILURE.search(line) for line in lines):
                return "\n".join(lines[-SHOWN_LINES:])
        return None


def check_workers(options: Mapping[str, Any], *, own_ray: bool, timeout_s: float) -> None:
    """Let a worker import what the stages import. Raises WorkersBrokenError if it cannot, with its error where known.

    options: Ray's options of the task, such as num_cpus and label_selector. own_ray: this run started Ray, which then
    has room at once, while a cluster may have to grow first. timeout_s: how long to wait for an answer. Also raises
    what :func:`maskmill.pipeline.cluster.attended.attended` raises.
    """
    timeout_s = min(timeout_s, OWN_RAY_ANSWERS_S) if own_ray else timeout_s
    logs = WorkerLogs(own_ray=own_ray)

    task = ray.remote(max_retries=1, **options)(_import)
    try:
        attended(
            lambda: ray.get(task.remote()),
            timeout_s=timeout_s,
            what="the first task of a worker",
            look=logs.look,
        )
    except ray.exceptions.RayTaskError as error:
        # The error's text holds the traceback of the worker; its last line says what the worker lacks.
        raise WorkersBrokenError(f"Ray's workers cannot load this program:\n{error}") from None
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.RaySystemError) as error:
        written = logs.error() or "Ray's own lines above may tell why"
        raise WorkersBrokenError(f"Ray's workers die with every task ({type(error).__name__}):\n{written}") from None


def _import() -> int:
    """Import the modules that the stages without a model need, and return the process id."""
    from maskmill.pipeline.cluster import trail  # noqa: F401
    from maskmill.pipeline.output import commit  # noqa: F401
    from maskmill.pipeline.stages import encode, read  # noqa: F401

    return os.getpid()
