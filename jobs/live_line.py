"""One line of text on a terminal that is replaced as work goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.text import Text

REFRESHES_PER_S = 4


@contextmanager
def live_line(console: Console) -> Iterator[Callable[[str], None]]:
    """Yield a function that shows a text in place of the text before; the line vanishes when the block ends."""
    with Live(console=console, refresh_per_second=REFRESHES_PER_S, transient=True) as live:
        yield lambda text: live.update(Text(text))
