"""The kinds of runs that a report must handle, each with its page, written once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from maskmill.pipeline.evaluation.config import EvaluationConfig
from maskmill.pipeline.evaluation.evaluate import evaluate
from maskmill.pipeline.report.build import write_report
from tests.pipeline.evaluation.here import evaluate_here
from tests.pipeline.written_run import SHAPES_CLASSES, RunSettings, write_run

HOSTILE = (
    "<script>document.title='broken'</script>",
    "</script><img src=x onerror=\"document.title='broken'\">",
    "\"quoted\" & 'single' &amp;",
    "🚀 rocket",
    "שלום עולם",
    "x" * 300,
    "$a_1$ {{ 7*7 }} {% raw %}",
    "new\nline",
    "'); document.title='broken'; ('",
    "]]> --> <svg onload=document.title='broken'>",
)

THOUSAND = [{"name": f"class {number}", "seen": number % 3 > 0} for number in range(1000)]


def hostile_classes() -> list[dict[str, object]]:
    """Return the shapes' classes, with hostile names for the stuffs (one is in every image) and two more classes."""
    names = dict(zip((*range(48, 56), 46, 47), HOSTILE, strict=True))
    return [{**entry, "name": names.get(number, entry["name"])} for number, entry in enumerate(SHAPES_CLASSES)]


KINDS: dict[str, RunSettings] = {
    "plain": RunSettings(images=40, source="folder"),
    "with errors": RunSettings(images=40, failed=5, source="parquet"),
    "evaluated": RunSettings(images=60),
    "a thousand classes": RunSettings(
        images=40, classes=THOUSAND, class_ids=tuple(range(7, 1000, 17))[:56], source="folder"
    ),
    "zero labels": RunSettings(images=12, blank=True),
    "unfinished": RunSettings(images=20, finished=False),
    "hostile names": RunSettings(images=40, classes=hostile_classes(), failed=7),
    "one class": RunSettings(images=12, classes=[{"name": "thing"}], class_ids=(0,) * 56, segments="query"),
}


@pytest.fixture(scope="session")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Returns the index.html of the report of one of KINDS."""
    made: dict[str, Path] = {}

    def page(kind: str) -> Path:
        if kind not in made:
            folder = tmp_path_factory.mktemp("report")
            out = write_run(folder, KINDS[kind])
            if kind == "evaluated":
                truth = f"{folder}/images/*.tar"
                config = EvaluationConfig(output=str(out), ground_truth=truth, protocol="shapes")
                evaluate(config, evaluate_here)
            made[kind] = Path(write_report(str(out)))
        return made[kind]

    return page
