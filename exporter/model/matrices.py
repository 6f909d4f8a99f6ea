"""The one list of a decoder's matrices and vectors: names, sources, shapes, and what feeds each.

A matrix is what is packed and multiplied at once; its sources are the checkpoint's matrices, under canonical
names, whose rows it has one after the other. Packing, transforms, reading back, verifying and budgets ask
here. Only the standard library is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from exporter.model.config import LayerSpec, ModelConfig

NORM, SUB_NORM, VALUES, PRODUCT = "norm", "sub_norm", "values", "product"
ACTIVATION, STREAM, ROUTED = "activation", "stream", "routed"
ROUTER = "router"  # the matrix that chooses experts, which is never quantized


@dataclass(frozen=True)
class Source:
    """A matrix of the checkpoint: `name` inside its layer, such as `attention.wq`."""

    name: str
    rows: int
    bias: bool


@dataclass(frozen=True)
class Feed:
    """The maker of a matrix's inputs: a NORM of the residual stream, or the STREAM itself; attention's
    weighted sum of VALUES; the PRODUCT of an activation and a second matrix's output, or an ACTIVATION alone;
    a SUB_NORM of one of these three; or what a token's experts made (ROUTED).

    `name` is the vector or the source whose elements or rows scale the inputs, "" where none does.
    """

    kind: str
    name: str = ""


@dataclass(frozen=True)
class Matrix:
    """`name` is `wqkv` inside a layer, `layers.3.wqkv` in the model. `branch` is that of `model.block` which
    multiplies by it, "" for the output layer's. `residual`: what it makes is added to the residual stream as
    it is. With `experts` it is as many matrices of the same shape, one expert's rows after the other's, of
    which each token meets those that it chose."""

    name: str
    branch: str
    sources: tuple[Source, ...]
    columns: int
    feed: Feed
    residual: bool = False
    experts: int | None = None

    @property
    def rows(self) -> int:
        return sum(source.rows for source in self.sources)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns: outputs and inputs."""
        return self.rows, self.columns

    @property
    def is_router(self) -> bool:
        """Whether it chooses experts: then it stays in float."""
        return self.name.rpartition(".")[2] == ROUTER

    @property
    def bias(self) -> bool:
        return any(source.bias for source in self.sources)


@dataclass(frozen=True)
class Vector:
    """A norm's weight or bias, or attention's sinks: its `name` in the packed model, `parameter` in the
    checkpoint; `norm` is the kind of the norm that it is the weight of, None for others."""

    name: str
    parameter: str
    size: int
    norm: str | None = None


def layer_matrices(layer: LayerSpec, dim: int) -> tuple[Matrix, ...]:
    """Return a layer's matrices in the order in which it multiplies by them."""
    attention, ffn = layer.attention, layer.feed_forward
    queries = Source("attention.wq", attention.width, attention.qkv_bias)
    keys = Source("attention.wk", attention.kv_width, attention.qkv_bias)
    values = Source("attention.wv", attention.kv_width, attention.qkv_bias)
    gate = (replace(queries, name="attention.wg"),) if attention.gated else ()
    output = Source("attention.wo", dim, attention.output_bias)

    def norm(name: str) -> Feed:
        return Feed(NORM, name) if layer.norm_in else Feed(STREAM)

    of_values = Feed(SUB_NORM, "attention_sub_norm") if layer.sub_norms else Feed(VALUES, values.name)
    feed_forward = _experts if ffn.experts is not None else _dense
    return (
        Matrix("wqkv", "attention", (queries, keys, values, *gate), dim, norm("attention_norm")),
        Matrix("wo", "attention", (output,), attention.width, of_values, not layer.norm_out),
        *feed_forward(layer, dim, norm(feed_forward_input(layer)[1])),
    )


def _dense(layer: LayerSpec, dim: int, feed: Feed) -> tuple[Matrix, ...]:
    ffn = layer.feed_forward
    w1, w3 = (Source(f"feed_forward.{name}", ffn.hidden_dim, ffn.bias) for name in ("w1", "w3"))
    w2 = Source("feed_forward.w2", dim, ffn.bias)
    of_product = Feed(PRODUCT, w3.name) if ffn.gated else Feed(ACTIVATION)
    if layer.sub_norms:
        of_product = Feed(SUB_NORM, "ffn_sub_norm")
    first = feed_forward_input(layer)[0]
    return (
        Matrix(first, "feed_forward", (w1, w3) if ffn.gated else (w3,), dim, feed),
        Matrix("down", "feed_forward", (w2,), ffn.hidden_dim, of_product, not layer.norm_out),
    )


