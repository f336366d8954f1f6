"""What waits in front of every stage of the running graph, for diagnoses and measurements.

Ray Data tells it to nobody but its own progress bars, so that this reads the running executor; the bounds on Ray's
version in pyproject.toml and a test hold it to what it knows.
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
    """A stage at one moment.

    queued_blocks, queued_bytes: made by the stage before and not yet taken. tasks: at work, or handed to an actor.
    actors: alive; actors_starting: not alive yet, or again; both 0 for a stage of tasks.
    """

    stage: str
    queued_blocks: int
    queued_bytes: int
    tasks: int
    actors: int
    actors_starting: int

    def __str__(self) -> str:
        waiting = f"{self.queued_blocks} blocks of {self.queued_bytes / 2**20:.1f} MiB queued"
        own = f"{self.stage}: {waiting}, {self.tasks} tasks"
        if self.actors or self.actors_starting:
            own += f", {self.actors} actors alive, {self.actors_starting} starting"
        return own


class _Remember(ExecutionCallback):
    def before_execution_starts(self, executor: StreamingExecutor) -> None:
        _running.add(executor)


def watch_queues(context: DataContext) -> None:
    """Have the graphs that run in this process from now on answer :func:`stage_queues`."""
    if _Remember not in context.custom_execution_callback_classes:
        context.custom_execution_callback_classes.append(_Remember)


def stage_queues() -> Sequence[StageQueue]:
    """The stages of the running graph in order; none where no graph runs."""
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
