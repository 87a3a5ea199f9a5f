"""Describe layers of a model that are not all alike, and parts beside its layers, each with its parameter count.

The classes here hold facts of the shape only; `predict` works out what they cost in time, memory and energy.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from carbon_plugin.spec.parsing.limits import check_not_negative, check_positive

MixerKind = Literal["attention", "latent_attention", "state_space", "linear_attention", "convolution"]
"""The kinds of operation with which a layer mixes tokens. The time of attention grows with the square of the sequence
length (or with length times `window`), that of all other kinds with the length.
"""


class Indexer(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One instance says how a token chooses the `top_k` tokens that it attends to: by the scores of `heads` small heads
    of width `head_dim` for all tokens before it (DeepSeek Sparse Attention, arXiv 2512.02556 section 2.1). A layer
    without such heads takes the choice of a layer before it.
    """

    heads: int
    head_dim: int
    top_k: int

    def __post_init__(self) -> None:
        check_not_negative(self, "heads", owner="indexer: ")
        check_positive(self, "head_dim", "top_k", owner="indexer: ")

    def parameters(self, hidden: int, query_rank: int | None) -> int:
        """Return the number of parameters in a layer: queries from the latent vector of `query_rank`, or from the
        hidden state, and from that one key and the weights of the heads. Norms are left out.
        """
        if not self.heads:
            return 0
        return (query_rank or hidden) * self.heads * self.head_dim + hidden * (self.head_dim + self.heads)


class Mixer(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One mixer holds the shape of what mixes the tokens of a layer.

    `kind` is its class and `name` its own name (`mamba2`, `gated_delta`). `parameters` counts those of one layer. The
    widths of query/key and value heads are in elements; `window` says how many tokens back a token sees (None: the
    whole sequence); `of_input` says that the keys and values come from an encoder's input. `chunk` is the number of
    tokens that a layer with a state works on at once (None: the default of its kernels). `indexer` chooses what a token
    attends to (None: it attends to all that it sees); `parameters` has its own.
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
    indexer: Indexer | None = None

    def __post_init__(self) -> None:
        check_not_negative(self, "parameters", "heads", "kv_heads", "qk_dim", "v_dim", owner="mixer: ")
        check_positive(self, "window", "chunk", owner="mixer: ")


class FeedForward(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One instance holds the shape of the feed-forward part of a layer: dense of `width`, or `experts` of `width` each.

    A token uses `top_k` of the experts, and every token also passes `shared` elements of width. Where tokens are
    projected to a narrower width before they are sent to the experts, `latent` is that width (0: the model's own
    width). `parameters` counts those of one layer, `active_parameters` those that one token passes.
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
    """One block holds `layers` layers that are alike: mixers beside one another, then a feed-forward part.

    Either may be missing. `of_input` says that the layers work on the input of an encoder and see all of it
    (`training.input_len`). A token passes the layers `passes` times one after the other, as where all layers of ALBERT
    share the weights of one.
    """

    layers: int
    mixers: tuple[Mixer, ...] = ()
    feed_forward: FeedForward | None = None
    other_parameters: int = 0
    of_input: bool = False
    passes: int = 1

    def __post_init__(self) -> None:
        check_positive(self, "layers", "passes", owner="block: ")
        check_not_negative(self, "other_parameters", owner="block: ")

    @property
    def parameters(self) -> int:
        """Return the number of parameters of one of the layers."""
        feed = self.feed_forward.parameters if self.feed_forward else 0
        return sum(mixer.parameters for mixer in self.mixers) + feed + self.other_parameters

    @property
    def active_parameters(self) -> int:
        """Return how many parameters of one of the layers one token passes."""
        idle = self.feed_forward.parameters - self.feed_forward.active_parameters if self.feed_forward else 0
        return self.parameters - idle


class ModelPart(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One part holds the parameter count of something beside the layers of the language model.

    Examples are a vision tower, a projector or per-layer embeddings. `layers`, `hidden`, `heads` and `inner` (the width
    of its feed-forward parts) give the shape of a tower and are 0 for other parts. `products` are the multiply-adds of
    matrix products that the part costs for each token of the sequence, or with `of_input` for each token of the input
    of an encoder: those of the convolutions before an encoder of images or sound, or of the dense layer before an
    output head. They are 0 for parts that take no time.
    """

    name: str
    parameters: int
    layers: int = 0
    hidden: int = 0
    heads: int = 0
    inner: int = 0
    products: int = 0
    of_input: bool = False

    def __post_init__(self) -> None:
        owner = f"part {self.name}: "
        check_not_negative(self, "parameters", "layers", "hidden", "heads", "inner", "products", owner=owner)
