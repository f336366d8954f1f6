"""Reads what waits in front of every stage of the running graph, for diagnoses and measurements.

Ray Data gives this to its progress bars only, so this module reads the internals of its executor. The bounds on Ray's
version in pyproject.toml, and a test, guard against changes of these internals.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Sequence
from dataclasses import dataclass

from ray.data import DataContext
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.data._internal.execution.streaming_executor import StreamingExecutor
from ray.data._internal.execution.streaming_executor_state import OpState

_STAGE = re.compile(r"MapBatches\((\w+)\)")
_running: weakref.WeakSet[StreamingExecutor] = weakref.WeakSet()


@dataclass(frozen=True, kw_only=True, slots=True)
class StageQueue:
    """The state of a stage at one moment.

    queued_blocks, queued_bytes: output of the stage before that waits. tasks: running, or sent to an actor. actors:
    alive. actors_starting: starting or restarting. Both are 0 for a stage that runs as tasks.
    """

    stage: str
    queued_blocks: int
    queued_bytes: int
    tasks: int
    actors: int
    actors_starting: int

    def __str__(self) -> str:
        waiting = f"{self.queued_blocks} blocks of {self.queued_bytes / 2**20:.1f} MiB queued"
        text = f"{self.stage}: {waiting}, {self.tasks} tasks"
        if self.actors or self.actors_starting:
            text += f", {self.actors} actors alive, {self.actors_starting} starting"
        return text


class _Remember(ExecutionCallback):
    def before_execution_starts(self, executor: StreamingExecutor) -> None:
        _running.add(executor)


def watch_queues(context: DataContext) -> None:
    """Remember the graphs that run in this process from now on, so that :func:`stage_queues` can read them."""
    if _Remember not in context.custom_execution_callback_classes:
        context.custom_execution_callback_classes.append(_Remember)


def stage_queues() -> Sequence[StageQueue]:
    """Return the stages of the running graph in order; none if no graph runs."""
    return [
        _stage_queue(stages, state)
        for executor in list(_running)
        if executor.is_alive()
        for operator, state in (executor._topology or {}).items()
        if (stages := _STAGE.findall(operator.name))
    ]


def _stage_queue(stages: Sequence[str], state: OpState) -> StageQueue:
    actors = state.op.get_actor_info()
    return StageQueue(
        stage=", ".join(stages),
        queued_blocks=state.total_enqueued_input_blocks(),
        queued_bytes=state.total_enqueued_input_blocks_bytes(),
        tasks=state.op.num_active_tasks(),
        actors=actors.running,
        actors_starting=actors.pending + actors.restarting,
    )
