"""Writes and reads the metrics of a training run: one JSON object per line, and TensorBoard where it is installed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

METRICS_FILE = "metrics.jsonl"


class MetricsLog:
    """Appends to metrics.jsonl in ``out``, after removing lines after ``first_step``, whose steps are taken again."""

    def __init__(self, out: Path, first_step: int) -> None:
        path = out / METRICS_FILE
        kept = []
        if path.exists():
            kept = [line for line in path.read_text().splitlines() if _is_before(line, first_step)]
        path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
        self._path = path
        self._board = _board(out)

    def write(self, metrics: dict[str, Any]) -> None:
        """Append one line, and print it to standard error."""
        line = json.dumps(metrics)
        with open(self._path, "a", encoding="utf-8") as stream:
            stream.write(f"{line}\n")
        print(line, file=sys.stderr, flush=True)
        if self._board is not None:
            for name, value in metrics.items():
                if name != "step":
                    self._board.add_scalar(name, value, metrics["step"])

    def close(self) -> None:
        """Flush and close the files."""
        if self._board is not None:
            self._board.close()


def last_metrics(out: Path) -> dict[str, float]:
    """Return the numbers of the last line of a finished run's metrics.jsonl."""
    return {name: value for name, value in _last_line(out).items() if name not in ("step", "final")}


def is_finished(out: Path) -> bool:
    """Return whether a run has written its final line, which is written after the exported weights."""
    if not (out / METRICS_FILE).exists():
        return False
    try:
        return bool(_last_line(out).get("final", False))
    except (json.JSONDecodeError, IndexError):  # the run was killed while it wrote the line
        return False


def _last_line(out: Path) -> dict[str, Any]:
    return json.loads((out / METRICS_FILE).read_text(encoding="utf-8").splitlines()[-1])


def _is_before(line: str, first_step: int) -> bool:
    """Return whether ``line`` belongs to a step that is kept; a line that was cut off does not."""
    try:
        metrics = json.loads(line)
    except json.JSONDecodeError:
        return False
    return metrics["step"] <= first_step and not metrics.get("final", False)


def _board(out: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(out / "tensorboard"))
