"""Granite 4 without state space layers or experts: Granite 3's layers under the hybrid's names.

Sources: transformers' GraniteMoeHybridConfig and modeling_granitemoehybrid, llama.cpp's architecture
`granitehybrid`, as which its first converter wrote these models; a later one writes `granite`.
"""

from __future__ import annotations

from exporter.families.granite import GGUF_TENSORS, model_from_gguf, model_from_hf
from exporter.families.sources.family import Family, GGUFSource, HFSource, TensorNames
from exporter.families.sources.gguf import GGUFConfig
from exporter.families.sources.hf import HFConfig
from exporter.families.sources.names import HF_IGNORED, HF_NAMES
from exporter.model.config import ModelConfig

ATTENTION = ("attention", "full_attention")
DENSE = "use a dense model of the family, such as Granite 4.0 Micro, 1B or 350M"
# Of layers that are not there, and of training.
NOTHING_HERE = """mamba_chunk_size mamba_conv_bias mamba_d_conv mamba_d_head mamba_d_state mamba_expand
    mamba_n_groups mamba_n_heads mamba_proj_bias time_step_limit time_step_min time_step_max time_step_floor
    intermediate_size num_experts_per_tok output_router_logits router_aux_loss_coef init_method
    normalization_function embedding_dropout""".split()


def from_hf(config: HFConfig) -> ModelConfig:
    _refuse_experts(config.optional("num_local_experts", 8))
    kinds = config.optional("layer_types", config.optional("layers_block_type"))
    others = [kind for kind in kinds if kind not in ATTENTION] if isinstance(kinds, list) else ["mamba"]
    if others or len(kinds) != config.layer_count():
        raise ValueError(
            f"layer_types has {len(others)} layers of kind {others[0]!r}, which are not supported: {DENSE}"
            if others else f"layer_types is {kinds!r}, not a kind for each layer: correct the config"
        )  # fmt: skip
    for name in NOTHING_HERE:
        config.ignore(name)
    rotates = config.optional("position_embedding_type") == "rope"
    if not rotates:
        config.only("position_embedding_type", "nope")
    rope = config.rope(config.head_dim())
    return model_from_hf(
        config, "granitehybrid", config.count("shared_intermediate_size", 1024), rope if rotates else None,
        mlp_bias=False,
    )  # fmt: skip


def from_gguf(config: GGUFConfig) -> ModelConfig:
    _refuse_experts(config.optional("expert_count", 0))
    heads = config.optional("attention.head_count_kv")
    if isinstance(heads, list) and 0 in heads:
        raise ValueError(
            f"attention.head_count_kv is 0 for {heads.count(0)} layers, those of state spaces, which are not "
            f"supported: {DENSE}"
        )
    if not isinstance(heads, list) or len(set(heads)) != 1:
        return model_from_gguf(config, "granitehybrid", config.count("attention.head_count_kv"))
    return model_from_gguf(config, "granitehybrid", heads[0])


def _refuse_experts(count: object) -> None:
    if count:
        raise ValueError(f"num_local_experts is {count!r}, and experts are not supported: {DENSE}")


HF_SHARED_MLP = {
    "layers.{i}.feed_forward.w1": "model.layers.{i}.shared_mlp.input_linear",
    "layers.{i}.feed_forward.w3": "model.layers.{i}.shared_mlp.input_linear",
    "layers.{i}.feed_forward.w2": "model.layers.{i}.shared_mlp.output_linear",
}
FAMILY = Family(
    "granitehybrid",
    hf=HFSource(
        ("GraniteMoeHybridForCausalLM",), from_hf, TensorNames(HF_NAMES | HF_SHARED_MLP, HF_IGNORED)
    ),
    gguf=GGUFSource("granitehybrid", from_gguf, GGUF_TENSORS),
)
