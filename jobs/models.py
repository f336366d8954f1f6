"""``maskmill models``: the presets, what each knows and needs, where its weights come from and under what licence."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from model.presets import Preset


def models(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object by name instead of text.")] = False,
) -> None:
    """List the presets: what each knows, what it needs, where the weights come from, the licence."""
    from model.presets import PRESETS

    if as_json:
        typer.echo(json.dumps({name: asdict(preset) for name, preset in PRESETS.items()}, indent=1))
        return
    for preset in PRESETS.values():
        typer.echo("\n".join(preset_lines(preset)) + "\n")
    typer.echo("Use one with `maskmill label --preset NAME`; --weights and --clip bring files of your own.")


def preset_lines(preset: Preset) -> list[str]:
    """One preset in a few lines: name and summary, then its facts."""
    needs = "nothing" if preset.weights else f"--weights FILE (official config {preset.config}.yaml)"
    facts = {
        "needs": needs,
        "weights": preset.weights_from,
        "clip": "in the package" if preset.clip == preset.weights else preset.clip,
        "licence": preset.licence,
        "defaults": (
            f"region {preset.region}, fusion {preset.fusion}, prompts {preset.prompts}, "
            f"calibration {preset.calibration}, short side {preset.short_side}, long side <= {preset.max_long_side}"
        ),
    }
    return [preset.name, f"  {preset.summary}", *(f"  {name + ':':10}{text}" for name, text in facts.items())]
