"""The decoder's configuration: one frozen value that every later stage reads.

Only the standard library is used here. The families (`exporter/families/`) make a `ModelConfig` from what
each checkpoint format says of itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

MAX_LAYERS = 1000  # a damaged count would otherwise list parameters without end
ACTIVATIONS = ("silu", "gelu", "gelu_tanh", "relu2", "xielu", "quick_gelu")
MAX_EXPERTS = 1024  # of a layer
NORMS = ("rms", "layer")
QK_NORMS = ("head", "width")
ROPE_SCALINGS = ("linear", "llama3", "yarn", "longrope")


@dataclass(frozen=True)
class RopeScaling:
    """How rotary frequencies are stretched for contexts longer than the pretraining's.

    `linear` divides every frequency by `factor` and reads nothing else. `llama3` (Llama 3.1)
    divides the low frequencies by `factor`, keeps the high ones, and blends those in between.
    `yarn` (arXiv 2309.00071) does so by the turns that a pair makes in the original context: below
    `beta_slow`, above `beta_fast`, or between; pairs at the bounds are whole numbers where `truncate`.
    `longrope` (arXiv 2402.13753) divides each frequency by a number of its own: of `short_factors` in a
    context up to the original, of `long_factors` in a longer one.
    `attention_factor` multiplies cosines and sines.
    """

    kind: str
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context_length: int = 8192
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    short_factors: tuple[float, ...] = ()
    long_factors: tuple[float, ...] = ()
    attention_factor: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in ROPE_SCALINGS:
            raise ValueError(
                f"rope scaling {self.kind!r} is not supported: use a checkpoint with "
                f"{', '.join(map(repr, ROPE_SCALINGS))} or no rope scaling"
            )
        for field in (
            "factor", "low_freq_factor", "high_freq_factor", "beta_fast", "beta_slow", "attention_factor"
        ):  # fmt: skip
            _require_positive(f"rope scaling's {field}", getattr(self, field), (int, float))
        _require_booleans(self, ("truncate",))
        for factor in (*self.short_factors, *self.long_factors):
            _require_positive("a factor of rope scaling", factor, (int, float))
        _require_positive(
            "rope scaling's original_context_length", self.original_context_length, int
        )
        if self.kind == "llama3" and self.high_freq_factor <= self.low_freq_factor:
            raise ValueError(
                f"rope scaling's high_freq_factor {self.high_freq_factor} must be larger than "
                f"its low_freq_factor {self.low_freq_factor}: correct the checkpoint's config"
            )


@dataclass(frozen=True)
class QueryGrowth:
    """How queries grow with their positions, against scores that flatten in long contexts: at position p
    they are multiplied by 1 + `beta` log(1 + floor(p / `context_length`)) (Llama 4, Ministral 3)."""

    beta: float
    context_length: int

    def __post_init__(self) -> None:
        _require_positive("the beta of queries' growth", self.beta, (int, float))
        _require_positive("the original context of queries' growth", self.context_length, int)


@dataclass(frozen=True)
class Rope:
    """Rotary embedding of a head's first `width` elements by the base frequency `theta`.

    Pairs are (i, i + width / 2), or neighbours (2 i, 2 i + 1) where `interleaved`. Whole queries grow by
    `query_growth` besides.
    """

    theta: float
    width: int
    scaling: RopeScaling | None = None
    interleaved: bool = False
    query_growth: QueryGrowth | None = None

    def __post_init__(self) -> None:
        _require_positive("rope_theta", self.theta, (int, float))
        _require_positive("the rotary width", self.width, int)
        if self.width % 2:
            raise ValueError(
                f"the rotary width {self.width} (head_dim, or a part of it) is odd, but rotary embedding "
                "turns pairs: correct the checkpoint's config"
            )
        if self.scaling is not None and self.scaling.kind == "longrope":
            pairs = self.width // 2
            for name in ("short_factors", "long_factors"):
                if len(getattr(self.scaling, name)) != pairs:
                    raise ValueError(
                        f"rope scaling has {len(getattr(self.scaling, name))} {name} for {pairs} pairs: "
                        "correct the checkpoint's config"
                    )


    def for_context(self, length: int) -> Rope:
        """Return this rotation as a context of `length` has it, whatever the context."""
        scaling = self.scaling
        if scaling is None or scaling.kind != "longrope":
            return self
        long = length > scaling.original_context_length
        factors = scaling.long_factors if long else scaling.short_factors
        return replace(self, scaling=replace(scaling, short_factors=factors, long_factors=factors))


@dataclass(frozen=True)
class AttentionSpec:
    """A layer's attention; `head_dim` is independent of the model's width.

    `rope` None rotates nothing. `window` counts the positions a token sees, itself included; None means all.
    Scores are queries times keys times `scale` (None: 1 / sqrt(head_dim)), then c tanh(score / c) with
    c = `softcap`. `qk_norm` normalizes queries and keys before the rotation, each head by itself ("head") or
    all heads together ("width"). `sinks`: a learned logit a head in the softmax's denominator. `gated`: the
    result times the sigmoid of a gate of the same width, which is projected like the queries.
    """

    n_heads: int
    n_kv_heads: int
    head_dim: int
    rope: Rope | None
    window: int | None = None
    scale: float | None = None
    softcap: float | None = None
    qk_norm: str | None = None
    sinks: bool = False
    gated: bool = False
    qkv_bias: bool = False
    output_bias: bool = False

    def __post_init__(self) -> None:
        for field in ("n_heads", "n_kv_heads", "head_dim"):
            _require_positive(field, getattr(self, field), int)
        _require_booleans(self, ("sinks", "gated", "qkv_bias", "output_bias"))
        if self.window is not None:
            _require_positive("sliding_window", self.window, int)
        for field in ("scale", "softcap"):
            if getattr(self, field) is not None:
                _require_positive(f"attention's {field}", getattr(self, field), (int, float))
        if self.qk_norm not in (None, *QK_NORMS):
            raise ValueError(f"qk_norm is {self.qk_norm!r}, not one of {', '.join(QK_NORMS)} or None")
        if self.n_heads % self.n_kv_heads:
            raise ValueError(
                f"{self.n_heads} attention heads cannot share {self.n_kv_heads} key-value heads "
                "evenly: correct the checkpoint's config"
            )
        if self.rope is not None and self.rope.width > self.head_dim:
            raise ValueError(
                f"the rotary width {self.rope.width} is larger than head_dim {self.head_dim}: correct the "
                "checkpoint's config"
            )

    @property
    def width(self) -> int:
        """Return the width of all heads' queries together, which is what the output matrix reads."""
        return self.n_heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Return the width of all heads' keys together, which is that of their values."""
        return self.n_kv_heads * self.head_dim

    @property
    def score_scale(self) -> float:
        return self.head_dim**-0.5 if self.scale is None else self.scale


