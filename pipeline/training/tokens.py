"""Makes a small byte-pair vocabulary for a small CLIP: just enough merges to make every given word one token."""

from __future__ import annotations

import gzip
import re
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

_HEADER = "#version: 0.2"
_END = "</w>"


def words_of(texts: Iterable[str]) -> list[str]:
    """Return the distinct lower-case words of ``texts``, sorted."""
    return sorted({word for text in texts for word in re.findall(r"[^\W\d_]+", text.lower())})


def learn_merges(words: Iterable[str]) -> list[tuple[str, str]]:
    """Return byte-pair merges, most frequent pair first, after which every word is a single token.

    The alphabetically first pair wins a tie, so the same words always give the same vocabulary. Words must be plain
    ASCII letters; other words keep CLIP's byte tokens.
    """
    symbols = [[*word[:-1], word[-1] + _END] for word in words if word.isascii()]
    merges = []
    while counts := Counter((a, b) for word in symbols for a, b in pairwise(word)):
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        symbols = [_merged(word, best) for word in symbols]
    return merges


def _merged(word: list[str], pair: tuple[str, str]) -> list[str]:
    result: list[str] = []
    position = 0
    while position < len(word):
        if tuple(word[position : position + 2]) == pair:
            result.append("".join(pair))
            position += 2
        else:
            result.append(word[position])
            position += 1
    return result


def write_merges(merges: list[tuple[str, str]], path: Path) -> None:
    """Write ``merges`` in the format of CLIP's vocabulary file (gzip), with the same bytes each time."""
    text = "\n".join([_HEADER, *(" ".join(pair) for pair in merges)])
    path.write_bytes(gzip.compress(text.encode(), mtime=0))
