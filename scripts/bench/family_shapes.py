"""A config.json of each dense family, and of a mixture of experts, at one shape, so that only what families
differ in differs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """Widths and counts that all families have."""

    dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    hidden_dim: int
    vocab_size: int


SHAPES = {
    "1b": Shape(2048, 16, 32, 8, 64, 8192, 32768),
    "1b-quarter": Shape(2048, 4, 32, 8, 64, 8192, 32768),
    "tiny": Shape(64, 2, 4, 2, 16, 128, 320),
}
CONTEXT = 4096
CHOSEN = 8  # experts of a token, which together are as wide as the others' feed-forward
REFERENCE = "llama"
MIXTURES = ("olmoe",)  # of experts
# The architecture, and the fields beside those of every family.
Fields = Callable[[Shape], Mapping[str, object]]
FAMILIES: dict[str, tuple[str, Fields]] = {
    "llama": ("LlamaForCausalLM", lambda shape: {"rope_theta": 5e5}),
    "mistral": ("MistralForCausalLM", lambda shape: {"sliding_window": None}),
    "ministral3": ("Ministral3ForCausalLM", lambda shape: {"rope_parameters": {
        "rope_type": "yarn", "rope_theta": 1e6, "factor": 16.0, "original_max_position_embeddings": CONTEXT,
        "mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.1,
    }}),
    "qwen2": ("Qwen2ForCausalLM", lambda shape: {}),
    "qwen3": ("Qwen3ForCausalLM", lambda shape: {}),
    "gemma": ("GemmaForCausalLM", lambda shape: {"hidden_act": "gelu_pytorch_tanh"}),
    "gemma2": ("Gemma2ForCausalLM", lambda shape: {"query_pre_attn_scalar": shape.head_dim}),
    "gemma3": ("Gemma3ForCausalLM", lambda shape: {"query_pre_attn_scalar": shape.head_dim}),
    "starcoder2": ("Starcoder2ForCausalLM", lambda shape: {"sliding_window": None}),
    "nemotron": ("NemotronForCausalLM", lambda shape: {"partial_rotary_factor": 0.5}),
    "apertus": ("ApertusForCausalLM", lambda shape: {}),
    "cohere": ("CohereForCausalLM", lambda shape: {}),
    "cohere2": ("Cohere2ForCausalLM", lambda shape: {}),
    "bitnet": ("BitNetForCausalLM", lambda shape: {}),
    "smollm3": ("SmolLM3ForCausalLM", lambda shape: {}),
    "olmo2": ("Olmo2ForCausalLM", lambda shape: {}),
    "olmo3": ("Olmo3ForCausalLM", lambda shape: {}),
    "phi3": ("Phi3ForCausalLM", lambda shape: {}),
    "granite": ("GraniteForCausalLM", lambda shape: {
        "embedding_multiplier": 12.0, "residual_multiplier": 0.22, "logits_scaling": 8.0,
        "attention_multiplier": shape.head_dim**-0.5,
    }),
    "granitehybrid": ("GraniteMoeHybridForCausalLM", lambda shape: {
        "num_local_experts": 0, "layer_types": ["attention"] * shape.n_layers,
        "position_embedding_type": "rope", "shared_intermediate_size": shape.hidden_dim,
    }),
    "exaone4": ("Exaone4ForCausalLM", lambda shape: {}),
    "glm4": ("Glm4ForCausalLM", lambda shape: {"partial_rotary_factor": 0.5}),
    "ernie4_5": ("Ernie4_5ForCausalLM", lambda shape: {}),
    "olmoe": ("OlmoeForCausalLM", lambda shape: {
        "num_experts": 64, "num_experts_per_tok": CHOSEN, "intermediate_size": shape.hidden_dim // CHOSEN,
        "norm_topk_prob": False,
    }),
}  # fmt: skip


def config_json(name: str, shape: Shape) -> dict[str, object]:
    """The config.json of family `name` at `shape`: with a tied table, as most small models have it."""
    architecture, own = FAMILIES[name]
    return {
        "architectures": [architecture],
        "hidden_size": shape.dim,
        "num_hidden_layers": shape.n_layers,
        "num_attention_heads": shape.n_heads,
        "num_key_value_heads": shape.n_kv_heads,
        "head_dim": shape.head_dim,
        "intermediate_size": shape.hidden_dim,
        "vocab_size": shape.vocab_size,
        "max_position_embeddings": CONTEXT,
        "tie_word_embeddings": True,
        "bos_token_id": 0,
        "eos_token_id": 1,
        **own(shape),
    }
