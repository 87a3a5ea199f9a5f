"""Describe layers of a model that are not all alike, and parts beside its layers, each with its parameter count.

Facts of the shape only; what they cost is `predict`'s.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from carbon_plugin.spec.parsing.limits import check_not_negative, check_positive

MixerKind = Literal["attention", "latent_attention", "state_space", "linear_attention", "convolution"]
"""What a layer mixes tokens with. Attention costs the square of the length (or length times `window`), the rest costs
its length."""


class Mixer(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What mixes the tokens of a layer.

    `kind` is its class, `name` its own name (`mamba2`, `gated_delta`). `parameters` are those of one layer. Widths
    of query/key and value heads are in elements; `window` bounds how far back a token sees (None: the whole
    sequence); `of_input` says that keys and values are those of an encoder's input. `chunk` is the number of tokens
    that a layer with a state works on at once (None: the default of its kernels).
    """

    kind: MixerKind
    name: str
    parameters: int
    heads: int = 0
    kv_heads: int = 0
    qk_dim: int = 0
    v_dim: int = 0
    window: int | None = None
    chunk: int | None = None
    of_input: bool = False

    def __post_init__(self) -> None:
        check_not_negative(self, "parameters", "heads", "kv_heads", "qk_dim", "v_dim", owner="mixer: ")
        check_positive(self, "window", "chunk", owner="mixer: ")


class FeedForward(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The feed-forward part of a layer: dense of `width`, or `experts` of `width` each.

    Of the experts `top_k` are active, beside `shared` elements of width that every token passes. Where tokens are
    brought to a narrower width before they are sent to the experts, `latent` is that (0: the model's own). `parameters`
    are those of one layer, `active_parameters` those that one token passes.
    """

    width: int
    parameters: int
    active_parameters: int
    gated: bool = True
    experts: int = 0
    top_k: int = 0
    shared: int = 0
    latent: int = 0

    def __post_init__(self) -> None:
        check_positive(self, "width", owner="feed_forward: ")
        check_not_negative(
            self, "parameters", "active_parameters", "experts", "top_k", "shared", "latent", owner="feed_forward: "
        )


class Block(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`layers` layers that are alike: mixers beside one another, then a feed-forward part; either may be missing.

    `of_input` says that they work on the input of an encoder and see all of it (`training.input_len`)."""

    layers: int
    mixers: tuple[Mixer, ...] = ()
    feed_forward: FeedForward | None = None
    other_parameters: int = 0
    of_input: bool = False

    def __post_init__(self) -> None:
        check_positive(self, "layers", owner="block: ")
        check_not_negative(self, "other_parameters", owner="block: ")

    @property
    def parameters(self) -> int:
        """Parameters of one of the layers."""
        feed = self.feed_forward.parameters if self.feed_forward else 0
        return sum(mixer.parameters for mixer in self.mixers) + feed + self.other_parameters

    @property
    def active_parameters(self) -> int:
        """Parameters of one of the layers that one token passes."""
        idle = self.feed_forward.parameters - self.feed_forward.active_parameters if self.feed_forward else 0
        return self.parameters - idle


class ModelPart(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Something beside the layers of the language model that holds parameters, by name: a vision tower, a projector,
    per-layer embeddings. `layers`, `hidden`, `heads` and `inner` (the width of its
    feed-forward parts) tell the shape of a tower."""

    name: str
    parameters: int
    layers: int = 0
    hidden: int = 0
    heads: int = 0
    inner: int = 0

    def __post_init__(self) -> None:
        check_not_negative(self, "parameters", "layers", "hidden", "heads", "inner", owner=f"part {self.name}: ")
