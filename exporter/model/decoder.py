"""The decoder in float: one `nn.Module` of any ModelConfig, for eager runs and stock graphs.

Shape suffixes: T tokens of this forward, C context (cache length), R rows whose logits are
wanted, D model width, H query heads, K key/value heads, G = H / K, d head width, V vocabulary.

The KV caches belong to the caller, who passes them in: as buffers of a wrapper for ExecuTorch,
as inputs for AOTInductor (see `lower/program.py`). Attention runs over the whole cache under a mask, so
that T and R are the only dynamic sizes of the exported graph.

Sources: Llama (arXiv 2302.13971), grouped-query attention (2305.13245), sliding window (Mistral,
2310.06825), soft cap (Gemma 2, 2408.00118), sinks (2309.17453; learned ones as in gpt-oss), queries that grow
with their positions (transformers' Ministral3Attention).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from exporter.model import experts
from exporter.model.block import Operations, run_layer
from exporter.model.config import AttentionSpec, FeedForwardSpec, LayerSpec, ModelConfig, Rope
from exporter.model.matrices import Feed, layer_matrices, layer_vectors
from exporter.model.rotary import head_tables, quarter_turn, query_factors

Outputs = Tensor | tuple[Tensor, ...]  # of a matrix: of its only source, or of each


class RMSNorm(nn.Module):
    def __init__(self, width: int, eps: float):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(width))

    def forward(self, x_TD: Tensor) -> Tensor:
        x = x_TD.float()
        x = x * torch.rsqrt((x * x).mean(-1, keepdim=True) + self.eps)
        return x.to(x_TD.dtype) * self.weight


class LayerNorm(nn.Module):
    def __init__(self, width: int, eps: float, bias: bool):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(width))
        self.bias = nn.Parameter(torch.empty(width)) if bias else None

    def forward(self, x_TD: Tensor) -> Tensor:
        x = x_TD.float()
        x = x - x.mean(-1, keepdim=True)
        y = (x * torch.rsqrt((x * x).mean(-1, keepdim=True) + self.eps)).to(x_TD.dtype) * self.weight
        return y if self.bias is None else y + self.bias


Norm = RMSNorm | LayerNorm


def make_norm(kind: str, width: int, eps: float, bias: bool) -> Norm:
    """Make a norm, of a kind of `model.config.NORMS`; RMS norms have no bias."""
    return LayerNorm(width, eps, bias) if kind == "layer" else RMSNorm(width, eps)


class Block(nn.Module):
    """One layer's parameters, under the checkpoint's canonical names."""

    def __init__(self, layer: LayerSpec, dim: int, eps: float):
        super().__init__()
        self.layer = layer
        self.matrices = {matrix.name: matrix for matrix in layer_matrices(layer, dim)}
        for matrix in self.matrices.values():
            for source in matrix.sources:
                linear = nn.Linear(matrix.columns, source.rows, bias=source.bias)
                self._put(source.name, linear)
        self.norms: dict[str, str] = {}  # the vector's name to its module's
        for vector in layer_vectors(layer, dim):
            module, _, leaf = vector.parameter.rpartition(".")
            if vector.norm is not None:
                self.norms[vector.name] = module
                self._put(module, make_norm(vector.norm, vector.size, eps, layer.norm_bias))
            elif leaf != "bias":  # which its norm has
                self._put(vector.parameter, nn.Parameter(torch.empty(vector.size)))

    def sources(self, matrix: str) -> list[nn.Linear]:
        """The modules whose rows, one after the other, are the matrix."""
        return [self.get_submodule(source.name) for source in self.matrices[matrix].sources]

    def feeds(self) -> list[Feed]:
        """What makes the matrices' inputs, in order and each once: two may read the same."""
        return list(dict.fromkeys(matrix.feed for matrix in self.matrices.values()))

    def norm(self, name: str) -> Norm:
        return self.get_submodule(self.norms[name])

    def linear(self, matrix: str, x_TK: Tensor, routes: Tensor | None = None) -> Outputs:
        """Multiply by a matrix; with `routes` each row by its expert's."""
        if routes is None:
            outputs = tuple(source(x_TK) for source in self.sources(matrix))
        else:
            count, sources = self.matrices[matrix].experts, self.sources(matrix)
            rows = x_TK.split(experts.rows_by_expert(routes, count))
            each = len(sources) // count
            outputs = tuple(
                torch.cat([source(x) for source, x in zip(sources[part::each], rows, strict=True)])
                for part in range(each)
            )
        return outputs if len(outputs) > 1 else outputs[0]

    def forward(self, x_TD: Tensor, ops: Operations[Tensor]) -> Tensor:
        return run_layer(self.layer, ops, x_TD, self.linear, torch.add)

    def _put(self, path: str, value: nn.Module | nn.Parameter) -> None:
        *parents, leaf = path.split(".")
        module: nn.Module = self
        for name in parents:
            if not hasattr(module, name):
                module.add_module(name, nn.Module())
            module = getattr(module, name)
        setattr(module, leaf, value)


