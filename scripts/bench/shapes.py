"""The shapes of known models, for random checkpoints. Another model is one more entry."""

from exporter.model.config import (
    AttentionSpec,
    FeedForwardSpec,
    LayerSpec,
    ModelConfig,
    Rope,
    RopeScaling,
    repeated,
)


def _llama(
    dim: int, n_layers: int, n_heads: int, n_kv_heads: int, head_dim: int, hidden_dim: int, vocab_size: int,
    norm_eps: float, rope_theta: float, rope_scaling: RopeScaling | None, context_length: int,
    tied_embeddings: bool = True,
) -> ModelConfig:  # fmt: skip
    """A model of the Llama family; where `tied_embeddings`, its output is its embedding."""
    attention = AttentionSpec(n_heads, n_kv_heads, head_dim, Rope(rope_theta, head_dim, rope_scaling))
    layers = repeated([LayerSpec(attention, FeedForwardSpec(hidden_dim))], n_layers)
    return ModelConfig("llama", dim, layers, vocab_size, norm_eps, context_length, tied_embeddings)


SHAPES = {
    "llama3.2-1b": _llama(
        dim=2048,
        n_layers=16,
        n_heads=32,
        n_kv_heads=8,
        head_dim=64,
        hidden_dim=8192,
        vocab_size=128256,
        norm_eps=1e-5,
        rope_theta=500000.0,
        rope_scaling=RopeScaling("llama3", 32.0, 1.0, 4.0, 8192),
        context_length=131072,
    ),
    "llama3-8b": _llama(
        dim=4096,
        n_layers=32,
        n_heads=32,
        n_kv_heads=8,
        head_dim=128,
        hidden_dim=14336,
        vocab_size=128256,
        norm_eps=1e-5,
        rope_theta=500000.0,
        rope_scaling=None,
        context_length=8192,
        tied_embeddings=False,
    ),
    "smollm2": _llama(
        dim=576,
        n_layers=30,
        n_heads=9,
        n_kv_heads=3,
        head_dim=64,
        hidden_dim=1536,
        vocab_size=49152,
        norm_eps=1e-5,
        rope_theta=100000.0,
        rope_scaling=None,
        context_length=8192,
    ),
    # For tests: every feature of llama3.2-1b, its original context short enough to be passed.
    "tiny": _llama(
        dim=64,
        n_layers=2,
        n_heads=4,
        n_kv_heads=2,
        head_dim=16,
        hidden_dim=96,
        vocab_size=320,
        norm_eps=1e-5,
        rope_theta=500000.0,
        rope_scaling=RopeScaling("llama3", 32.0, 1.0, 4.0, 32),
        context_length=1024,
    ),
}
