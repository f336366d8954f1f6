"""The pages of documentation, and what the tests look for in them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
GUIDES = sorted((ROOT / "docs").glob("*.md"))
PAGES = [README, ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", ROOT / "model" / "bundled" / "MODEL_CARD.md", *GUIDES]


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks_of(page: Path, language: str) -> list[str]:
    """The fenced blocks of code in ``language``, without their fences."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", text_of(page), flags=re.MULTILINE | re.DOTALL)
    return [block for written_in, block in blocks if written_in == language]


def spans_of(page: Path) -> list[str]:
    """What the page writes `so`, on one line or over two; blocks of code are left out."""
    prose = re.sub(r"^```.*?^```$", "", text_of(page), flags=re.MULTILINE | re.DOTALL)
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]


def commands_of(page: Path) -> list[str]:
    """The lines that call maskmill, from blocks for the shell and from the prose, without their comments."""
    lines = "\n".join(blocks_of(page, "sh")).replace("\\\n", " ").splitlines()
    return [line.partition(" #")[0].strip() for line in [*lines, *spans_of(page)] if line.startswith("maskmill ")]
