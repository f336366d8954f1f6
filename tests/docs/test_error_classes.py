"""docs/inputs.md and docs/images.md name every class of error that an image can get."""

from __future__ import annotations

import re

from tests.docs.pages import ROOT, text_of

EXPLAINING = ("inputs.md", "images.md")


def test_every_error_class_is_explained() -> None:
    explained = "".join(text_of(ROOT / "docs" / page) for page in EXPLAINING)
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "pipeline").rglob("*.py"))
    raised = set(re.findall(r'BadImageError\(\s*"\w+", "(\w+)"', sources)) | set(re.findall(r'_bad\("(\w+)"', sources))
    assert {"unreachable", "forbidden_uri", "unsupported", "too_many_pixels", "damaged_shard"} <= raised
    assert {name for name in raised if f"`{name}`" not in explained} == set()
