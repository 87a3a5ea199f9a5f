"""A pipelined model is put together from the stages that the ranks tell of."""

from __future__ import annotations

import pytest

from carbon_plugin.detect.observed import Detected, DetectedLayout, DetectedModel, Observed
from carbon_plugin.detect.stages import STAGES, StagePart, own_stages, with_all_stages
from carbon_plugin.spec.models.model import TransformerModel

SHAPE = {"hidden": 64, "heads": 4, "kv_heads": 4, "head_dim": 16, "ffn": 256, "vocab": 1000, "gated": False}


def part(number: int, *, parameters: int, of: int = 2, layers: int = 2) -> StagePart:
    return StagePart(number=number, of=of, parameters=parameters, trainable_parameters=parameters, layers=layers)


def first_rank(*parts: StagePart) -> Detected:
    model = DetectedModel(
        name="m", parameters=parts[0].parameters, trainable_parameters=1, source="blocks", fields=SHAPE, partial=True
    )
    layout = DetectedLayout(axes={}, world_size=2)
    return Detected(layout=layout, model=model, fields={STAGES: Observed(parts, "a schedule")})


@pytest.mark.parametrize("tied", [True, False])
def test_stages_of_all_ranks_make_the_model(tied):
    whole = TransformerModel(name="m", layers=4, tied_embeddings=tied, **SHAPE)
    first = part(0, parameters=whole.parameters // 2)
    last = part(1, parameters=whole.parameters - whole.parameters // 2)

    model = with_all_stages(first_rank(first), [last, first]).model

    assert (model.parameters, model.trainable_parameters, model.partial) == (whole.parameters, whole.parameters, False)
    assert (model.fields["layers"], model.fields["tied_embeddings"]) == (4, tied)


def test_a_stage_that_nobody_told_of_leaves_the_model_partial():
    detected = first_rank(part(0, parameters=10, of=3))

    assert with_all_stages(detected, [part(1, parameters=10, of=3)]) == detected
    assert own_stages(detected)[0].of == 3


def test_parameters_that_fit_no_shape_leave_none():
    model = with_all_stages(first_rank(part(0, parameters=10**7)), [part(1, parameters=10**7)]).model

    assert (model.parameters, model.fields) == (2 * 10**7, {})


def test_without_a_pipeline_nothing_changes():
    plain = Detected(layout=DetectedLayout(axes={}, world_size=1), model=None, fields={})

    assert own_stages(plain) == ()
    assert with_all_stages(plain, []) is plain
