"""docs/operations.md and the Grafana dashboard against the code: metrics, settings and files they name."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import yaml

from maskmill.jobs.options import resolve
from maskmill.pipeline.config import LabelConfig
from tests.docs.pages import ROOT, blocks_of, text_of

PAGE = ROOT / "docs" / "operations.md"
GUIDE = text_of(PAGE)
DASHBOARD = json.loads((ROOT / "jobs" / "grafana" / "maskmill.json").read_text())
RAYS_OWN = {"ray_resources"}


def metrics_made() -> set[str]:
    """Names as Ray exports them: prefixed, counters with a suffix."""
    calls = (node for node in ast.walk(ast.parse((ROOT / "pipeline" / "cluster" / "prometheus.py").read_text())))
    made = [
        node for node in calls if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("Counter", "Gauge")
    ]
    return {f"ray_{node.args[0].value}{'_total' if node.func.id == 'Counter' else ''}" for node in made}


def queries() -> list[str]:
    return [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


def test_every_query_names_a_metric_that_is_made() -> None:
    named = {name for query in queries() for name in re.findall(r"\bray_[a-z_]+", query)}
    assert named - RAYS_OWN == metrics_made(), "each is made, and each is shown"


def test_the_guide_names_every_metric() -> None:
    assert set(re.findall(r"`(ray_maskmill_[a-z_]+)", GUIDE)) == metrics_made()


def test_panels_do_not_overlap_and_have_ids_of_their_own() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24


def test_the_guide_s_job_file_is_one(tmp_path: Path) -> None:
    (block,) = blocks_of(PAGE, "yaml")
    path = tmp_path / "job.yaml"
    path.write_text(block)
    config = resolve(LabelConfig, config_file=path, settings=(), flags={})
    assert config.incremental
    assert config.propose_actors == yaml.safe_load(block)["propose-actors"]


def test_files_exist() -> None:
    named = re.findall(r"`((?:jobs|pipeline|docs)/[\w./-]+|cluster\.yaml|Dockerfile)`", GUIDE)
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []
