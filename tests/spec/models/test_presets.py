"""Model presets: their shapes add up to the published parameter counts."""

from __future__ import annotations

import pytest

from carbon_plugin.errors import SpecError
from carbon_plugin.spec.models.presets import Preset, list_presets, load_preset, preset_model, with_implied_fields

PRESETS = list_presets()


@pytest.mark.parametrize(("name", "preset"), PRESETS.items(), ids=PRESETS)
def test_a_preset_has_the_published_number_of_parameters(name: str, preset: Preset):
    assert preset_model(name, preset).parameters == pytest.approx(
        preset.published_parameters, rel=preset.published_within
    )


def test_presets_of_families_that_norm_queries_and_keys_say_so():
    normed = {name for name, preset in PRESETS.items() if preset_model(name, preset).qk_norm}

    assert normed == {name for name in PRESETS if name.startswith(("qwen3", "olmo2"))}


@pytest.mark.parametrize(("name", "preset"), PRESETS.items(), ids=PRESETS)
def test_a_wider_tolerance_than_one_percent_is_explained(name: str, preset: Preset):
    assert preset.published_within <= 0.01 or preset.note


@pytest.mark.parametrize(
    ("name", "active_billions"),
    [
        ("mixtral-8x7b", 12.9),
        ("deepseek-v2", 21),
        ("qwen3-235b-a22b", 22),
        ("llama4-scout", 17),
        ("qwen3-30b-a3b", 3.3),
    ],
)
def test_a_sparse_preset_has_the_published_number_of_active_parameters(name, active_billions):
    assert load_preset(name).active_parameters == pytest.approx(active_billions * 1e9, rel=0.02)


def test_a_preset_is_found_by_alias_and_says_where_its_shape_is_from():
    model = load_preset("meta-llama/Llama-3.1-8B")

    assert (model.name, model.layers, model.kv_heads, model.head_dim) == ("llama3-8b", 32, 8, 128)
    assert model.source.startswith("preset llama3-8b: arXiv 2407.21783")


def test_names_and_aliases_are_distinct():
    names = [name for known, preset in PRESETS.items() for name in (known, *preset.aliases)]

    assert len(names) == len(set(names))


def test_an_unknown_model_lists_the_nearest():
    with pytest.raises(SpecError, match=r"^unknown model 'llama3-9b'; nearest: llama3-8b, llama3-70b"):
        load_preset("llama3-9b")


def test_the_shape_implies_heads_and_their_width():
    assert with_implied_fields({"hidden": 4096, "heads": 32}) == {
        "hidden": 4096, "heads": 32, "kv_heads": 32, "head_dim": 128,
    }  # fmt: skip
    assert with_implied_fields({"hidden": 2048, "heads": 32, "head_dim": 128, "kv_heads": 4})["head_dim"] == 128


def test_heads_that_do_not_share_out_the_width_need_a_stated_head_dim():
    with pytest.raises(SpecError, match="hidden 100 is not a multiple of heads 3; give head_dim"):
        with_implied_fields({"hidden": 100, "heads": 3})
    assert with_implied_fields({"hidden": 100, "heads": 3, "head_dim": 64})["head_dim"] == 64


@pytest.mark.parametrize("heads", [0, -4])
def test_a_model_without_heads_is_told_so_and_not_of_a_width_that_is_missing(heads: int):
    with pytest.raises(SpecError, match=rf"^heads is {heads}, expected a positive integer$"):
        with_implied_fields({"hidden": 64, "heads": heads})