@dataclass(frozen=True)
class CachedOperations:
    """A layer's operations on tokens [T, ...], with the caches of the positions before them.

    `cos`, `sin` are float32 [T, 1, d] and carry the square root of the scores' scale, `turn` is
    `quarter_turn`, `growth` float32 [T, 1, 1] what queries are multiplied by besides, None where nothing is;
    the mask hides positions of the cache. The caches are updated in place.
    """

    block: Block
    positions_T: Tensor
    cos_T1d: Tensor
    sin_T1d: Tensor
    turn_dd: Tensor
    growth_T11: Tensor | None
    mask_GTC: Tensor
    k_cache_KdC: Tensor
    v_cache_KCd: Tensor

    def norm(self, name: str, x_TD: Tensor) -> Tensor:
        return self.block.norm(name)(x_TD)

    def attend(self, qkv: Sequence[Tensor]) -> Tensor:
        spec, T = self.block.layer.attention, qkv[0].shape[0]
        K, d = spec.n_kv_heads, spec.head_dim
        H, G = spec.n_heads, spec.n_heads // spec.n_kv_heads
        q_THd, k_TKd = self._normed_heads(spec, *qkv[:2])
        # Queries and keys are rotated in one go: fewer operators to lower and to run.
        qk_THd = self._rotate(torch.cat((q_THd, k_TKd), dim=1))
        v_TKd = qkv[2].view(T, K, d)
        self.k_cache_KdC.index_copy_(2, self.positions_T, qk_THd[:, H:].permute(1, 2, 0))
        self.v_cache_KCd.index_copy_(1, self.positions_T, v_TKd.permute(1, 0, 2))

        # The G query heads of a group are stacked along the rows: no copy of keys per query head.
        q_THd = self._grown(qk_THd[:, :H])
        q_KGTd = q_THd.permute(1, 0, 2).contiguous().view(K, G * T, d)
        scores_KGTC = torch.bmm(q_KGTd, self.k_cache_KdC)
        if spec.softcap is not None:
            scores_KGTC = spec.softcap * torch.tanh(scores_KGTC / spec.softcap)
        weights_KGTC = self._softmax(scores_KGTC + self.mask_GTC).to(qkv[0].dtype)
        y_KGTd = torch.bmm(weights_KGTC, self.v_cache_KCd)
        y_TD = y_KGTd.view(K, G, T, d).permute(2, 0, 1, 3).contiguous().view(T, H * d)
        return y_TD * torch.sigmoid(qkv[3]) if spec.gated else y_TD

    def activate(self, gate_up: Outputs) -> Tensor:
        spec = self.block.layer.feed_forward
        return gated_product(spec, *gate_up) if spec.gated else activated(spec, gate_up)

    def route(self, logits_TE: Tensor) -> Tensor:
        return experts.route(self.block.layer.feed_forward.experts, logits_TE)

    def dispatch(self, x_TD: Tensor, routes: Tensor) -> Tensor:
        return experts.dispatch(x_TD, routes)

    def combine(self, y: Tensor, routes: Tensor) -> Tensor:
        return experts.combine(y, routes)

    def _normed_heads(self, spec: AttentionSpec, q_TN: Tensor, k_TN: Tensor) -> tuple[Tensor, Tensor]:
        if spec.qk_norm == "width":
            q_TN, k_TN = self.norm("q_norm", q_TN), self.norm("k_norm", k_TN)
        q_THd, k_TKd = (x.view(x.shape[0], -1, spec.head_dim) for x in (q_TN, k_TN))
        if spec.qk_norm == "head":
            q_THd, k_TKd = self.norm("q_norm", q_THd), self.norm("k_norm", k_TKd)
        return q_THd, k_TKd

    def _rotate(self, x_THd: Tensor) -> Tensor:
        """In float32. Four operators where slices and a concatenation would take ten: lowering time and run
        time go with their number. The product with `turn_dd`, of zeros and ones, is exact."""
        x = x_THd.float()
        return (x * self.cos_T1d + F.linear(x, self.turn_dd) * self.sin_T1d).to(x_THd.dtype)

    def _grown(self, q_THd: Tensor) -> Tensor:
        return q_THd if self.growth_T11 is None else (q_THd.float() * self.growth_T11).to(q_THd.dtype)

    def _softmax(self, scores_KGTC: Tensor) -> Tensor:
        scores = scores_KGTC.float()
        if not self.block.layer.attention.sinks:
            return torch.softmax(scores, dim=-1)
        K, GT, _ = scores.shape
        sinks_KG1 = self.block.attention.sinks.float().view(K, -1, 1)
        sinks_KGT1 = sinks_KG1.expand(K, sinks_KG1.shape[1], self.positions_T.shape[0]).reshape(K, GT, 1)
        return torch.softmax(torch.cat((scores, sinks_KGT1), dim=-1), dim=-1)[..., :-1]


