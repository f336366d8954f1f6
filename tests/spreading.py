"""How pytest-xdist spreads the tests over processes: all that share the Ray go to one, those of a file stay together.

pytest-xdist's own ``--dist loadgroup`` writes the group into a test's id, which pytest 9.2 no longer lets it do. Here
the processes that run tests write down which tests share the Ray, and the process that hands the tests out reads it.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

RAY = "shared_ray"
"""The fixture that a test on the Ray requests, itself or through another."""
FOLDER = pytest.StashKey[tempfile.TemporaryDirectory[str]]()


def tell_folder(node: Any) -> None:
    """Tell a process that will run tests where to write which of them share the Ray."""
    stash = node.config.stash
    node.workerinput[RAY] = stash.setdefault(FOLDER, tempfile.TemporaryDirectory()).name


def put_ray_first(config: Any, items: list[pytest.Item]) -> None:
    """In a process that runs tests: move those that share the Ray to the front, and write down their ids."""
    sharing = [item.nodeid for item in items if RAY in item.fixturenames]  # type: ignore[attr-defined]
    Path(config.workerinput[RAY], config.workerinput["workerid"]).write_text(json.dumps(sharing))
    items.sort(key=lambda item: RAY not in item.fixturenames)  # type: ignore[attr-defined]


class Spreading(LoadScopeScheduling):
    """Hands the tests out in the order of collection: first those on the Ray, which take longest, then file by file."""

    def __init__(self, config: pytest.Config, log: Any) -> None:
        config.option.loadscopereorder = False
        super().__init__(config, log)
        self._folder = Path(config.stash[FOLDER].name)
        self._sharing: frozenset[str] | None = None

    def _split_scope(self, nodeid: str) -> str:
        if self._sharing is None:
            written = next(self._folder.iterdir())  # any of them: all processes collect the same tests
            self._sharing = frozenset(json.loads(written.read_text()))
        return RAY if nodeid in self._sharing else nodeid.partition("::")[0]
