"""The decoder: one `nn.Module` for the Llama family, read top to bottom.

Shape suffixes: T tokens of this forward, C context (cache length), R rows whose logits are
wanted, D model width, H query heads, K key/value heads, G = H / K, d head width, V vocabulary.

The KV caches belong to the caller, who passes them in: as buffers of a wrapper for ExecuTorch,
as inputs for AOTInductor (see `lower/program.py`). Attention runs over the whole cache under a mask, so
that T and R are the only dynamic sizes of the exported graph.

Sources: Llama (arXiv 2302.13971), grouped-query attention (2305.13245), rotary embedding
(2104.09864, half-split pairs as in Hugging Face), Llama 3.1 rope scaling (Meta's llama-models,
`apply_scaling`), sliding window (Mistral, 2310.06825).
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from exporter.model.config import ModelConfig, RopeScaling


class RMSNorm(nn.Module):
    def __init__(self, dim: int, eps: float):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(dim))

    def forward(self, x_TD: Tensor) -> Tensor:
        x = x_TD.float()
        x = x * torch.rsqrt((x * x).mean(-1, keepdim=True) + self.eps)
        return x.to(x_TD.dtype) * self.weight


class Attention(nn.Module):
    def __init__(self, config: ModelConfig):
        super().__init__()
        self.n_heads, self.n_kv_heads = config.n_heads, config.n_kv_heads
        self.head_dim = config.head_dim
        q_dim, kv_dim = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
        self.wq = nn.Linear(config.dim, q_dim, bias=config.qkv_bias)
        self.wk = nn.Linear(config.dim, kv_dim, bias=config.qkv_bias)
        self.wv = nn.Linear(config.dim, kv_dim, bias=config.qkv_bias)
        self.wo = nn.Linear(q_dim, config.dim, bias=config.output_bias)

    def forward(
        self,
        x_TD: Tensor,
        positions_T: Tensor,
        rope: tuple[Tensor, Tensor, Tensor],
        mask_GTC: Tensor,
        k_cache_KdC: Tensor,
        v_cache_KCd: Tensor,
    ) -> Tensor:
        """Attend from `x_TD` to the cache where the mask is 0; the caches are updated in place."""
        T = x_TD.shape[0]
        K, G, d = self.n_kv_heads, self.n_heads // self.n_kv_heads, self.head_dim
        H = K * G
        # Queries and keys are rotated in one go: fewer operators to lower and to run.
        qk_THd = torch.cat((self.wq(x_TD), self.wk(x_TD)), dim=-1).view(T, H + K, d)
        qk_THd = rotate(qk_THd, rope)
        v_TKd = self.wv(x_TD).view(T, K, d)
        k_cache_KdC.index_copy_(2, positions_T, qk_THd[:, H:].permute(1, 2, 0))
        v_cache_KCd.index_copy_(1, positions_T, v_TKd.permute(1, 0, 2))

        # The G query heads of a group are stacked along the rows: no copy of keys per query head.
        q_KGTd = qk_THd[:, :H].permute(1, 0, 2).contiguous().view(K, G * T, d)
        scores_KGTC = torch.bmm(q_KGTd, k_cache_KdC) + mask_GTC
        weights_KGTC = torch.softmax(scores_KGTC.float(), dim=-1).to(x_TD.dtype)
        y_KGTd = torch.bmm(weights_KGTC, v_cache_KCd)
        y_TD = y_KGTd.view(K, G, T, d).permute(2, 0, 1, 3).contiguous().view(T, H * d)
        return self.wo(y_TD)


class FeedForward(nn.Module):
    def __init__(self, config: ModelConfig):
        super().__init__()
        self.w1 = nn.Linear(config.dim, config.hidden_dim, bias=config.mlp_bias)
        self.w2 = nn.Linear(config.hidden_dim, config.dim, bias=config.mlp_bias)
        self.w3 = nn.Linear(config.dim, config.hidden_dim, bias=config.mlp_bias)

    def forward(self, x_TD: Tensor) -> Tensor:
        return self.w2(F.silu(self.w1(x_TD)) * self.w3(x_TD))


class Block(nn.Module):
    def __init__(self, config: ModelConfig):
        super().__init__()
        self.attention_norm = RMSNorm(config.dim, config.norm_eps)
        self.attention = Attention(config)
        self.ffn_norm = RMSNorm(config.dim, config.norm_eps)
        self.feed_forward = FeedForward(config)

    def forward(self, x_TD: Tensor, *attention_args) -> Tensor:
        x_TD = x_TD + self.attention(self.attention_norm(x_TD), *attention_args)
        return x_TD + self.feed_forward(self.ffn_norm(x_TD))


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
        self.layers = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm = RMSNorm(config.dim, config.norm_eps)
        self.output = nn.Linear(config.dim, config.vocab_size, bias=False)
        if config.tied_embeddings:
            self.output.weight = self.tok_embeddings.weight
        self.head: nn.Linear | None = None  # [D, D] before the output; see quality/transforms.py
        cos, sin = rope_tables(config, max_seq_length)
        self.register_buffer("rope_cos", cos, persistent=False)
        self.register_buffer("rope_sin", sin, persistent=False)
        self.register_buffer("quarter_turn", quarter_turn(config.head_dim), persistent=False)

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
        rope = (self.rope_cos[positions_T], self.rope_sin[positions_T], self.quarter_turn)
        x_TD = self.tok_embeddings(tokens[0])
        window = self.config.sliding_window
        mask_TC = causal_mask(positions_T, self.max_seq_length, window).to(x_TD.dtype)
        mask_GTC = mask_TC.repeat(self.config.n_heads // self.config.n_kv_heads, 1)
        for layer, k_cache, v_cache in zip(self.layers, caches[0::2], caches[1::2], strict=True):
            x_TD = layer(x_TD, positions_T, rope, mask_GTC, k_cache, v_cache)
        x_RD = self.norm(x_TD.index_select(0, rows))
        if self.head is not None:
            x_RD = self.head(x_RD)
        return self.output(x_RD).float()

    def new_caches(self) -> list[Tensor]:
        """Zeroed caches in the dtype the model computes in: that of a norm, never quantized."""
        return new_caches(self.config, self.max_seq_length, self.norm.weight.dtype)


def cache_shapes(config: ModelConfig, max_seq_length: int) -> tuple[tuple[int, ...], ...]:
    """Shapes of a layer's key cache [K, d, C] and value cache [K, C, d].

    Keys are stored transposed, as the score matrix product reads them.
    """
    K, C, d = config.n_kv_heads, max_seq_length, config.head_dim
    return (K, d, C), (K, C, d)


def new_caches(config: ModelConfig, max_seq_length: int, dtype: torch.dtype) -> list[Tensor]:
    """Zeroed caches for `Transformer.forward`: k_0, v_0, k_1, v_1, ..."""
    shapes = cache_shapes(config, max_seq_length) * config.n_layers
    return [torch.zeros(shape, dtype=dtype) for shape in shapes]


def causal_mask(positions_T: Tensor, length: int, sliding_window: int | None) -> Tensor:
    """Additive float32 mask [T, C]: 0 where a position may look, -inf where it may not."""
    keys_C = torch.arange(length)
    hidden_TC = keys_C[None, :] > positions_T[:, None]
    if sliding_window is not None:
        hidden_TC = hidden_TC | (keys_C[None, :] <= positions_T[:, None] - sliding_window)
    return torch.where(hidden_TC, float("-inf"), 0.0)


def rotate(x_THd: Tensor, rope: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Rotary embedding on half-split pairs (i, i + d/2), in float32, scaled by d^(-1/4).

    Four operators where slices and a concatenation would take ten: lowering time and run time go
    with their number. The product with `quarter_turn`, of zeros and ones, is exact.
    """
    cos_T1d, sin_T1d, turn_dd = rope
    x = x_THd.float()
    return (x * cos_T1d + F.linear(x, turn_dd) * sin_T1d).to(x_THd.dtype)


