"""The shape of the program: imports go down only, ray stays where it orchestrates, and files stay readable."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from maskmill.jobs.main import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
PREFIX = "maskmill"  # the package through which all layers are imported
LAYERS = ("model", "pipeline", "jobs")  # each may import those before it

# Where Ray is started, fed and watched. Everything else is called from there and tested without Ray.
ORCHESTRATION = ("pipeline/cluster/", "pipeline/evaluation/distribute.py", "pipeline/training/launch.py")

# What model/ must work without: it is used alone, on images in memory.
FOREIGN_TO_MODEL = {"ray", "pyarrow", "fsspec", "s3fs", "pandas", "typer", "rich", "pydantic"}

LONGEST_FILE_LINES = 300
LONGER_FOR_A_REASON: dict[str, str] = {}

COMPUTED = "<computed>"
RELATIVE = "<relative>"
MAY_COMPUTE_IMPORTS = {"jobs/main.py"}

SOURCES = sorted(path for layer in LAYERS for path in (ROOT / layer).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imported_modules(tree: ast.AST) -> Iterator[str]:
    """Every imported module by its dotted name, also inside functions and under TYPE_CHECKING."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                yield RELATIVE
            elif node.module == PREFIX:
                yield from (f"{PREFIX}.{alias.name}" for alias in node.names)
            else:
                yield str(node.module)
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in (
            "import_module",
            "__import__",
        ):
            # A computed name could be anything; jobs/main.py loads subcommands so, and its table is checked below.
            yield str(node.args[0].value) if isinstance(node.args[0], ast.Constant) else COMPUTED


def package_of(module: str) -> str:
    """The layer of a module of ours ("maskmill.model.clip.text" -> "model"), else the top-level package.

    Ours under any other name than maskmill's would be a second copy of the module: it counts as RELATIVE.
    """
    names = module.split(".")
    if names[0] in LAYERS:
        return RELATIVE
    return names[1] if names[0] == PREFIX and len(names) > 1 and names[1] in LAYERS else names[0]


def packages_imported_by(path: Path) -> set[str]:
    return set(map(package_of, imported_modules(ast.parse(path.read_text(encoding="utf-8")))))


def forbidden_imports(file: str, packages: set[str]) -> set[str]:
    """The rule itself: which of ``packages`` the file (a path from the root) must not import."""
    layer = file.split("/")[0]
    forbidden = set(LAYERS[LAYERS.index(layer) + 1 :]) | {"tests", RELATIVE}
    if layer == "model":
        forbidden |= FOREIGN_TO_MODEL
    if not file.startswith(ORCHESTRATION):
        forbidden.add("ray")
    if file not in MAY_COMPUTE_IMPORTS:
        forbidden.add(COMPUTED)
    return packages & forbidden


def test_imports_go_down_only() -> None:
    found = {name_of(path): forbidden_imports(name_of(path), packages_imported_by(path)) for path in SOURCES}
    assert {name: packages for name, packages in found.items() if packages} == {}


@pytest.mark.parametrize(
    ("file", "code", "forbidden"),
    [
        ("model/clip/text.py", "from maskmill.pipeline.errors import UsageError", {"pipeline"}),
        ("model/clip/text.py", "def f():\n    import maskmill.jobs.main", {"jobs"}),
        ("model/clip/text.py", "import pyarrow.parquet as pq", {"pyarrow"}),
        ("pipeline/decoding/decode.py", "from maskmill import jobs", {"jobs"}),
        ("pipeline/decoding/decode.py", "from pipeline.errors import UsageError", {RELATIVE}),
        ("pipeline/decoding/decode.py", "if TYPE_CHECKING:\n    from ray import ObjectRef", {"ray"}),
        ("pipeline/decoding/decode.py", "importlib.import_module('ray.data')", {"ray"}),
        ("pipeline/decoding/decode.py", "importlib.import_module(name)", {COMPUTED}),
        ("jobs/label.py", "import ray", {"ray"}),
        ("jobs/label.py", "from .options import build_command", {RELATIVE}),
        ("pipeline/cluster/flow.py", "import ray, maskmill.model.zegformer.config", set()),
        ("jobs/label.py", "from maskmill.pipeline.cluster.flow import run", set()),
    ],
)
def test_the_rule_would_notice(file: str, code: str, forbidden: set[str]) -> None:
    packages = set(map(package_of, imported_modules(ast.parse(code))))
    assert forbidden_imports(file, packages) == forbidden


def test_subcommands_lie_in_jobs() -> None:
    assert {package_of(module) for module, _, _ in COMMANDS.values()} == {"jobs"}


def test_the_orchestration_places_exist_and_use_ray() -> None:
    for place in ORCHESTRATION:
        files = [path for path in SOURCES if name_of(path).startswith(place)]
        assert any("ray" in packages_imported_by(path) for path in files), f"{place} no longer needs its exception"


def room_of(module: str) -> str | None:
    """The room of a module of ours: its folder, or its file where it lies at the root of a layer; None for jobs."""
    names = module.removeprefix(f"{PREFIX}.").split(".")
    return None if names[0] not in LAYERS[:2] else "/".join(names[:2])


def imports_between_rooms() -> dict[str, set[str]]:
    """Which room imports which other one."""
    found: dict[str, set[str]] = {}
    for path in SOURCES:
        room = room_of(path.relative_to(ROOT).with_suffix("").as_posix().replace("/", "."))
        if room is None or path.name == "__init__.py":
            continue
        for module in imported_modules(ast.parse(path.read_text(encoding="utf-8"))):
            other = room_of(module) if module.startswith(f"{PREFIX}.") else None
            if other not in (None, room, "model", "pipeline"):
                found.setdefault(room, set()).add(other)
    return found


def circles(imports: dict[str, set[str]]) -> set[str]:
    """The rooms from which imports lead back to themselves."""

    def reached(room: str) -> set[str]:
        seen: set[str] = set()
        waiting = [room]
        while waiting:
            for other in imports.get(waiting.pop(), set()) - seen:
                seen.add(other)
                waiting.append(other)
        return seen

    return {room for room in imports if room in reached(room)}


def test_no_room_imports_one_above_it() -> None:
    assert circles(imports_between_rooms()) == set()


def test_a_circle_of_rooms_would_be_noticed() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == {"b", "c"}


def test_every_file_says_what_it_is_for() -> None:
    sources = {name_of(path): path.read_text(encoding="utf-8") for path in SOURCES}
    silent = [name for name, source in sources.items() if source.strip() and not ast.get_docstring(ast.parse(source))]
    assert silent == [], "these have no docstring"


def test_every_file_is_named_for_its_role() -> None:
    vague = re.compile(r"(^|_)(utils?|common|helpers?|misc)$")
    assert [name_of(path) for path in SOURCES + TESTS if vague.search(path.stem)] == []


def test_files_fit_in_a_head() -> None:
    lengths = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    long = {name: lines for name, lines in lengths.items() if lines > LONGEST_FILE_LINES}
    assert {name: lines for name, lines in long.items() if name not in LONGER_FOR_A_REASON} == {}, "split by role"
    assert LONGER_FOR_A_REASON.keys() <= long.keys(), "some no longer need their exception"
