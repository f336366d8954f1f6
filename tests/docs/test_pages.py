"""The pages against the project: links, files, modules, commands, flags, columns and exit codes."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa
import pytest

from maskmill.jobs import label
from maskmill.jobs.main import COMMANDS
from maskmill.pipeline.evaluation.protocol import load_protocol
from maskmill.pipeline.output.schema import CLASS_STATS, ERRORS, LABELS
from tests.docs.pages import GUIDES, PAGES, README, ROOT, blocks_of, commands_of, name_of, spans_of, text_of

EVERY_PAGE = pytest.mark.parametrize("page", PAGES, ids=name_of)
EVALUATION = ROOT / "docs" / "evaluation.md"
OUTPUT = ROOT / "docs" / "output.md"
OPTIONS = (ROOT / "tests" / "jobs" / "command_line.txt").read_text().splitlines()
"""Every argument and flag of every command; a test of the commands holds the list to them."""
FOREIGN_FLAGS = {"--build-arg", "--generate", "--nodes", "--only"}
"""Those of docker, of ray, of the kill matrix and of sbatch."""


def links_of(page: Path) -> list[str]:
    return re.findall(r"\]\((?!https?:)([^)]+)\)", text_of(page))


def anchors_of(page: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", text_of(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@EVERY_PAGE
def test_links_lead_somewhere(page: Path) -> None:
    for link in links_of(page):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors_of(target), link


def test_the_readme_links_every_page() -> None:
    linked = {(ROOT / link.partition("#")[0]).resolve() for link in links_of(README)}
    assert [name_of(page) for page in PAGES if page != README and page.resolve() not in linked] == []


@EVERY_PAGE
def test_files_it_names_exist(page: Path) -> None:
    """A name of a file or folder of the project is a whole path from the root, so that it can be opened."""
    named = [
        span for span in spans_of(page) if re.fullmatch(r"(model|pipeline|jobs|tests|docs|maskmill)/[\w./-]*", span)
    ]
    modules = [span for span in spans_of(page) if re.fullmatch(r"[\w./-]*\w\.(py|sbatch)", span)]
    assert [name for name in {*named, *modules} if not (ROOT / name).exists()] == []


@EVERY_PAGE
def test_modules_it_names_exist_under_maskmill(page: Path) -> None:
    """All imports begin with maskmill: a bare ``model`` or ``pipeline`` may be a module of the user's."""
    code = [*blocks_of(page, "python"), *spans_of(page)]
    bare = [
        text for text in code if re.search(r"\b(from|import) (model|pipeline|jobs)\b|^(model|pipeline|jobs)\.\w", text)
    ]
    assert bare == []
    for dotted in re.findall(r"\bmaskmill\.(?:model|pipeline|jobs)[.\w]*", "\n".join(code)):
        path = ROOT / dotted.replace(".", "/")
        assert any(place.is_dir() or place.with_suffix(".py").exists() for place in (path, path.parent)), dotted


@EVERY_PAGE
def test_commands_and_flags_it_names_exist(page: Path) -> None:
    for command in commands_of(page):
        words = command.split()
        assert words[1] in COMMANDS or words[1].startswith("--"), command
        of_the_command = [option for option in OPTIONS if option.startswith(f"maskmill {words[1]} ")]
        if len(words) > 2 and any(option.startswith(f"maskmill {words[1]} {words[2]} ") for option in of_the_command):
            of_the_command = [option for option in of_the_command if option.split()[2] == words[2]]
        known = {flag for option in of_the_command for flag in option.split()[-1].split("/")} | {"--help"}
        assert set(re.findall(r"(?<=\s)--[a-z-]+", command)) <= known, command


def test_every_flag_is_one_of_a_command() -> None:
    known = {"--help"} | {flag for option in OPTIONS for flag in option.split()[-1].split("/")}
    named = {flag for page in PAGES for flag in re.findall(r"(?<![\w-])--[a-z][a-z-]+", text_of(page))}
    assert named - known == FOREIGN_FLAGS


def arrow_type(text: str) -> pa.DataType:
    """The type that the tables of columns write as ``text``."""
    if item := re.fullmatch(r"list<(.*)>", text):
        return pa.list_(arrow_type(item[1]))
    if item := re.fullmatch(r"(\w+)\[(\d+)\]", text):
        return pa.list_(arrow_type(item[1]), int(item[2]))
    return pa.type_for_alias(text)


@pytest.mark.parametrize("schema", [LABELS, ERRORS, CLASS_STATS], ids=["labels", "errors", "class_stats"])
def test_tables_of_columns_are_the_schemas(schema: pa.Schema) -> None:
    tables = re.findall(r"\| column \| type \| meaning \|\n\|[-|]+\|\n((?:\|.*\|\n)+)", text_of(OUTPUT))
    rows = [[line.strip("|").split(" | ") for line in table.splitlines()] for table in tables]
    documented = [[(name.strip(" `"), arrow_type(kind.strip("`"))) for name, kind, _ in table] for table in rows]
    assert [(field.name, field.type) for field in schema] in documented
    assert all(meaning.strip() for table in rows for _, _, meaning in table)


def test_the_files_of_a_run_are_listed_alike() -> None:
    [files] = [block for block in blocks_of(OUTPUT, "") if "OUTPUT/run.json" in block]
    assert files in blocks_of(README, "")


@pytest.mark.parametrize("document", ["docs/operations.md", "docs/output.md"])
def test_exit_codes_are_those_of_the_code(document: str) -> None:
    rows = re.findall(r"^\| ([\d, ]+) \|", text_of(ROOT / document), flags=re.MULTILINE)
    documented = {int(code) for row in rows for code in row.split(",")}
    constants = {value for name, value in vars(label).items() if name.startswith("EXIT_")}
    assert documented == constants | {130, 143}


@EVERY_PAGE
def test_nothing_is_taken_for_html(page: Path) -> None:
    """Renderers drop what looks like a tag: ``list<int32>`` outside of code becomes "list"."""
    code = re.compile(r"^```.*?^```$|`[^`]+`", flags=re.MULTILINE | re.DOTALL)
    assert re.findall(r"<[a-z].*", code.sub("", text_of(page))) == []


def test_guides_say_at_their_head_what_they_are_about() -> None:
    assert [name_of(page) for page in GUIDES if not text_of(page).startswith("# ")] == []


def test_numbers_of_classes_are_those_of_the_protocols() -> None:
    counted = re.findall(r"^- `(\S+)`: (\d+) seen(?: classes)?, (\d+) unseen", text_of(EVALUATION), flags=re.MULTILINE)
    assert counted
    for name, seen, unseen in counted:
        flags = [entry.seen for entry in load_protocol(name).classes]
        assert (flags.count(True), flags.count(False)) == (int(seen), int(unseen)), name