def quarter_turn(head_dim: int) -> Tensor:
    """The float32 matrix [d, d] that turns pairs by 90 degrees: (a, b) to (-b, a)."""
    with torch.device("cpu"):
        eye, zero = torch.eye(head_dim // 2), torch.zeros(head_dim // 2, head_dim // 2)
        return torch.cat((torch.cat((zero, -eye), dim=1), torch.cat((eye, zero), dim=1)))


def rope_tables(config: ModelConfig, length: int) -> tuple[Tensor, Tensor]:
    """cos and sin, float32 [length, 1, d] each; on the CPU also inside a `meta` context.

    Both carry the factor d^(-1/4), for queries and keys alike: their products then have
    attention's 1/sqrt(d), and the scores need no multiplication of their own.
    """
    angles = rope_angles(config, length)
    angles = torch.cat((angles, angles), dim=-1)[:, None]
    scale = config.head_dim**-0.25
    return angles.cos() * scale, angles.sin() * scale


def rope_angles(config: ModelConfig, length: int) -> Tensor:
    """The rotation of each pair at each position, float32 [length, d/2]; always on the CPU."""
    with torch.device("cpu"):
        exponents = torch.arange(0, config.head_dim, 2, dtype=torch.int64).float() / config.head_dim
        frequencies = 1.0 / (config.rope_theta**exponents)
        if config.rope_scaling is not None:
            frequencies = scale_frequencies(frequencies, config.rope_scaling)
        return torch.outer(torch.arange(length, dtype=torch.float32), frequencies)


def scale_frequencies(frequencies: Tensor, scaling: RopeScaling) -> Tensor:
    """Rope frequencies [d/2] stretched for a longer context: linear, or Llama 3.1's by wavelength."""
    if scaling.kind == "linear":
        return frequencies / scaling.factor
    if scaling.kind != "llama3":
        raise ValueError(f"rope scaling '{scaling.kind}' is not implemented; use linear or llama3")
    turns = scaling.original_context_length * frequencies / (2 * math.pi)
    smooth = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    smooth = smooth.clamp(0.0, 1.0)
    return smooth * frequencies + (1 - smooth) * frequencies / scaling.factor


def assigned(model: Transformer, weights: dict[str, Tensor]) -> Transformer:
    """`model`, built on `meta`, with `weights` as its parameters, ready to run."""
    tied = model.config.tied_embeddings
    if tied:
        weights = {**weights, "output.weight": weights["tok_embeddings.weight"]}
    model.load_state_dict(weights, strict=True, assign=True)
    if tied:
        model.output.weight = model.tok_embeddings.weight
    return model.eval().requires_grad_(False)
