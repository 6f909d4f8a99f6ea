"""Granite 3: Llama's layers with a factor on everything.

What each layer adds is multiplied by r, the residual multiplier. The stream of a model with RMS norms,
divided by r, needs no such factor: the embedding is divided by r, and the norms' epsilon by r squared.

Sources: transformers' GraniteConfig and modeling_granite, llama.cpp's architecture `granite`.
"""

from __future__ import annotations

from dataclasses import dataclass

from exporter.families.sources.family import Family, GGUFSource, HFSource, TensorNames
from exporter.families.sources.gguf import GGUFConfig
from exporter.families.sources.hf import HFConfig
from exporter.families.sources.names import GGUF_IGNORED, GGUF_NAMES, HF_IGNORED, HF_NAMES
from exporter.model.config import AttentionSpec, FeedForwardSpec, LayerSpec, ModelConfig, Rope


@dataclass(frozen=True)
class Multipliers:
    """The four factors: of the embedding, of scores, of what a layer adds; logits are divided by the last."""

    embedding: float
    scores: float | None
    residual: float
    logits: float

    @classmethod
    def from_hf(cls, config: HFConfig) -> Multipliers:
        names = ("embedding_multiplier", "attention_multiplier", "residual_multiplier", "logits_scaling")
        return cls(*(config.number(name, 1.0) for name in names))

    @classmethod
    def from_gguf(cls, config: GGUFConfig) -> Multipliers:
        """A field that is missing was 0 in the config, which llama.cpp reads as none."""
        scores = config.optional("attention.scale")
        return cls(
            config.number("embedding_scale", 1.0),
            None if scores is None else config.number("attention.scale", 1.0),
            config.number("residual_scale", 1.0),
            config.number("logit_scale", 1.0),
        )

    def of_model(self, norm_eps: float) -> dict[str, float]:
        """Return the fields of a ModelConfig that they are."""
        return {
            "embedding_scale": self.embedding / self.residual,
            "norm_eps": norm_eps / self.residual**2,
            "logit_scale": 1.0 / self.logits,
        }


def from_hf(config: HFConfig) -> ModelConfig:
    head_dim = config.head_dim()
    return model_from_hf(
        config, "granite", config.count("intermediate_size"), config.rope(head_dim),
        mlp_bias=config.boolean("mlp_bias"),
    )  # fmt: skip


def model_from_hf(
    config: HFConfig, family: str, hidden_dim: int, rope: Rope | None, mlp_bias: bool
) -> ModelConfig:
    """Read what the dense models of both architectures share."""
    config.only("hidden_act", "silu")
    heads, head_dim = config.count("num_attention_heads", 32), config.head_dim()
    bias, multipliers = config.boolean("attention_bias"), Multipliers.from_hf(config)
    attention = AttentionSpec(
        n_heads=heads,
        n_kv_heads=config.count("num_key_value_heads", heads),
        head_dim=head_dim,
        rope=rope,
        scale=multipliers.scores,
        qkv_bias=bias,
        output_bias=bias,
    )
    layer = LayerSpec(attention, FeedForwardSpec(hidden_dim, bias=mlp_bias))
    eps = config.number("rms_norm_eps", 1e-6)
    return config.model(family, [layer], default_context=2048, **multipliers.of_model(eps))


def from_gguf(config: GGUFConfig) -> ModelConfig:
    """Dense Granite 4 is of this architecture, too; what is said of its state space layers means nothing."""
    return model_from_gguf(config, "granite", config.count("attention.head_count_kv"))


def model_from_gguf(config: GGUFConfig, family: str, kv_heads: int) -> ModelConfig:
    """Read what the dense models of both architectures share."""
    for name in ("conv_kernel", "state_size", "group_count", "inner_size", "time_step_rank"):
        config.optional(f"ssm.{name}")
    head_dim, multipliers = config.head_dim(), Multipliers.from_gguf(config)
    attention = config.attention(
        head_dim, config.rope(head_dim), n_kv_heads=kv_heads, scale=multipliers.scores
    )
    hidden_dim = config.count("expert_shared_feed_forward_length", config.count("feed_forward_length"))
    layer = LayerSpec(attention, FeedForwardSpec(hidden_dim, bias=config.has("blk.0.ffn_gate.bias")))
    return config.model(family, [layer], **multipliers.of_model(config.norm_eps()))


# Adapters go by these names for GGUF files too, which do not tell the architectures apart: dense Granite 4's
# are beside Granite 3's.
HF_TENSORS = HF_NAMES | {
    f"layers.{{i}}.feed_forward.{own}": tuple(f"model.layers.{{i}}.{name}" for name in names)
    for own, names in {
        "w1": ("mlp.gate_proj", "shared_mlp.input_linear"),
        "w3": ("mlp.up_proj", "shared_mlp.input_linear"),
        "w2": ("mlp.down_proj", "shared_mlp.output_linear"),
    }.items()
}
GGUF_TENSORS = TensorNames(GGUF_NAMES, GGUF_IGNORED, interleaved=True)
FAMILY = Family(
    "granite",
    hf=HFSource(("GraniteForCausalLM",), from_hf, TensorNames(HF_TENSORS, HF_IGNORED)),
    gguf=GGUFSource("granite", from_gguf, GGUF_TENSORS),
)