@dataclass(frozen=True)
class Xielu:
    """The parameters of xIELU (arXiv 2411.13010), numbers that a layer has learned: alpha_p x^2 + beta x
    above 0, and alpha_n (exp(min(x, eps)) - 1 - x) + beta x below."""

    alpha_p: float
    alpha_n: float
    beta: float = 0.5
    eps: float = -1e-6

    def __post_init__(self) -> None:
        for field in ("alpha_p", "alpha_n", "beta"):
            _require_positive(f"xIELU's {field}", getattr(self, field), (int, float))
        if not isinstance(self.eps, float) or not -1 <= self.eps <= 0:
            raise ValueError(f"xIELU's eps is {self.eps!r}, not from -1 to 0: correct the checkpoint")


@dataclass(frozen=True)
class Experts:
    """A mixture of experts: a router chooses `chosen` of `count` feed-forwards for each token, those of the
    largest logits, and adds their results, times the softmax of all logits; with `renormalize`, of theirs
    alone (arXiv 1701.06538, 2401.04088). `bias`: the router has one."""

    count: int
    chosen: int
    renormalize: bool
    bias: bool = False

    def __post_init__(self) -> None:
        for field in ("count", "chosen"):
            _require_positive(f"the experts' {field}", getattr(self, field), int)
        if not self.chosen <= self.count <= MAX_EXPERTS:
            raise ValueError(
                f"{self.chosen} of {self.count} experts a token: a layer has at most {MAX_EXPERTS}, and a "
                "token not more than that; correct the checkpoint's config"
            )
        _require_booleans(self, ("renormalize", "bias"))


