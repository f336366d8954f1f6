"""Weights by name from the Hugging Face hub: a name becomes a commit once a run, a commit a folder once a machine.

The hub's own library fetches, so ``HF_HOME``, ``HF_ENDPOINT``, ``HF_TOKEN`` and ``HF_HUB_OFFLINE`` mean what they mean
everywhere else, and files that are in its cache already are used.
"""

from __future__ import annotations

import hashlib
import logging
import random
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from maskmill.model.errors import CheckpointError

log = logging.getLogger(__name__)

NETWORK_FILES = ("config.json", "preprocessor_config.json", "*.safetensors", "*.safetensors.index.json")
"""What is fetched of a repository of ``transformers``; never pickles, never code."""
CLIP_FILES = (
    "open_clip_config.json",
    "open_clip_model*.safetensors",
    "tokenizer*",
    "special_tokens_map.json",
    "*.model",
)
"""What is fetched of a repository of open_clip."""

ATTEMPTS = 6
FIRST_DELAY_S = 2.0
"""A hub that refuses or breaks off is asked again after pauses that double, each made random between half and all."""

_COMMIT = re.compile(r"[0-9a-f]{40}")
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+|[\w.-]+")
_PASSING = (408, 429, 500, 502, 503, 504)

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class HubName:
    """A repository of the hub and a revision: a branch, a tag or a commit; None stands for the main branch."""

    repository: str
    revision: str | None = None

    @classmethod
    def parse(cls, text: str) -> HubName:
        """Read ``OWNER/NAME`` or ``OWNER/NAME@REVISION``; ValueError for anything else."""
        repository, at, revision = text.partition("@")
        if not _REPOSITORY.fullmatch(repository) or (at and not revision):
            raise ValueError(f"{text!r} names no repository of the hub: OWNER/NAME or OWNER/NAME@COMMIT")
        return cls(repository, revision or None)

    @property
    def is_pinned(self) -> bool:
        """Whether the revision is a commit, so that the name means the same files for ever."""
        return self.revision is not None and _COMMIT.fullmatch(self.revision) is not None

    def __str__(self) -> str:
        return self.repository if self.revision is None else f"{self.repository}@{self.revision}"


def pinned(name: HubName) -> HubName:
    """Return the name with the commit that its revision stands for now; asks the hub at most once.

    With ``HF_HUB_OFFLINE`` the commit is the one in the cache. Raises CheckpointError (a ValueError) where there is no
    such repository, revision or permission, or nothing in the cache.
    """
    if name.is_pinned:
        return name
    hub = require_hub()
    # The hub's library notes which commit a branch is at only when it fetches the branch, and here commits are fetched.
    note = _notes_folder() / f"{str(name).replace('/', '--')}.commit"
    if hub.constants.HF_HUB_OFFLINE:
        commit = note.read_text() if note.is_file() else _cached_folder(name, NETWORK_FILES + CLIP_FILES).name
        return replace(name, revision=commit)
    info = _patiently(lambda: hub.HfApi().model_info(name.repository, revision=name.revision), name)
    note.write_text(info.sha)
    return replace(name, revision=info.sha)


def fetch(name: HubName, files: Sequence[str] = NETWORK_FILES) -> Path:
    """Return a local folder with the files of a pinned name, fetched unless this machine has them.

    Processes that ask at the same time wait for one of them to fetch. Raises CheckpointError as ``pinned`` does.
    """
    if not name.is_pinned:
        raise ValueError(f"{name} is not pinned to a commit")
    done = _notes_folder() / f"{str(name).replace('/', '--')}.{_digest(files)}"
    folder = _noted(done)
    if folder is not None:
        return folder
    hub = require_hub()
    if hub.constants.HF_HUB_OFFLINE:
        return _cached_folder(name, files)
    from filelock import FileLock

    with FileLock(f"{done}.lock"):
        folder = _noted(done)
        if folder is not None:
            return folder
        log.info("fetching %s", name)
        folder = Path(
            _patiently(
                lambda: hub.snapshot_download(name.repository, revision=name.revision, allow_patterns=list(files)), name
            )
        )
        names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        # The note is written last: where it is, the download was complete.
        done.write_text("\n".join([str(folder), *names]))
        return folder


def require_hub() -> Any:
    """Return the ``huggingface_hub`` module; ImportError names the extra that brings it."""
    try:
        import huggingface_hub
        import huggingface_hub.constants
        import huggingface_hub.errors
    except ImportError as error:
        raise ImportError("weights by name need huggingface_hub: pip install 'maskmill[photo]'") from error
    return huggingface_hub


def _notes_folder() -> Path:
    folder = Path(require_hub().constants.HF_HUB_CACHE) / ".locks" / "maskmill"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _noted(done: Path) -> Path | None:
    """Return the folder that a complete download left, if all of its files are still there."""
    if not done.is_file():
        return None
    folder, *names = done.read_text().splitlines()
    return Path(folder) if all(Path(folder, name).is_file() for name in names) else None


def _digest(files: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(files).encode()).hexdigest()[:8]


def _cached_folder(name: HubName, files: Sequence[str]) -> Path:
    hub = require_hub()
    try:
        folder = hub.snapshot_download(
            name.repository, revision=name.revision, allow_patterns=list(files), local_files_only=True
        )
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"HF_HUB_OFFLINE is set and {name} is not in the cache; fetch it first with `maskmill models --fetch`"
        ) from error
    return Path(folder)


def _patiently(call: Callable[[], Result], name: HubName) -> Result:
    """Return ``call()``, repeated while the hub refuses for now or breaks off; CheckpointError for what stays wrong."""
    hub = require_hub()
    delay_s = FIRST_DELAY_S
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return call()
        except hub.errors.GatedRepoError as error:
            raise CheckpointError(f"{name} is gated: accept its terms on the hub and set HF_TOKEN") from error
        except hub.errors.RepositoryNotFoundError as error:
            raise CheckpointError(f"the hub has no repository {name.repository}, or HF_TOKEN may not see it") from error
        except hub.errors.RevisionNotFoundError as error:
            raise CheckpointError(f"{name.repository} has no revision {name.revision}") from error
        except Exception as error:
            if attempt == ATTEMPTS or not _is_passing(error):
                raise CheckpointError(f"{name} cannot be fetched: {error}") from error
            pause_s = max(delay_s * random.uniform(0.5, 1), _asked_pause_s(error))  # noqa: S311 (no secret)
            log.warning("fetching %s failed (%s); trying again in %.0f s", name, type(error).__name__, pause_s)
            time.sleep(pause_s)
            delay_s *= 2
    raise AssertionError("the loop above returns or raises")


def _status(error: BaseException) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _is_passing(error: Exception) -> bool:
    """Whether trying again may help: a busy hub, a broken connection, a file that came short."""
    status = _status(error)
    if status is not None:
        return status in _PASSING
    # Broken connections are OSErrors, or errors of the HTTP library, which differs between versions of the hub's.
    return isinstance(error, OSError) or type(error).__module__.partition(".")[0].startswith(("httpx", "httpcore"))


def _asked_pause_s(error: BaseException) -> float:
    """Return the seconds that the hub asked to wait, at most five minutes; 0 where it did not say."""
    response = getattr(error, "response", None)
    value = response.headers.get("Retry-After", "") if response is not None else ""
    return min(300.0, float(value)) if value.isdigit() else 0.0
