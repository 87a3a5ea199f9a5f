"""Two shapes of a few layers that tests build as real models too: Llama's layer and GPT's."""

from __future__ import annotations

import msgspec

from carbon_plugin.spec.models.model import TransformerModel

LLAMA = TransformerModel(
    name="small",
    layers=2,
    hidden=256,
    heads=8,
    kv_heads=2,
    head_dim=32,
    ffn=1024,
    vocab=1000,
    gated=True,
    source="test",
)
GPT = msgspec.structs.replace(LLAMA, name="gpt", kv_heads=8, gated=False)