@dataclass(frozen=True)
class FeedForwardSpec:
    """A layer's feed-forward: down(activation(gate) * (up + `up_offset`)), of `hidden_dim` products; without
    a gate (`gated`) down(activation(up)).

    With a `limit` the gate is at most that, and `up` within plus and minus it, before the product. `xielu`
    has the parameters of the activation of that name, which takes no gate. With `experts` there are as many
    of them, of `hidden_dim` products each.
    """

    hidden_dim: int
    activation: str = "silu"
    limit: float | None = None
    bias: bool = False
    gated: bool = True
    xielu: Xielu | None = None
    up_offset: float = 0.0
    experts: Experts | None = None

    def __post_init__(self) -> None:
        _require_positive("hidden_dim", self.hidden_dim, int)
        if self.activation not in ACTIVATIONS:
            raise ValueError(
                f"activation {self.activation!r} is not supported: use a checkpoint with one of "
                f"{', '.join(ACTIVATIONS)}"
            )
        if self.limit is not None:
            _require_positive("the feed-forward's limit", self.limit, (int, float))
        if self.limit is not None and not self.gated:
            raise ValueError(f"a feed-forward without a gate has no limit: leave {self.limit!r} out")
        has_parameters = self.xielu is not None
        if has_parameters != (self.activation == "xielu") or (has_parameters and self.gated):
            raise ValueError(
                "the activation 'xielu' has parameters and no gate, and no other has them: correct the "
                "checkpoint's config"
            )
        if self.activation == "quick_gelu" and not self.gated:
            raise ValueError("the activation 'quick_gelu' is one of a gate: correct the checkpoint's config")
        if self.up_offset and self.activation != "quick_gelu":
            raise ValueError(f"an up_offset of {self.up_offset!r} goes with the activation 'quick_gelu'")
        if not isinstance(self.bias, bool):
            raise ValueError(f"mlp_bias is {self.bias!r}, not true or false: correct the checkpoint's config")


@dataclass(frozen=True)
class LayerSpec:
    """One layer: attention, then feed-forward, each added to the residual stream.

    `norm_in`: a norm before each of the two; `norm_out`: one of what each adds; `sub_norms`: one of
    attention's result and one of the feed-forward's product, each before its last matrix. `parallel`: both
    read what comes into the layer, through one norm. `norm` says what these norms divide by: "rms" the root
    mean square, "layer" the standard deviation, once the mean is taken away; `norm_bias`: a vector is added.
    Those of queries and keys are RMS norms.
    """

    attention: AttentionSpec
    feed_forward: FeedForwardSpec
    norm_in: bool = True
    norm_out: bool = False
    sub_norms: bool = False
    parallel: bool = False
    norm: str = "rms"
    norm_bias: bool = False

    def __post_init__(self) -> None:
        _require_booleans(self, ("norm_in", "norm_out", "sub_norms", "parallel", "norm_bias"))
        if self.sub_norms and self.feed_forward.experts is not None:
            raise ValueError(
                "experts with a norm before their last matrix are not supported: use another model"
            )
        if self.norm not in NORMS or (self.norm_bias and self.norm != "layer"):
            raise ValueError(
                f"norms of kind {self.norm!r}{' with a bias' if self.norm_bias else ''} are not supported: "
                "use a checkpoint with RMS norms, or with layer norms"
            )

    def windowed(self, window: int | None) -> LayerSpec:
        """Return this layer with a window, or with None without one."""
        return replace(self, attention=replace(self.attention, window=window))


