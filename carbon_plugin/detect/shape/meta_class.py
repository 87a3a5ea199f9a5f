"""Compare a config that we read with the class that transformers makes of it, built on the meta device.

The parameters of the class are the right count for the config. No weights, no network and no code that comes with the
weights are used.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from carbon_plugin.errors import SpecError
from carbon_plugin.spec.huggingface.json_text import read_config
from carbon_plugin.spec.models.model import TransformerModel
from carbon_plugin.spec.numbers.amounts import count, percent

AGREES = 0.01
"""The share of the class's count by which our count may differ before it is said to differ."""


def checked_by_class(model: TransformerModel, config: Path) -> TransformerModel:
    """Return the model with a note on whether its parameters are those of the class in transformers.

    `model` is the model as we read it, and `config` its `config.json` or the directory that holds it. Raises
    `SpecError` if transformers is not installed, or has no class for the config.
    """
    parameters, name = class_parameters(config)
    difference = model.parameters / parameters - 1
    if abs(difference) <= AGREES:
        said = f"{name} has {count(parameters, 4)} parameters, as counted here"
    else:
        said = (
            f"{name} has {count(parameters, 4)} parameters, and {count(model.parameters, 4)} were counted here "
            f"({percent(difference, 1, signed=True)}): what the plan says of memory and time rests on the wrong shape"
        )
    return msgspec.structs.replace(model, notes=(*model.notes, said))


def class_parameters(config: Path) -> tuple[int, str]:
    """Return the parameters of the class, and its name with the version of transformers."""
    file = config / "config.json" if config.is_dir() else config
    stated = read_config(file)
    try:
        import torch
        import transformers
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    except ImportError as error:
        raise SpecError(f"{file}: cannot be compared with its class: {error}; pip install transformers torch") from None
    kind, name = str(stated.get("model_type")), f"transformers {transformers.__version__}"
    if kind not in CONFIG_MAPPING:
        raise SpecError(f"{file}: cannot be compared with its class: {name} has none for model_type {kind}")
    try:
        settings = CONFIG_MAPPING[kind].from_dict(dict(stated))
        architecture = _architecture(stated, kind)
        with torch.device("meta"):
            module = architecture(settings)
        module.tie_weights()
    except Exception as error:  # a class may raise anything on a config that it does not expect
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise SpecError(f"{file}: cannot be compared with its class: {reason}") from error
    parameters = sum({id(parameter): parameter.numel() for parameter in module.parameters()}.values())
    return parameters, f"{architecture.__name__} of {name}"


def _architecture(stated: dict[str, Any], kind: str) -> Any:
    """Return the class that the config names, else the class that transformers lists for the config's kind."""
    import transformers
    from transformers.models.auto import modeling_auto

    named = stated.get("architectures")
    if isinstance(named, list) and named and hasattr(transformers, str(named[0])):
        return getattr(transformers, str(named[0]))
    tables = (
        modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
        modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    )
    found = next((table[kind] for table in tables if kind in table), None)
    if found is None:
        raise SpecError(f"there is no language model of model_type {kind}")
    return getattr(transformers, found if isinstance(found, str) else found[0])
