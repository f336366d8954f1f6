"""The report in a real browser: no console messages, working controls, loaded images, nothing serious found by axe.

The tests need Chromium (``apt-get install chromium``); without it they are skipped, which is a failure in CI.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.pipeline.report.conftest import HOSTILE, KINDS

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")]

NO_VALUE = "\u2013"
PATIENCE_MS = 120_000
"""A page takes a second or two on a quiet machine, but a machine that runs tests may be busy."""
PHONE = {"width": 390, "height": 844}
DESKTOP = {"width": 1280, "height": 900}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@dataclass
class Opened:
    """A page, its console messages and its network requests."""

    page: Any
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


Open = Callable[..., Opened]


@pytest.fixture
def open_page(browser: Any, pages: Callable[[str], Path]) -> Iterator[Open]:
    contexts = []

    def call(kind: str, size: dict[str, int] = DESKTOP, scheme: str = "light", **options: Any) -> Opened:
        context = browser.new_context(viewport=size, color_scheme=scheme, **options)
        context.set_default_timeout(PATIENCE_MS)
        contexts.append(context)
        opened = Opened(context.new_page())
        opened.page.on("console", lambda message: opened.complaints.append(f"{message.type}: {message.text}"))
        opened.page.on("pageerror", lambda error: opened.complaints.append(str(error)))
        opened.page.on("request", lambda request: opened.requests.append(request.url))
        opened.page.goto(pages(kind).as_uri())
        return opened

    yield call
    for context in contexts:
        context.close()


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_opens_without_a_complaint_and_without_the_network(open_page: Open, kind: str) -> None:
    opened = open_page(kind)
    page = opened.page
    broken = page.evaluate("[...document.images].filter(i => !i.complete || !i.naturalWidth).length")
    assert broken == 0
    assert opened.complaints == []
    assert [url for url in opened.requests if not url.startswith(("file:", "data:"))] == []
    assert page.title().startswith("Report of run"), "no class name was run as script"
    overflow = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    assert overflow <= 0, "the page scrolls sideways"


@pytest.mark.parametrize(
    ("kind", "scheme"),
    [
        *((kind, "light") for kind in ("plain", "with errors", "evaluated", "zero labels", "hostile names")),
        ("evaluated", "dark"),
        ("a thousand classes", "light"),
    ],
)
def test_axe_finds_nothing_serious(open_page: Open, kind: str, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")
    page = open_page(kind, scheme=scheme).page
    found = axe.Axe().run(page).response["violations"]
    serious = [
        f"{violation['id']}: {violation['nodes'][0]['html'][:200]}"
        for violation in found
        if violation["impact"] in ("serious", "critical")
    ]
    assert serious == []


@pytest.mark.parametrize("kind", ["evaluated", "hostile names", "a thousand classes"])
def test_a_phone_shows_the_page_in_its_width(open_page: Open, kind: str) -> None:
    page = open_page(kind, PHONE, is_mobile=True, has_touch=True).page
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    card = page.locator("#gallery-cards .card").first
    card.scroll_into_view_if_needed()
    box = card.bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= PHONE["width"]


def test_the_table_searches_filters_and_sorts(open_page: Open) -> None:
    page = open_page("a thousand classes").page
    rows = page.locator("#class-table tbody tr:visible")
    assert rows.count() == 1000
    page.locator("#class-search").fill("CLASS 13")
    names = rows.locator("th bdi").all_inner_texts()
    assert names
    assert all(name.startswith("class 13") for name in names)
    page.locator("#class-search").fill("")
    page.locator("#class-kind").select_option("found")
    found = rows.count()
    assert 0 < found < 60
    assert page.locator("#class-count").inner_text() == f"{found} of 1,000 classes"
    page.locator("#class-kind").select_option("zero")
    assert rows.count() == 1000 - found
    page.locator("#class-kind").select_option("")
    heading = page.locator("#class-table thead th", has_text="Images")
    heading.locator("button").click()
    counts = [
        int(text.replace(",", "")) for text in page.locator("#class-table tbody td:nth-child(3)").all_inner_texts()
    ]
    assert heading.get_attribute("aria-sort") == "descending"
    assert counts == sorted(counts, reverse=True)
    heading.locator("button").press("Enter")
    assert heading.get_attribute("aria-sort") == "ascending"
    counts = [
        int(text.replace(",", "")) for text in page.locator("#class-table tbody td:nth-child(3)").all_inner_texts()
    ]
    assert counts == sorted(counts)
    page.locator("#class-table thead th", has_text="Class").locator("button").click()
    names = page.locator("#class-table tbody th bdi").all_inner_texts()
    assert names[:12] == [f"class {number}" for number in range(12)], "numbers in names count as numbers"


def test_classes_without_a_value_stay_last_whichever_way_is_sorted(open_page: Open) -> None:
    page = open_page("a thousand classes").page
    button = page.locator("#class-table thead th", has_text="Score").locator("button")
    for _ in range(2):
        button.click()
        scores = page.locator("#class-table tbody td:nth-child(6)").all_inner_texts()
        known = [score for score in scores if score != NO_VALUE]
        assert known
        assert scores[: len(known)] == known


def test_the_gallery_filters_by_class(open_page: Open) -> None:
    page = open_page("evaluated").page
    cards = page.locator("#gallery-cards .card:visible")
    everything = cards.count()
    option = page.locator("#gallery-class option", has_text="grass").first
    page.locator("#gallery-class").select_option(option.get_attribute("value"))
    shown = cards.count()
    assert 0 < shown < everything
    assert option.inner_text() == f"grass ({shown})"
    for index in range(shown):
        assert cards.nth(index).locator(".chip", has_text="grass").count() == 1
    page.locator("#gallery-class").select_option("")
    page.locator("#class-search").fill("gravel")
    page.locator("#class-table .see:visible").click()
    assert cards.first.locator(".chip", has_text="gravel").count() == 1


def test_pointing_at_a_segment_tells_its_class_score_and_area(open_page: Open) -> None:
    page = open_page("evaluated").page
    card = page.locator("#gallery-cards .card").first
    card.scroll_into_view_if_needed()
    path = card.locator("path[data-s]").first
    chip = card.locator(f".chip[data-s='{path.get_attribute('data-s')}']")
    box = card.locator(".picture").bounding_box()
    inside = path.evaluate(
        "(p) => { const b = p.getBoundingClientRect();"
        " for (let x = b.left + 2; x < b.right; x += 3) for (let y = b.top + 2; y < b.bottom; y += 3)"
        " if (document.elementFromPoint(x, y) === p) return [x, y]; return null; }"
    )
    page.mouse.move(*inside)
    tip = page.locator("#tip")
    told = tip.inner_text()
    assert chip.locator(".name").inner_text() in told
    assert f"score {chip.locator('.score').inner_text()}" in told
    assert f"{int(chip.get_attribute('data-area')):,} px" in told
    assert "on" in path.get_attribute("class")
    page.mouse.move(box["x"] - 5, box["y"])
    assert tip.is_hidden()


def test_everything_works_from_the_keyboard(open_page: Open) -> None:
    page = open_page("evaluated").page
    card = page.locator("#gallery-cards .card").first
    chip = card.locator(".chip").first
    chip.focus()
    number = chip.get_attribute("data-s")
    assert "on" in card.locator(f"path[data-s='{number}']").get_attribute("class")
    page.keyboard.press("Enter")
    assert chip.get_attribute("aria-pressed") == "true"
    assert page.locator("#tip").is_visible()
    card.locator(".enlarge").focus()
    page.keyboard.press("Enter")
    viewer = page.locator("#viewer")
    assert viewer.is_visible()
    assert page.locator("#viewer-title").inner_text() == card.get_attribute("data-id")
    assert viewer.locator("tbody tr").count() == card.locator(".chip").count()
    page.keyboard.press("Escape")
    assert viewer.is_hidden()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement !== document.body")


def test_the_theme_follows_the_system_until_it_is_chosen(open_page: Open) -> None:
    page = open_page("plain", scheme="dark").page
    background = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(background)
    page.locator("#theme").click()
    light = page.evaluate(background)
    assert dark != light
    assert page.locator("#theme").inner_text() == "Theme: light"
    page.reload()
    assert page.evaluate(background) == light


def test_hostile_names_are_shown_as_they_are(open_page: Open) -> None:
    page = open_page("hostile names").page
    shown = page.locator("#class-table tbody th bdi").evaluate_all("nodes => nodes.map(n => n.textContent)")
    assert set(HOSTILE) <= set(shown)
    chips = page.locator(".chip .name").evaluate_all("nodes => nodes.map(n => n.textContent)")
    assert set(chips) & set(HOSTILE[:2])
    plotted = page.locator(".plot svg text").evaluate_all("nodes => nodes.map(n => n.textContent)")
    assert any(text.startswith("<script>") for text in plotted)
    assert page.locator("script").count() == 1
    assert page.locator("main img:not([src^='data:image/webp'])").count() == 0


def test_the_report_reads_without_script(open_page: Open) -> None:
    page = open_page("evaluated", java_script_enabled=False).page
    assert page.locator("#gallery-cards .card").count() > 10
    assert page.locator("#class-table tbody tr").count() == 56
    assert page.locator(".needs-script:visible").count() == 0