@dataclass(frozen=True)
class ModelConfig:
    """A decoder: an embedding, layers, a norm, and an output layer.

    `embedding_scale` multiplies what the embedding looks up. `logit_scale` multiplies logits: the last norm's
    weight is read times it, so that nothing later knows of it. Logits then become c tanh(logit / c) with
    c = `logit_softcap`. `context_length` is the longest the model was made for. All norms have `norm_eps`;
    the last one is of the kind of the last layer's.
    """

    family: str
    dim: int
    layers: tuple[LayerSpec, ...]
    vocab_size: int
    norm_eps: float
    context_length: int
    tied_embeddings: bool
    embedding_scale: float = 1.0
    logit_scale: float = 1.0
    logit_softcap: float | None = None

    def __post_init__(self) -> None:
        for field in ("dim", "vocab_size", "context_length"):
            _require_positive(field, getattr(self, field), int)
        if not self.layers:
            raise ValueError("a model without layers: correct the checkpoint's config")
        for field in ("norm_eps", "embedding_scale", "logit_scale"):
            _require_positive(field, getattr(self, field), (int, float))
        if self.logit_softcap is not None:
            _require_positive("the logits' soft cap", self.logit_softcap, (int, float))
        _require_booleans(self, ("tied_embeddings",))

    @property
    def n_layers(self) -> int:
        return len(self.layers)

    def check_length(self, max_seq_length: int) -> None:
        """Raise ValueError unless `max_seq_length` is in 1..context_length."""
        if not 1 <= max_seq_length <= self.context_length:
            raise ValueError(
                f"--max-seq-length {max_seq_length} is outside 1..{self.context_length}, "
                "the context this model was trained for; choose a value in that range"
            )

    def for_context(self, length: int) -> ModelConfig:
        """Return this model as a context of `length` has it, whatever the context: parts of a long text are
        then read as the whole would be."""

        def fixed(layer: LayerSpec) -> LayerSpec:
            rope = layer.attention.rope
            if rope is None or rope.for_context(length) == rope:
                return layer
            return replace(layer, attention=replace(layer.attention, rope=rope.for_context(length)))

        return replace(self, layers=tuple(map(fixed, self.layers)))

    def ropes(self) -> tuple[Rope, ...]:
        """The different rotations of the layers, in their order."""
        return tuple(dict.fromkeys(
            layer.attention.rope for layer in self.layers if layer.attention.rope is not None
        ))  # fmt: skip


def repeated(layers: Sequence[LayerSpec], n_layers: int) -> tuple[LayerSpec, ...]:
    """`n_layers` layers that go through `layers` again and again.

    Raises ValueError for a count that is none, or more than MAX_LAYERS.
    """
    check_layer_count(n_layers)
    return tuple(layers[i % len(layers)] for i in range(n_layers))


def check_layer_count(n_layers: int) -> None:
    """Raise ValueError for a count of layers that is none, or more than MAX_LAYERS."""
    _require_positive("n_layers", n_layers, int)
    if n_layers > MAX_LAYERS:
        raise ValueError(
            f"n_layers is {n_layers}, more than {MAX_LAYERS}: correct the checkpoint's config"
        )


def is_positive(value: object) -> bool:
    """Whether `value` is a number above 0: an int of any size, or a float that is finite."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return value > 0 and (isinstance(value, int) or math.isfinite(value))


def _require_booleans(value: object, fields: Sequence[str]) -> None:
    for field in fields:
        if not isinstance(getattr(value, field), bool):
            raise ValueError(
                f"{field} is {getattr(value, field)!r}, not true or false: correct the checkpoint's config"
            )


def _require_positive(name: str, value: object, kind: type | tuple[type, ...]) -> None:
    if not isinstance(value, kind) or not is_positive(value):
        expected = "a positive whole number" if kind is int else "a positive number"
        raise ValueError(f"{name} is {value!r}, not {expected}: correct the checkpoint's config")
