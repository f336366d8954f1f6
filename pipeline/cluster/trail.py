"""Gives workers access to the breadcrumbs of the run. Every worker imports this module, so it must stay light."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ray

from maskmill.pipeline.stages.quarantine import History

DIAGNOSIS_TIMEOUT_S = 10.0


class RemoteTrail:
    """The breadcrumbs of the run, which an actor keeps, because the actor outlives the workers."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor

    def begin(self, keys: Sequence[str], alone: bool) -> list[History]:
        """See :meth:`Trail.begin`."""
        return ray.get(self.actor.begin.remote(keys, alone))

    def end(self, keys: Sequence[str]) -> None:
        """See :meth:`Trail.end`. The call is not waited for, because calls of one worker arrive in order."""
        self.actor.end.remote(keys)

    def describe(self) -> dict[str, list[str]]:
        """See :meth:`Trail.describe`."""
        return ray.get(self.actor.describe.remote(), timeout=DIAGNOSIS_TIMEOUT_S)

    def idle_s(self) -> float:
        """See :meth:`Trail.idle_s`."""
        return ray.get(self.actor.idle_s.remote(), timeout=DIAGNOSIS_TIMEOUT_S)

    def close(self) -> None:
        """End the actor when the run is over; a session with many runs would otherwise keep an actor for each."""
        ray.kill(self.actor)

    def overran(self, keys: Sequence[str]) -> None:
        """See :meth:`Trail.overran`."""
        ray.get(self.actor.overran.remote(keys))
