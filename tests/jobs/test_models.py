"""`maskmill models`: every preset with its licence and what it needs, and the plain word about the bundled one."""

from __future__ import annotations

import json

from typer.testing import CliRunner

from maskmill.jobs.main import app
from maskmill.model.presets import PRESETS
from maskmill.pipeline.evaluation.protocol import load_protocol
from maskmill.pipeline.run.class_files import parse_classes


def blocks() -> dict[str, str]:
    """The text about each preset."""
    result = CliRunner().invoke(app, ["models"])
    assert result.exit_code == 0
    parts = [part.strip() for part in result.stdout.split("\n\n")]
    return {part.splitlines()[0]: part for part in parts if part.splitlines()[0] in PRESETS}


def test_every_preset_says_needs_source_and_licence() -> None:
    assert blocks().keys() == PRESETS.keys()
    for name, text in blocks().items():
        assert PRESETS[name].licence in text
        assert PRESETS[name].weights_from in text
        assert ("needs:    nothing" in text) == (PRESETS[name].weights is not None)
        assert PRESETS[name].proposer in text


def test_it_says_plainly_what_the_models_know_and_forbid() -> None:
    assert "shapes, not photographs" in blocks()["bundled"]
    for name in PRESETS:
        if name.startswith("zegformer"):
            assert "CC-BY-NC 4.0: non-commercial use only" in blocks()[name]
            assert "--weights FILE" in blocks()[name]
        elif name != "bundled":
            assert "non-commercial" not in blocks()[name]
            assert f"a download of {PRESETS[name].download}" in blocks()[name]
            assert "maskmill[photo]" in blocks()[name]


def test_figures_are_those_of_parts_and_the_whole_is_called_unmeasured() -> None:
    """What is printed as the one way to measure it is what the evaluation takes."""
    for name, text in blocks().items():
        assert ("not measured on ADE20K by us" in text) == name.startswith("photo")
    assert "panoptic quality 56.0 on COCO" in blocks()["photo"]
    assert "panoptic quality 51.6 on COCO" in blocks()["photo-small"]
    assert "panoptic quality 58.3 on COCO" in blocks()["photo-large"]
    command = next(line for line in blocks()["photo"].splitlines() if "measured:" in line)
    assert "--classes protocol:ade20k-150 --preset photo;" in command
    for protocol, classes in (("ade20k-150", 150), ("pascal-context-59", 59), ("voc-20", 20), ("voc-21", 21)):
        assert len(load_protocol(protocol)) == len(parse_classes(f"protocol:{protocol}")) == classes


def test_fetching_is_refused_where_there_is_nothing_to_fetch() -> None:
    for arguments, message in (
        (["--fetch", "bundled"], "preset 'bundled' has nothing to fetch by name"),
        (["--fetch", "best"], "Unknown preset 'best'. Choose from: bundled, photo"),
        (["--into", "folder"], "add --fetch PRESET"),
    ):
        result = CliRunner().invoke(app, ["models", *arguments])
        assert result.exit_code == 2
        assert message in result.stderr


def test_json_for_programs() -> None:
    found = json.loads(CliRunner().invoke(app, ["models", "--json"]).stdout)
    assert found.keys() == PRESETS.keys()
    assert found["bundled"]["licence"] == "Apache-2.0"
