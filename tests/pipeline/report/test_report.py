"""The report shows what the run holds, and its cost does not grow with the run."""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
import time
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from maskmill.pipeline.errors import UsageError
from maskmill.pipeline.output.folder import Output
from maskmill.pipeline.output.schema import LABELS
from maskmill.pipeline.output.statistics import ClassSums, RunSums
from maskmill.pipeline.report.build import ReportSettings, collect, write_report
from maskmill.pipeline.report.cards import browser_link, path_data
from maskmill.pipeline.report.page import notes, tiles
from maskmill.pipeline.report.sample import GALLERY_IMAGES, SHARDS, choose_gallery, read_sample
from maskmill.pipeline.results.reader import open_results
from maskmill.pipeline.results.totals import read_figures
from tests.pipeline.report.conftest import HOSTILE, KINDS
from tests.pipeline.written_run import RunSettings, read_labels, write_run, write_run_files


class Elements(HTMLParser):
    """Collects every element with its attributes, and the text of scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self._in_script = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")
        self._in_script = tag == "script"

    def handle_endtag(self, tag: str) -> None:
        self._in_script = False

    def handle_data(self, data: str) -> None:
        if self._in_script:
            self.scripts[-1] += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def elements_of(path: Path) -> Elements:
    parsed = Elements()
    parsed.feed(path.read_text(encoding="utf-8"))
    return parsed


@pytest.mark.parametrize("kind", KINDS)
def test_only_our_own_script_can_run(pages: Callable[[str], Path], kind: str) -> None:
    parsed = elements_of(pages(kind))
    assert len(parsed.scripts) == 1
    policy = next(meta["content"] for meta in parsed.of("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    digest = base64.b64encode(hashlib.sha256(parsed.scripts[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in str(policy)
    handlers = [name for _, attributes in parsed.found for name in attributes if name.startswith("on")]
    assert handlers == []
    assert all(str(image["src"]).startswith("data:image/webp;base64,") for image in parsed.of("img"))


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_points_to_the_network(pages: Callable[[str], Path], kind: str) -> None:
    parsed = elements_of(pages(kind))
    assert all(str(link["href"]).startswith("#") for link in parsed.of("a"))
    assert [link["href"] for link in parsed.of("link")] == ["data:,"]
    used = [str(use.get("xlink:href") or use.get("href")) for use in parsed.of("use")]
    assert all(address.startswith("#") for address in used)


def test_every_class_is_in_the_table_and_classes_not_found_are_flagged(pages: Callable[[str], Path]) -> None:
    html = pages("a thousand classes").read_text(encoding="utf-8")
    rows = re.findall(r'<tr class="(zero|found) ', html)
    assert len(rows) == 1000
    results = open_results(str(pages("a thousand classes").parents[1]))
    found = {name for row in read_labels(Path(results.output.uri)) for name in row["class_names"]}
    assert rows.count("found") == len(found)


def test_headline_figures_are_those_of_the_rows(pages: Callable[[str], Path]) -> None:
    out = pages("with errors").parents[1]
    rows = read_labels(out)
    page = collect(open_results(str(out)), price_per_hour=3.6)
    told = {tile.title: tile for tile in tiles(page)}
    assert told["Images labelled"].value == str(len(rows))
    assert told["Failed"].value == str(40 - len(rows))
    assert told["Failed"].alarming
    coverage = sum(sum(row["areas"]) for row in rows) / sum(row["width"] * row["height"] for row in rows)
    assert told["Pixels named"].value == f"{coverage:.1%}"
    assert told["Classes found"].value == str(len({name for row in rows for name in row["class_names"]}))
    # 25 images a second: 40 images take 1.6 s, a million take 40,000 s; an hour costs 3.6.
    assert told["Images a second"].value == "25.0"
    assert told["Cost"].note == "40.00 for a million images"
    assert sum(error["count"] for error in page.errors) == 40 - len(rows)
    assert all(error["examples"] for error in page.errors)


def test_an_unfinished_run_says_so_and_counts_what_is_there(pages: Callable[[str], Path]) -> None:
    out = pages("unfinished").parents[1]
    page = collect(open_results(str(out)))
    assert notes(page) == ["The run is not finished: 2 of 2 shards are done."]
    assert page.figures.totals["labelled"] == len(read_labels(out))


def test_figures_without_a_summary_equal_those_with_it(tmp_path: Path) -> None:
    out = write_run(tmp_path, RunSettings(images=40, failed=7))
    finished = read_figures(open_results(str(out)))
    (out / "summary.json").unlink()
    counted = read_figures(open_results(str(out)))
    assert counted.finished is None
    assert counted.exact
    assert counted.class_rows == finished.class_rows
    assert {name: finished.totals[name] for name in counted.totals} == counted.totals


def test_a_summary_of_other_shards_is_not_believed(tmp_path: Path) -> None:
    out = write_run(tmp_path, RunSettings(images=40))
    sorted((out / "stats").iterdir())[0].unlink()
    figures = read_figures(open_results(str(out)))
    assert figures.finished is None
    assert figures.totals["labelled"] == len(read_labels(out))


def test_the_gallery_shows_every_class_it_can(tmp_path: Path) -> None:
    results = open_results(str(write_run(tmp_path, RunSettings(images=100))))
    sample = read_sample(results)
    chosen = choose_gallery(sample, "seed")
    assert len(chosen) == len(set(chosen)) == GALLERY_IMAGES
    assert choose_gallery(sample, "seed") == chosen
    assert choose_gallery(sample, "another seed") != chosen
    shown = {class_id for row in sample.rows(chosen).values() for class_id in row["class_ids"]}
    there = {class_id for row in read_labels(tmp_path / "out") for class_id in row["class_ids"]}
    assert shown == there


def test_images_out_of_reach_are_told_and_the_rest_is_shown(tmp_path: Path) -> None:
    out = write_run(tmp_path, RunSettings(images=20, source="folder"))
    first, second, *_ = read_labels(out)
    Path(first["uri"]).unlink()
    Path(second["uri"]).write_bytes(b"no image")
    cards = collect(open_results(str(out))).cards
    assert cards[first["shard"], first["row"]].note == "not shown: there is no such file"
    assert cards[second["shard"], second["row"]].note.startswith("not shown: no image format")
    assert sum(not card.thumbnail for card in cards.values()) == 2
    assert cards[first["shard"], first["row"]].segments, "its segments are known all the same"


def test_a_source_that_is_gone_does_not_stop_the_report(tmp_path: Path) -> None:
    out = write_run(tmp_path, RunSettings(images=20))
    shutil.rmtree(tmp_path / "images")
    cards = collect(open_results(str(out))).cards
    assert {card.note for card in cards.values()} == {"not shown: there is no such file"}


def test_wrong_places_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no run"):
        write_report(str(tmp_path))


def test_a_bucket_gets_a_page_that_browsers_show(tmp_path: Path, s3_bucket: Any) -> None:
    out = write_run(tmp_path, RunSettings(images=8))
    s3_bucket.upload(out, "out")
    place = write_report(f"{s3_bucket.uri}/out")
    assert place == f"{s3_bucket.uri}/out/report/index.html"
    stored = s3_bucket.client.head_object(Bucket=s3_bucket.name, Key="out/report/index.html")
    assert stored["ContentType"] == "text/html"
    local = write_report(str(out), ReportSettings(to=str(tmp_path / "elsewhere")))
    assert Path(local) == tmp_path / "elsewhere" / "index.html"


@pytest.mark.parametrize(
    ("uri", "link"),
    [
        ("https://host/a.jpg", "https://host/a.jpg"),
        ("/data/a b.jpg", "file:///data/a%20b.jpg"),
        ("/data/x.tar#a.jpg", ""),
        ("s3://bucket/a.jpg", ""),
        ("javascript:alert(1)", ""),
        ("data:text/html,x", ""),
        (HOSTILE[0], ""),
    ],
)
def test_links_lead_to_images_only(uri: str, link: str) -> None:
    assert browser_link(uri) == link


def test_outlines_are_closed_steps_along_pixels() -> None:
    assert path_data(np.ones((2, 3), bool)) == "M0 0h3v2h-3z"
    assert path_data(np.zeros((2, 3), bool)) == ""


def synthetic_marker(rng: np.random.Generator, classes: int) -> dict[str, Any]:
    """Return sums of a thousand images in which two thirds of the classes occur."""
    sums = RunSums(labelled=990, failed=10, pixels=10**9, labelled_pixels=9 * 10**8, segments=5000)
    sums.coverage_bins.update({17: 400, 18: 590})
    sums.errors.update({"decode/truncated": 10})
    for class_id in rng.choice(classes, size=classes * 2 // 3, replace=False).tolist():
        count = int(rng.integers(1, 60))
        entry = ClassSums(images=count, segments=count, pixels=count * 10_000, score_sum=0.7 * count)
        entry.agreement_sum, entry.stability_sum = 0.5 * count, 0.9 * count
        entry.score_bins.update(rng.integers(30, 99, count).tolist())
        entry.area_bins.update(rng.integers(30, 80, count).tolist())
        entry.together.update({int(other): int(rng.integers(1, count + 1)) for other in rng.choice(classes, 40)})
        sums.classes[int(class_id)] = entry
    return sums.to_dict()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_million_images_take_less_than_a_minute(tmp_path: Path) -> None:
    settings = RunSettings(images=SHARDS * 16)
    out = write_run(tmp_path, settings)
    output = Output(str(out))
    real = output.names("stats", ".json")
    rng = np.random.default_rng(0)
    marker = output.read_json(f"stats/{real[0]}.json")
    documents = [{**(marker or {}), "sums": synthetic_marker(rng, 56)} for _ in range(20)]
    shards = [f"big-{number:05d}" for number in range(1000)]
    for number, shard in enumerate(shards):
        output.write_json(f"stats/{shard}.json", documents[number % 20])
    for name in real:
        output.remove(f"stats/{name}.json")
    for shard, name in zip(open_results(str(out)).sample(SHARDS), real, strict=True):
        table = output.read_table(f"labels/{name}.parquet")
        at = table.schema.get_field_index("shard")
        shards_column = pa.array([shard] * table.num_rows)
        output.write_table(f"labels/{shard}.parquet", table.set_column(at, LABELS.field("shard"), shards_column))
    write_run_files(output, settings, f"{tmp_path}/images/*.tar", len(shards))
    # Measure processor time, which does not depend on other work of the machine; reading takes almost no time here.
    started = time.process_time()
    page = write_report(str(out))
    elapsed_s = time.process_time() - started
    html = Path(page).read_text(encoding="utf-8")
    print(f"1,000,000 images: {elapsed_s:.1f} s, {len(html) / 1e6:.1f} MB")
    assert "of 1,000,000" in html
    assert "distributions are of 200 of 1,000 shards" in html
    assert elapsed_s < 60
