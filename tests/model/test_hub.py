"""Fetching by name from a hub on loopback, each time in processes of its own, as the hub's library reads its settings
when it is imported.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from maskmill.model.hub import HubName
from tests.model.fake_hub import FakeHub

NAME = "owner/tiny"
FETCH = """
import sys
from maskmill.model import hub
hub.FIRST_DELAY_S = 0.01
name = hub.pinned(hub.HubName.parse(sys.argv[1]))
print(name)
print(hub.fetch(name))
assert "torch" not in sys.modules  # eight processes that import PyTorch to fetch weights would take a minute
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with weights in both forms, and code that nobody should fetch."""
    folder = tmp_path / "repository"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "eomt"}')
    (folder / "model.safetensors").write_bytes(os.urandom(100_000))
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    (folder / "modeling.py").write_text("raise SystemExit('code of the repository ran')")
    return folder


@pytest.fixture
def hub(repository: Path) -> Iterator[FakeHub]:
    server = FakeHub({NAME: repository})
    yield server
    server.close()


def start(hub: FakeHub, home: Path, name: str = NAME, **environment: str) -> subprocess.Popen[str]:
    """Fetch in a new process, with a cache of its own below ``home``."""
    settings = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", **environment}
    return subprocess.Popen(
        [sys.executable, "-c", FETCH, name],
        env={**os.environ, **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[str, Path]:
    """The pinned name and the folder; fails where the process did."""
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    name, folder = out.splitlines()
    return name, Path(folder)


def refusal(process: subprocess.Popen[str]) -> str:
    _, err = process.communicate(timeout=240)
    assert process.returncode == 1
    return err.splitlines()[-1]


def test_a_name_is_a_repository_and_a_revision() -> None:
    commit = "0123456789abcdef" * 2 + "01234567"
    assert HubName.parse("tue-mps/coco_panoptic_eomt_large_640") == HubName("tue-mps/coco_panoptic_eomt_large_640")
    assert HubName.parse(f"a/b@{commit}").is_pinned
    assert not HubName.parse("a/b@main").is_pinned
    for wrong in ("a/b@", "a/b/c", "a b", "http://x/y", ""):
        with pytest.raises(ValueError, match="names no repository"):
            HubName.parse(wrong)


def test_safetensors_and_settings_are_fetched_and_nothing_else(hub: FakeHub, tmp_path: Path) -> None:
    name, folder = finish(start(hub, tmp_path / "home"))
    assert name == f"{NAME}@{hub.commit(NAME)}"
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert hub.downloads("modeling.py") == hub.downloads("pytorch_model.bin") == 0


def test_eight_processes_cause_one_download_and_429_is_waited_out(hub: FakeHub, tmp_path: Path) -> None:
    hub.refuse = 3
    results = [finish(process) for process in [start(hub, tmp_path / "home") for _ in range(8)]]
    assert len(set(results)) == 1
    assert hub.downloads("model.safetensors") == 1
    assert hub.downloads("config.json") == 1


def test_a_download_that_breaks_off_is_tried_again(hub: FakeHub, repository: Path, tmp_path: Path) -> None:
    hub.break_off = 2
    _, folder = finish(start(hub, tmp_path / "home"))
    assert (folder / "model.safetensors").read_bytes() == (repository / "model.safetensors").read_bytes()


def test_offline_uses_the_cache_and_asks_nobody(hub: FakeHub, tmp_path: Path) -> None:
    online = finish(start(hub, tmp_path / "home"))
    before = hub.requests.total()
    assert finish(start(hub, tmp_path / "home", HF_HUB_OFFLINE="1")) == online
    assert finish(start(hub, tmp_path / "home", online[0], HF_HUB_OFFLINE="1")) == online
    assert hub.requests.total() == before


def test_offline_without_the_files_says_how_to_get_them(hub: FakeHub, tmp_path: Path) -> None:
    message = refusal(start(hub, tmp_path / "home", HF_HUB_OFFLINE="1"))
    assert "HF_HUB_OFFLINE is set" in message
    assert "maskmill models --fetch" in message
    assert not hub.requests


def test_a_commit_that_is_there_asks_nobody(hub: FakeHub, tmp_path: Path) -> None:
    name, folder = finish(start(hub, tmp_path / "home"))
    before = hub.requests.total()
    assert finish(start(hub, tmp_path / "home", name)) == (name, folder)
    assert hub.requests.total() == before


def test_files_that_were_removed_are_fetched_again(hub: FakeHub, tmp_path: Path) -> None:
    name, folder = finish(start(hub, tmp_path / "home"))
    weights = folder / "model.safetensors"
    weights.resolve().unlink()
    weights.unlink(missing_ok=True)
    assert finish(start(hub, tmp_path / "home", name)) == (name, folder)
    assert weights.is_file()


@pytest.mark.parametrize(
    "name, message", [("owner/other", "no repository owner/other"), (f"{NAME}@v9", "has no revision v9")]
)
def test_what_the_hub_does_not_have_is_named(hub: FakeHub, tmp_path: Path, name: str, message: str) -> None:
    assert message in refusal(start(hub, tmp_path / "home", name))
