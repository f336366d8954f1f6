from __future__ import annotations

import pytest

from maskmill.model.clip.prompts import IMAGE_BRANCH, PROMPT_SETS, prompt_set


def test_sizes_of_the_sets() -> None:
    assert {name: len(templates) for name, templates in PROMPT_SETS.items()} == {
        "single": 1,
        "imagenet_select": 8,
        "imagenet": 80,
        "vild-14": 14,
    }
    assert len(IMAGE_BRANCH) == 32


def test_every_template_has_one_place_for_the_name() -> None:
    for templates in (*PROMPT_SETS.values(), IMAGE_BRANCH):
        assert all(template.count("{}") == 1 for template in templates)
        assert len(set(templates)) == len(templates)


def test_unknown_set_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match="single, imagenet_select, imagenet"):
        prompt_set("none")
