"""Names of tensors that most families of a source share: canonical ones to the source's, `{i}` the layer.

Canonical names are Meta's. A family adds its own to these.
"""

HF_NAMES = {
    "tok_embeddings": "model.embed_tokens",
    "layers.{i}.attention_norm": "model.layers.{i}.input_layernorm",
    "layers.{i}.attention.wq": "model.layers.{i}.self_attn.q_proj",
    "layers.{i}.attention.wk": "model.layers.{i}.self_attn.k_proj",
    "layers.{i}.attention.wv": "model.layers.{i}.self_attn.v_proj",
    "layers.{i}.attention.wo": "model.layers.{i}.self_attn.o_proj",
    "layers.{i}.ffn_norm": "model.layers.{i}.post_attention_layernorm",
    "layers.{i}.feed_forward.w1": "model.layers.{i}.mlp.gate_proj",
    "layers.{i}.feed_forward.w2": "model.layers.{i}.mlp.down_proj",
    "layers.{i}.feed_forward.w3": "model.layers.{i}.mlp.up_proj",
    "norm": "model.norm",
    "output": "lm_head",
}
# Norms of queries and keys, of the families that have them.
HF_QK_NORMS = {
    "layers.{i}.attention.q_norm": "model.layers.{i}.self_attn.q_norm",
    "layers.{i}.attention.k_norm": "model.layers.{i}.self_attn.k_norm",
}
# Norms of what attention and feed-forward add: without norms before these, and with.
HF_OUT_NORMS = {
    "layers.{i}.attention_out_norm": "model.layers.{i}.post_attention_layernorm",
    "layers.{i}.ffn_out_norm": "model.layers.{i}.post_feedforward_layernorm",
}
HF_SANDWICH_NORMS = HF_OUT_NORMS | {
    "layers.{i}.ffn_norm": "model.layers.{i}.pre_feedforward_layernorm",
}
# Matrices that some families store as one.
HF_FUSED_GATE_UP = dict.fromkeys(
    ("layers.{i}.feed_forward.w1", "layers.{i}.feed_forward.w3"), "model.layers.{i}.mlp.gate_up_proj"
)
HF_FUSED = {
    **dict.fromkeys(
        ("layers.{i}.attention.wq", "layers.{i}.attention.wk", "layers.{i}.attention.wv"),
        "model.layers.{i}.self_attn.qkv_proj",
    ),
    **HF_FUSED_GATE_UP,
}
# Mixtures of experts, `{n}` the expert.
HF_EXPERTS = {
    "layers.{i}.feed_forward.router": "model.layers.{i}.mlp.gate",
    "layers.{i}.feed_forward.experts.{n}.w1": "model.layers.{i}.mlp.experts.{n}.gate_proj",
    "layers.{i}.feed_forward.experts.{n}.w2": "model.layers.{i}.mlp.experts.{n}.down_proj",
    "layers.{i}.feed_forward.experts.{n}.w3": "model.layers.{i}.mlp.experts.{n}.up_proj",
}
# Buffers that older versions of transformers stored: rotary frequencies and tables, which follow from the
# config, and causal masks, which every decoder has.
HF_IGNORED = (
    "*.rotary_emb.inv_freq", "*.rotary_emb.cos_cached", "*.rotary_emb.sin_cached", "*.masked_bias",
    "model.causal_mask",
)  # fmt: skip

GGUF_NAMES = {
    "tok_embeddings": "token_embd",
    "layers.{i}.attention_norm": "blk.{i}.attn_norm",
    "layers.{i}.attention.wq": "blk.{i}.attn_q",
    "layers.{i}.attention.wk": "blk.{i}.attn_k",
    "layers.{i}.attention.wv": "blk.{i}.attn_v",
    "layers.{i}.attention.wo": "blk.{i}.attn_output",
    "layers.{i}.ffn_norm": "blk.{i}.ffn_norm",
    "layers.{i}.feed_forward.w1": "blk.{i}.ffn_gate",
    "layers.{i}.feed_forward.w2": "blk.{i}.ffn_down",
    "layers.{i}.feed_forward.w3": "blk.{i}.ffn_up",
    "norm": "output_norm",
    "output": "output",
}
GGUF_QK_NORMS = {
    "layers.{i}.attention.q_norm": "blk.{i}.attn_q_norm",
    "layers.{i}.attention.k_norm": "blk.{i}.attn_k_norm",
}
GGUF_OUT_NORMS = {
    "layers.{i}.attention_out_norm": "blk.{i}.post_attention_norm",
    "layers.{i}.ffn_out_norm": "blk.{i}.post_ffw_norm",
}
# Files have these matrices apart or as one: gate and up under the name of up.
GGUF_FUSED = {
    **{
        f"layers.{{i}}.attention.w{x}": (f"blk.{{i}}.attn_{x}", "blk.{i}.attn_qkv") for x in "qkv"
    },
    "layers.{i}.feed_forward.w1": ("blk.{i}.ffn_gate", "blk.{i}.ffn_up"),
}  # fmt: skip
# Files have an expert's matrices in a tensor of all, of which formats/gguf_experts.py makes one for each, or
# by themselves.
GGUF_EXPERTS = {
    "layers.{i}.feed_forward.router": "blk.{i}.ffn_gate_inp",
    **{
        f"layers.{{i}}.feed_forward.experts.{{n}}.{ours}": (
            f"blk.{{i}}.ffn_{theirs}_exps.{{n}}", f"blk.{{i}}.ffn_{theirs}.{{n}}"
        )
        for ours, theirs in (("w1", "gate"), ("w2", "down"), ("w3", "up"))
    },
}  # fmt: skip
GGUF_ROPE_FACTORS = "rope_freqs.weight"
GGUF_LONG_ROPE_FACTORS = ("rope_factors_short.weight", "rope_factors_long.weight")
# Rope factors are read into the config; the others are rotary tables of early files.
GGUF_IGNORED = (GGUF_ROPE_FACTORS, *GGUF_LONG_ROPE_FACTORS, "blk.*.attn_rot_embd.weight")

META_NAMES = {
    name: name for name in (
        "tok_embeddings", "layers.{i}.attention_norm", "layers.{i}.attention.wq", "layers.{i}.attention.wk",
        "layers.{i}.attention.wv", "layers.{i}.attention.wo", "layers.{i}.ffn_norm",
        "layers.{i}.feed_forward.w1", "layers.{i}.feed_forward.w2", "layers.{i}.feed_forward.w3", "norm",
        "output",
    )
}  # fmt: skip
# Rotary tables: Meta's, and llama2.c's.
META_IGNORED = ("rope.freqs", "freqs_cos", "freqs_sin")
