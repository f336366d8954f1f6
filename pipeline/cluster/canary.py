"""One small task before the work: can the workers of this Ray run anything at all? If not, why?

Ray starts a worker that dies again and again, without end, and tells the driver little of it: a worker that dies before
it has reported to Ray leaves its error in a log file only.
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
"""A Ray started for this run has room from the beginning. Beyond this no worker can start, whatever the reason."""
BELIEVED_S = 10.0
"""After so long without an answer, errors in the logs of workers are believed to be the reason."""
SHOWN_LINES = 30
_TAIL_BYTES = 64 * 2**10
_FAILURE = re.compile(r"Traceback|Error|Fatal|\*\*\* SIG|cannot open|No such file|No space|not found", re.IGNORECASE)
_RAY_LINE = re.compile(r"^(\[\d{4}-\d\d-\d\d |:job_id:|:task_name:|:actor_name:)")


class WorkerLogs:
    """What workers of this machine write to the session's logs, where Ray runs here.

    own_ray: all of it counts, since workers begin before anybody asks for one; else only what is written from now on.
    """

    def __init__(self, *, own_ray: bool = False) -> None:
        self.sizes = {} if own_ray else {path.name: path.stat().st_size for path in self._files()}

    @property
    def folder(self) -> Path | None:
        """The folder of the session, None before Ray has one."""
        node: Any = ray._private.worker._global_node  # the only way to a session's folder
        return None if node is None else Path(node.get_logs_dir_path())

    def look(self, waited_s: float) -> None:
        """Raise WorkersBrokenError if a worker wrote an error and nothing has answered for ``waited_s``, too long."""
        if waited_s > BELIEVED_S and (error := self.error()) is not None:
            raise WorkersBrokenError(f"Ray's workers cannot start; the last one wrote (see {self.folder}):\n{error}")

    def _files(self) -> list[Path]:
        folder = self.folder
        return [] if folder is None else [*folder.glob("raylet.err"), *folder.glob("worker-*.err")]

    def error(self) -> str | None:
        """The last error that a worker wrote, None if there is none."""
        for path in sorted(self._files(), key=lambda path: path.stat().st_mtime, reverse=True):
            with path.open("rb") as stream:
                stream.seek(max(self.sizes.get(path.name, 0), path.stat().st_size - _TAIL_BYTES))
                text = stream.read().decode("utf-8", "replace")
            lines = [line for line in text.splitlines() if line.strip() and not _RAY_LINE.match(line)]
            if any(_FAILURE.search(line) for line in lines):
                return "\n".join(lines[-SHOWN_LINES:])
        return None


def check_workers(options: Mapping[str, Any], *, own_ray: bool, timeout_s: float) -> None:
    """Have a worker import what the stages import. Raises WorkersBrokenError, with the worker's error where known.

    options: of the task, such as num_cpus and label_selector. own_ray: this Ray was started for the work, so it has
    room at once; a cluster may have to grow first. timeout_s: how long to wait for an answer. Also raises what
    :func:`maskmill.pipeline.cluster.attended.attended` raises.
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
        # Its text holds the worker's traceback, whose last line says what is missing there.
        raise WorkersBrokenError(f"Ray's workers cannot load this program:\n{error}") from None
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.RaySystemError) as error:
        written = logs.error() or "Ray's own lines above may tell why"
        raise WorkersBrokenError(f"Ray's workers die with every task ({type(error).__name__}):\n{written}") from None


def _import() -> int:
    """Import what workers of the stages without a model import."""
    # Importing these modules is the point of the task.
    from maskmill.pipeline.cluster import trail  # noqa: F401
    from maskmill.pipeline.output import commit  # noqa: F401
    from maskmill.pipeline.stages import encode, read  # noqa: F401

    return os.getpid()