def _experts(layer: LayerSpec, dim: int, feed: Feed) -> tuple[Matrix, ...]:
    ffn = layer.feed_forward
    experts = ffn.experts
    first, down = [], []
    for i in range(experts.count):
        names = [f"feed_forward.experts.{i}.{name}" for name in (("w1", "w3") if ffn.gated else ("w3",))]
        first += [Source(name, ffn.hidden_dim, ffn.bias) for name in names]
        down.append(Source(f"feed_forward.experts.{i}.w2", dim, ffn.bias))
    router = Source("feed_forward.router", experts.count, experts.bias)
    return (
        Matrix(ROUTER, "feed_forward", (router,), dim, feed),
        Matrix(feed_forward_input(layer)[0], "feed_forward", tuple(first), dim, feed, experts=experts.count),
        Matrix(
            "down", "feed_forward", tuple(down), ffn.hidden_dim, Feed(ROUTED), experts=experts.count
        ),
    )


def feed_forward_input(layer: LayerSpec) -> tuple[str, str]:
    """Name the feed-forward's first matrix, of experts too, and the norm before it: attention's where both
    read one."""
    return (
        "gate_up" if layer.feed_forward.gated else "up",
        "attention_norm" if layer.parallel else "ffn_norm",
    )


def layer_vectors(layer: LayerSpec, dim: int) -> tuple[Vector, ...]:
    """Return a layer's norms, and attention's sinks."""
    attention, found = layer.attention, []
    for kind, inner in (("attention", attention.width), ("ffn", layer.feed_forward.hidden_dim)):
        if layer.norm_in and not (layer.parallel and kind == "ffn"):
            found += _norm(layer, f"{kind}_norm", dim)
        if layer.sub_norms:
            found += _norm(layer, f"{kind}_sub_norm", inner)
        if layer.norm_out:
            found += _norm(layer, f"{kind}_out_norm", dim)
    if attention.qk_norm is not None:
        for kind, width in (("q", attention.width), ("k", attention.kv_width)):
            size = attention.head_dim if attention.qk_norm == "head" else width
            found.append(Vector(f"{kind}_norm", f"attention.{kind}_norm.weight", size, "rms"))
    if attention.sinks:
        found.append(Vector("sinks", "attention.sinks", attention.n_heads))
    return tuple(found)


def _norm(layer: LayerSpec, name: str, size: int) -> list[Vector]:
    weight = Vector(name, f"{name}.weight", size, layer.norm)
    return [weight, Vector(f"{name}_bias", f"{name}.bias", size)] if layer.norm_bias else [weight]


def last_norm(config: ModelConfig) -> tuple[Vector, ...]:
    """Return the vectors of the norm before the output layer."""
    return tuple(_norm(config.layers[-1], "norm", config.dim))


def output_matrix(config: ModelConfig) -> Matrix:
    """Return the output layer's matrix: the embedding's table where the two are tied."""
    name = "tok_embeddings" if config.tied_embeddings else "output"
    return Matrix("output", "", (Source(name, config.vocab_size, False),), config.dim, Feed(NORM, "norm"))


def model_matrices(config: ModelConfig) -> dict[str, Matrix]:
    """Return every matrix by its name in the model, the output's last; its sources have whole names, too."""
    found = {}
    for i, layer in enumerate(config.layers):
        for matrix in layer_matrices(layer, config.dim):
            found[f"layers.{i}.{matrix.name}"] = _in_layer(matrix, f"layers.{i}.")
    return {**found, "output": output_matrix(config)}


def model_vectors(config: ModelConfig) -> dict[str, Vector]:
    """Return every norm's vectors and every layer's sinks by its name in the model."""
    found = {}
    for i, layer in enumerate(config.layers):
        for vector in layer_vectors(layer, config.dim):
            name = f"layers.{i}.{vector.name}"
            found[name] = replace(vector, name=name, parameter=f"layers.{i}.{vector.parameter}")
    return found | {vector.name: vector for vector in last_norm(config)}


def parameter_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return every parameter of the checkpoint under its canonical name, the embedding first."""
    shapes: dict[str, tuple[int, ...]] = {"tok_embeddings.weight": (config.vocab_size, config.dim)}
    for i, layer in enumerate(config.layers):
        shapes |= {f"layers.{i}.{name}": shape for name, shape in layer_shapes(layer, config.dim)}
    shapes |= {vector.parameter: (vector.size,) for vector in last_norm(config)}
    if not config.tied_embeddings:
        shapes["output.weight"] = (config.vocab_size, config.dim)
    return shapes


def layer_shapes(layer: LayerSpec, dim: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the parameters of one layer with their shapes."""
    for vector in layer_vectors(layer, dim):
        yield vector.parameter, (vector.size,)
    for matrix in layer_matrices(layer, dim):
        for source in matrix.sources:
            yield f"{source.name}.weight", (source.rows, matrix.columns)
            if source.bias:
                yield f"{source.name}.bias", (source.rows,)


def _in_layer(matrix: Matrix, prefix: str) -> Matrix:
    sources = tuple(replace(source, name=prefix + source.name) for source in matrix.sources)
    feed = replace(matrix.feed, name=prefix + matrix.feed.name) if matrix.feed.name else matrix.feed
    return replace(matrix, name=prefix + matrix.name, sources=sources, feed=feed)
