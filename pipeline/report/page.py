"""Renders the collected data as HTML: puts the figures in words, and fills the templates."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from maskmill.pipeline.report.cards import Card
from maskmill.pipeline.report.evaluation import EvaluationView
from maskmill.pipeline.report.plots import Plot, compact
from maskmill.pipeline.report.sample import Key
from maskmill.pipeline.results.durations import duration_text
from maskmill.pipeline.results.reader import Results, RunClass
from maskmill.pipeline.results.review import REASONS
from maskmill.pipeline.results.totals import Figures
from maskmill.pipeline.uris import public_uri

REASON_TITLES = {
    "low_score": "Lowest confidence",
    "disagreement": "Branches disagree",
    "unstable": "Unstable masks",
    "unusual_area": "Unusual area",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """Everything that the page shows. cards: by image, for gallery, review and evaluation. errors: by kind, the most
    frequent first.

    skipped: the files of the input that were not read, in words.
    """

    results: Results
    figures: Figures
    sampled_images: int
    plots: list[Plot]
    cards: dict[Key, Card]
    gallery: list[Key]
    review: dict[str, list[dict[str, Any]]]
    evaluation: EvaluationView | None
    errors: list[dict[str, Any]]
    skipped: str = ""
    price_per_hour: float | None = None


@dataclass(frozen=True, slots=True)
class Tile:
    """One headline figure."""

    title: str
    value: str
    note: str = ""
    alarming: bool = False


def render_page(page: Page) -> str:
    """Return the whole report as one HTML document."""
    environment = Environment(
        loader=PackageLoader("maskmill.pipeline.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        public_uri=public_uri,
        count=lambda value: f"{value:,}",
        compact=compact,
        percent=lambda share, digits=1: f"{share:.{digits}%}",
        decimals=lambda value, digits=2: f"{value:.{digits}f}",
        day=lambda seconds: time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds)),
    )
    script, style = _asset("report.js"), _asset("report.css")
    return environment.get_template("index.html.j2").render(
        page=page,
        run=page.results.run,
        figures=page.figures,
        evaluation=page.evaluation,
        tiles=tiles(page),
        notes=notes(page),
        classes=_class_rows(page),
        gallery_classes=_gallery_classes(page),
        settings=_settings(page.results.run["config"]),
        reasons=[(reason, REASON_TITLES[reason], REASONS[reason]) for reason in REASONS],
        has_seen=any(entry.seen is not None for entry in page.results.classes),
        script=script,
        script_hash=_hash(script),
        style=style,
    )


def _asset(name: str) -> Markup:
    return Markup(files("maskmill.pipeline.report").joinpath("templates", name).read_text(encoding="utf-8"))  # noqa: S704 (a file of this package)


def _hash(script: str) -> str:
    """Return the hash by which the page's content security policy allows this one script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")


def tiles(page: Page) -> list[Tile]:
    """Return the figures at the top of the page."""
    figures, totals = page.figures, page.figures.totals
    images, failed, labelled = totals["images"], totals["failed"], totals["labelled"]
    found = sum(1 for row in figures.class_rows if row["images"])
    per_image = totals["segments"] / labelled if labelled else 0.0
    result = [
        Tile("Images labelled", f"{labelled:,}", f"of {images:,}"),
        Tile("Failed", f"{failed:,}", f"{failed / images:.2%} of images" if images else "", failed > 0),
        Tile("Pixels named", f"{figures.coverage:.1%}", f"{per_image:.1f} segments an image"),
        Tile("Classes found", f"{found:,}", f"of {len(figures.class_rows):,}"),
    ]
    if totals["withheld_segments"]:
        note = f"{totals['withheld_pixels'] / totals['pixels']:.1%} of pixels, by threshold"
        result.append(Tile("Segments withheld", f"{totals['withheld_segments']:,}", note))
    return result + _speed_tiles(figures.finished, page.price_per_hour)


def _speed_tiles(finished: dict[str, Any] | None, price_per_hour: float | None) -> list[Tile]:
    """Return rate and cost of the last attempt, if it labelled anything."""
    if finished is None or not finished["attempt_images"] or not finished["attempt_seconds"]:
        return []
    rate = finished["attempt_images"] / finished["attempt_seconds"]
    hours_per_million = 1e6 / rate / 3600
    result = [
        Tile(
            "Images a second",
            f"{rate:,.1f}",
            f"{finished['attempt_images']:,} in {duration_text(finished['attempt_seconds'])}",
        ),
        Tile("A million images", duration_text(hours_per_million * 3600), "at this rate"),
    ]
    if price_per_hour is not None:
        spent = finished["attempt_seconds"] / 3600 * price_per_hour
        result.append(Tile("Cost", f"{spent:,.2f}", f"{hours_per_million * price_per_hour:,.2f} for a million images"))
    return result


def notes(page: Page) -> list[str]:
    """Return what a reader must know about the origin of the figures."""
    figures = page.figures
    shards = page.results.run["shards"]
    found = []
    if figures.finished is None:
        found.append(f"The run is not finished: {figures.shards:,} of {shards:,} shards are done.")
    if not figures.exact:
        found.append(f"All figures are of {figures.shards_read:,} of the {figures.shards:,} shards that are done.")
    elif figures.shards_read < figures.shards:
        found.append(
            f"Totals and the table of classes are of the whole run; distributions are of {figures.shards_read:,} of "
            f"{figures.shards:,} shards."
        )
    if page.sampled_images < figures.totals["labelled"]:
        found.append(
            f"Gallery and review queue are chosen from a sample of {page.sampled_images:,} of "
            f"{figures.totals['labelled']:,} labelled images."
        )
    if page.evaluation is not None:
        found += page.evaluation.warnings
    return found


def _class_rows(page: Page) -> list[dict[str, Any]]:
    """Return rows of the table of classes, most pixels first, with colour, IoU and whether the gallery shows them."""
    shown = {entry["class_id"] for entry in _gallery_classes(page)}
    iou = page.evaluation.iou_by_name if page.evaluation is not None else {}
    rows = []
    for row in sorted(page.figures.class_rows, key=lambda row: (-row["pixels"], row["class_id"])):
        entry: RunClass = page.results.classes[row["class_id"]]
        rows.append(
            {
                **row,
                "colour": hex_colour(entry),
                "distractor": entry.distractor,
                "iou": iou.get(row["class_name"]),
                "shown": row["class_id"] in shown,
            }
        )
    return rows


def hex_colour(entry: RunClass) -> str:
    """Return the class's colour in CSS notation."""
    return "#{:02x}{:02x}{:02x}".format(*entry.colour)


def _gallery_classes(page: Page) -> list[dict[str, Any]]:
    """Return the classes in the gallery by name, with the number of gallery images that show each."""
    counts: dict[int, int] = {}
    for key in page.gallery:
        for class_id in {segment.class_id for segment in page.cards[key].segments}:
            counts[class_id] = counts.get(class_id, 0) + 1
    entries = [
        {"class_id": class_id, "name": page.results.classes[class_id].name, "images": images}
        for class_id, images in counts.items()
    ]
    return sorted(entries, key=lambda entry: str(entry["name"]).casefold())


def _settings(config: dict[str, Any]) -> Sequence[tuple[str, str]]:
    """Return the run's settings as texts, without those that were not given."""
    return [(name.replace("_", "-"), str(value)) for name, value in config.items() if value not in (None, [], {})]