def gated_product(spec: FeedForwardSpec, gate: Tensor, up: Tensor) -> Tensor:
    """The activation of `gate`, times `up` and its offset, both within the limit where there is one."""
    if spec.limit is not None:
        gate, up = gate.clamp(max=spec.limit), up.clamp(-spec.limit, spec.limit)
    return activated(spec, gate) * (up + spec.up_offset if spec.up_offset else up)


def activated(spec: FeedForwardSpec, x: Tensor) -> Tensor:
    """The activation of `x`."""
    if spec.activation == "silu":
        return F.silu(x)
    if spec.activation == "quick_gelu":
        return x * torch.sigmoid(1.702 * x)
    if spec.activation == "relu2":
        return F.relu(x).square()
    if spec.xielu is not None:
        p = spec.xielu
        curve = torch.where(x > 0, p.alpha_p * x * x, p.alpha_n * (torch.expm1(x.clamp(max=p.eps)) - x))
        return curve + p.beta * x
    return F.gelu(x, approximate="tanh" if spec.activation == "gelu_tanh" else "none")


class Transformer(nn.Module):
    """The decoder of `config` for at most `max_seq_length` positions.

    Raises ValueError when `max_seq_length` is not in 1..config.context_length.
    """

    def __init__(self, config: ModelConfig, max_seq_length: int):
        super().__init__()
        config.check_length(max_seq_length)
        self.config = config
        self.max_seq_length = max_seq_length
        table = torch.empty(config.vocab_size, config.dim)  # nn.Embedding's own would be drawn first
        self.tok_embeddings = nn.Embedding.from_pretrained(table, freeze=False)
        self.layers = nn.ModuleList(Block(layer, config.dim, config.norm_eps) for layer in config.layers)
        last = config.layers[-1]
        self.norm = make_norm(last.norm, config.dim, config.norm_eps, last.norm_bias)
        self.output = nn.Linear(config.dim, config.vocab_size, bias=False)
        if config.tied_embeddings:
            self.output.weight = self.tok_embeddings.weight
        self.head: nn.Linear | None = None  # [D, D] before the output; see quality/transforms.py
        self._tables: dict[_Turn, tuple[str, ...]] = {}  # cosines, sines, quarter turn; factors of queries
        for layer in config.layers:
            self._register_tables(_Turn.of(layer.attention), max_seq_length)

    def forward(
        self, tokens: Tensor, start_pos: Tensor, rows: Tensor, caches: Sequence[Tensor]
    ) -> Tensor:
        """Logits of some positions of a chunk.

        Args:
            tokens: int64 [1, T], the chunk.
            start_pos: int64 [1], the position of its first token; earlier positions are cached.
            rows: int64 [R], which of the T positions' logits to compute.
            caches: k_0, v_0, k_1, v_1, ... of `cache_shapes` and the model's dtype, updated in place.

        Returns: float32 [R, V].
        """
        positions_T = start_pos + torch.arange(tokens.shape[1])
        x_TD = self.embed(tokens[0])
        shared = self.shared_operands(positions_T, x_TD.dtype)
        for i, block in enumerate(self.layers):
            ops = self.operations(block, positions_T, shared, caches[2 * i : 2 * i + 2])
            x_TD = block(x_TD, ops)
        x_RD = self.norm(x_TD.index_select(0, rows))
        if self.head is not None:
            x_RD = self.head(x_RD)
        return self.logits(x_RD)

    def logits(self, x_RD: Tensor) -> Tensor:
        """Logits float32 [R, V] of what the output layer reads."""
        logits_RV, cap = self.output(x_RD).float(), self.config.logit_softcap
        return logits_RV if cap is None else cap * torch.tanh(logits_RV / cap)

    def embed(self, tokens_T: Tensor) -> Tensor:
        x = self.tok_embeddings(tokens_T)
        return x if self.config.embedding_scale == 1 else x * self.config.embedding_scale

    def shared_operands(self, positions_T: Tensor, dtype: torch.dtype) -> Mapping[object, object]:
        """Return what layers of one kind share in a forward: rotary tables at the positions, and masks."""
        found: dict[object, object] = {}
        for layer in self.config.layers:
            spec = layer.attention
            turn, seen = _Turn.of(spec), (spec.window, spec.n_heads // spec.n_kv_heads)
            if turn not in found:
                cos, sin, quarter, *growth = (self.get_buffer(name) for name in self._tables[turn])
                grown = growth[0][positions_T].view(-1, 1, 1) if growth else None
                found[turn] = (cos[positions_T], sin[positions_T], quarter, grown)
            if seen not in found:
                mask_TC = causal_mask(positions_T, self.max_seq_length, spec.window).to(dtype)
                found[seen] = mask_TC.repeat(seen[1], 1)
        return found

    def operations(
        self,
        block: Block,
        positions_T: Tensor,
        shared: Mapping[object, object],
        caches: Sequence[Tensor],
    ) -> CachedOperations:
        """Return the operations of `block` at these positions, with what `shared_operands` found for them."""
        spec = block.layer.attention
        mask = shared[spec.window, spec.n_heads // spec.n_kv_heads]
        return CachedOperations(block, positions_T, *shared[_Turn.of(spec)], mask, *caches)

    def new_caches(self) -> list[Tensor]:
        """Zeroed caches in the dtype the model computes in: that of a norm, never quantized."""
        return new_caches(self.config, self.max_seq_length, self.norm.weight.dtype)

    def new_session(self) -> "CacheSession":
        return CacheSession(self)

    def _register_tables(self, turn: "_Turn", length: int) -> None:
        if turn in self._tables:
            return
        suffix = f"_{len(self._tables)}" if self._tables else ""
        cos, sin = (table[:, None] * turn.factor for table in head_tables(turn.rope, turn.head_dim, length))
        tables = {"rope_cos": cos, "rope_sin": sin, "quarter_turn": quarter_turn(turn.rope, turn.head_dim)}
        if turn.rope is not None and turn.rope.query_growth is not None:
            tables["query_factors"] = query_factors(turn.rope.query_growth, length)
        for name, table in tables.items():
            self.register_buffer(f"{name}{suffix}", table, persistent=False)
        self._tables[turn] = tuple(f"{name}{suffix}" for name in tables)


class CacheSession:
    """One conversation with a `Transformer`: its caches, of the positions that were read."""

    def __init__(self, model: Transformer):
        self.model, self._caches = model, model.new_caches()

    def read(
        self, tokens: Tensor, start: int, rows: Tensor, forward: Callable[..., Tensor] | None = None
    ) -> Tensor:
        """Return the logits float32 [R, V] of `rows` int64 [R] of the chunk `tokens` int64 [1, T], which
        stands at the positions from `start` on; those before it were read.

        `forward` stands in for the model: compiled, for instance.
        """
        return (forward or self.model)(tokens, torch.tensor([start]), rows, self._caches)


@dataclass(frozen=True)
class _Turn:
    """A rotation of queries and keys, and a factor for each, so that their products have
    the scores' scale and the scores need no multiplication of their own."""

    rope: Rope | None
    head_dim: int
    factor: float

    @classmethod
    def of(cls, spec: AttentionSpec) -> "_Turn":
        factor = spec.head_dim**-0.25 if spec.scale is None else spec.scale**0.5
        return cls(spec.rope, spec.head_dim, factor)


def cache_shapes(spec: AttentionSpec, max_seq_length: int) -> tuple[tuple[int, ...], ...]:
    """Shapes of a layer's key cache [K, d, C] and value cache [K, C, d].

    Keys are stored transposed, as the score matrix product reads them.
    """
    K, C, d = spec.n_kv_heads, max_seq_length, spec.head_dim
    return (K, d, C), (K, C, d)


def new_caches(config: ModelConfig, max_seq_length: int, dtype: torch.dtype) -> list[Tensor]:
    """Zeroed caches for `Transformer.forward`: k_0, v_0, k_1, v_1, ..."""
    shapes = [cache_shapes(layer.attention, max_seq_length) for layer in config.layers]
    return [torch.zeros(shape, dtype=dtype) for both in shapes for shape in both]


def causal_mask(positions_T: Tensor, length: int, window: int | None) -> Tensor:
    """Additive float32 mask [T, C]: 0 where a position may look, -inf where it may not."""
    keys_C = torch.arange(length)
    hidden_TC = keys_C[None, :] > positions_T[:, None]
    if window is not None:
        hidden_TC = hidden_TC | (keys_C[None, :] <= positions_T[:, None] - window)
    return torch.where(hidden_TC, float("-inf"), 0.0)


def assigned(model: Transformer, weights: dict[str, Tensor]) -> Transformer:
    """`model`, built on `meta`, with `weights` as its parameters, ready to run."""
    tied = model.config.tied_embeddings
    if tied:
        weights = {**weights, "output.weight": weights["tok_embeddings.weight"]}
    model.load_state_dict(weights, strict=True, assign=True)
    if tied:
        model.output.weight = model.tok_embeddings.weight
    return model.eval().requires_grad_(False)
