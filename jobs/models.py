"""``maskmill models``: lists the presets, and fetches the weights of one before they are needed."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from maskmill.jobs.arguments import StorageOption
from maskmill.pipeline.errors import UsageError

if TYPE_CHECKING:
    from maskmill.model.presets import Preset


def models(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object by name instead of text.")] = False,
    fetch: Annotated[
        str | None, typer.Option(metavar="PRESET", help="Fetch the weights of this preset to this machine.")
    ] = None,
    into: Annotated[
        str | None,
        typer.Option(metavar="FOLDER_OR_URI", help="With --fetch: copy them here, for --weights and --clip."),
    ] = None,
    storage_option: StorageOption = None,
) -> None:
    """List the presets: what each knows, what it needs, where the weights come from, the licence."""
    from maskmill.model.presets import PRESETS

    if fetch is not None:
        from maskmill.pipeline.stages.weights import fetch_preset
        from maskmill.pipeline.storage.files import parse_storage_options

        for name, place in fetch_preset(fetch, into, parse_storage_options(storage_option or [])).items():
            typer.echo(f"{name:10}{place}")
        return
    if into is not None or storage_option:
        raise UsageError("--into and --storage-option are about --fetch: add --fetch PRESET")
    if as_json:
        typer.echo(json.dumps({name: _flat(preset) for name, preset in PRESETS.items()}, indent=1))
        return
    for preset in PRESETS.values():
        typer.echo("\n".join(preset_lines(preset)) + "\n")
    typer.echo("Use one with `maskmill label --preset NAME`; --weights and --clip bring files of your own.")


def _flat(preset: Preset) -> dict[str, Any]:
    """A preset's facts and naming settings side by side, as scripts read them."""
    facts = asdict(preset)
    return {**facts.pop("naming"), **facts}


def preset_lines(preset: Preset) -> list[str]:
    """Return a preset as lines of text: name and summary, then its facts."""
    needs, naming = "nothing", preset.naming
    if preset.download is not None:
        needs = f"a download of {preset.download}, once a machine; pip install 'maskmill[photo]'"
    elif preset.weights is None:
        needs = f"--weights FILE (official config {preset.config}.yaml)"
    facts = {
        "needs": needs,
        "proposer": preset.proposer,
        "weights": preset.weights_from,
        "clip": "in the package" if preset.clip == preset.weights else preset.clip,
        "licence": preset.licence,
        **_quality(preset),
        "defaults": (
            f"region {naming.region}, fusion {naming.fusion}, prompts {naming.prompts}, "
            f"calibration {naming.calibration}, short side {preset.short_side}, long side <= {preset.max_long_side}"
        ),
    }
    return [preset.name, f"  {preset.summary}", *(f"  {name + ':':10}{text}" for name, text in facts.items())]


def _quality(preset: Preset) -> dict[str, str]:
    """Return what is known of a preset's quality: published figures of its parts, and how to measure the whole."""
    if preset.published is None:
        return {}
    return {
        "figures": preset.published,
        "measured": (
            "the whole was not measured on ADE20K by us. To measure it: maskmill label IMAGES OUT --classes "
            f"protocol:ade20k-150 --preset {preset.name}; maskmill evaluate OUT MAPS --protocol ade20k-150 "
            "--reduce-zero-label"
        ),
    }
