"""Makers of tiny random checkpoints: one variation of the Llama family in each file format.

The weights are large enough that every feature of a variation shows in the logits. All widths are
multiples of 32, so that the models can also be quantized by groups.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor

VOCAB = 320
BASE = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "attn_implementation": "eager",
}
MISTRAL = "mistral"  # variations whose name starts so are MistralForCausalLM


def _rope(theta: float, kind: str = "default", **scaling: float) -> dict[str, object]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": theta, **scaling}}


def _llama3_rope(factor: float, original: int) -> dict[str, object]:
    return _rope(
        5e5,
        "llama3",
        factor=factor,
        low_freq_factor=1.0,
        high_freq_factor=4.0,
        original_max_position_embeddings=original,
    )


# Name -> what differs from BASE.
VARIATIONS: dict[str, dict[str, object]] = {
    "llama2": {"num_key_value_heads": 4, **_rope(1e4)},
    "llama3": _rope(5e5),
    "llama3.1": {**_llama3_rope(8.0, 8192), "max_position_embeddings": 131072},
    "llama3.2": {**_llama3_rope(32.0, 32), "tie_word_embeddings": True},
    "codellama": {"num_key_value_heads": 4, **_rope(1e6)},
    "smollm2": {"num_key_value_heads": 1, "tie_word_embeddings": True, **_rope(1e5)},
    "linear_rope": _rope(1e4, "linear", factor=4.0),
    "attention_bias": {"attention_bias": True, **_rope(1e4)},
    "mlp_bias": {"mlp_bias": True, **_rope(1e4)},
    "head_dim": {"head_dim": 32, **_rope(1e4)},
    "mistral": {"sliding_window": None, **_rope(1e6)},
    "mistral_window": {"sliding_window": 8, **_rope(1e4)},
}

TEXT = [
    "Once upon a time there was a little girl who lived near the forest.",
    "The capital of France is Paris, and the capital of Italy is Rome.",
    "def add(a, b):\n    return a + b  # 12345",
    "Größe, naïve café, Привет мир, 你好世界",
]


def make_hf(
    folder: Path, variation: str, *, older_spelling: bool = False, max_shard_size: str = "1GB",
    **change: object,
) -> transformers.PreTrainedModel:  # fmt: skip
    """Saves a Hugging Face folder with a tokenizer and returns its float32 model. `change`: of its config."""
    fields = BASE | VARIATIONS[variation] | change
    torch.manual_seed(list(VARIATIONS).index(variation))
    if variation.startswith(MISTRAL):
        model = transformers.MistralForCausalLM(transformers.MistralConfig(**fields))
    else:
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**fields))
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, mean=float("norm" in name), std=0.2)
    model.eval().requires_grad_(False).save_pretrained(folder, max_shard_size=max_shard_size)
    train_tokenizer().save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", {"bos_token": "<s>", "eos_token": "</s>"})
    if older_spelling:
        write_json(folder / "config.json", older(read_json(folder / "config.json")))
    return model


def older(config: dict[str, object]) -> dict[str, object]:
    """A config.json of transformers 5 in the spelling of transformers 4."""
    config = dict(config)
    rope = dict(config.pop("rope_parameters"))
    config["torch_dtype"] = config.pop("dtype")
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    return config


def train_tokenizer() -> Tokenizer:
    """A byte-level BPE of at most VOCAB pieces."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    return tokenizer


def prompt(length: int, seed: int = 0) -> Tensor:
    """Random token ids, int64 [1, length]."""
    return torch.randint(VOCAB, (1, length), generator=torch.Generator().manual_seed(seed))


def write_meta(folder: Path, model: transformers.PreTrainedModel, n_shards: int = 1) -> None:
    """Saves consolidated.*.pth and params.json; the model must have no biases."""
    config = model.config
    rope = config.rope_parameters
    params = {
        "dim": config.hidden_size,
        "n_layers": config.num_hidden_layers,
        "n_heads": config.num_attention_heads,
        "n_kv_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "norm_eps": config.rms_norm_eps,
        "rope_theta": rope["rope_theta"],
        "use_scaled_rope": rope["rope_type"] == "llama3",
        "multiple_of": 32,
        "ffn_dim_multiplier": 1.5,
        "vocab_size": -1,
    }
    if getattr(config, "sliding_window", None):
        params["sliding_window"] = config.sliding_window
    tensors = meta_tensors(model)
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(n_shards):
        shard = {name: _shard(name, t, index, n_shards) for name, t in tensors.items()}
        shard["rope.freqs"] = torch.ones(config.head_dim // 2)
        torch.save(shard, folder / f"consolidated.{index:02}.pth")
    write_json(folder / "params.json", params)


def write_llama2c(path: Path, model: transformers.PreTrainedModel) -> None:
    """Saves a checkpoint as Karpathy's llama2.c training script does."""
    config = model.config
    model_args = {
        "dim": config.hidden_size,
        "n_layers": config.num_hidden_layers,
        "n_heads": config.num_attention_heads,
        "n_kv_heads": config.num_key_value_heads,
        "vocab_size": config.vocab_size,
        "multiple_of": 32,
        "max_seq_len": config.max_position_embeddings,
        "dropout": 0.0,
    }
    tensors = {f"_orig_mod.{name}": tensor for name, tensor in meta_tensors(model).items()}
    torch.save({"model": tensors, "model_args": model_args, "iter_num": 10}, path)


META_NAMES = {
    "model.embed_tokens": "tok_embeddings",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attention.wq",
    "self_attn.k_proj": "attention.wk",
    "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.down_proj": "feed_forward.w2",
    "mlp.up_proj": "feed_forward.w3",
    "lm_head": "output",
    "model.": "",
}
# Which dimension of a matrix Meta's model-parallel shards divide; the norms are repeated.
META_SPLIT = {
    "wq": 0, "wk": 0, "wv": 0, "w1": 0, "w3": 0, "output": 0, "wo": 1, "w2": 1, "tok_embeddings": 1,
}  # fmt: skip


def meta_tensors(model: transformers.PreTrainedModel) -> dict[str, Tensor]:
    """The weights under Meta's names and with its order of rows; output is always there."""
    return _renamed(model, META_NAMES)


GGUF_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.layers": "blk",
    "model.norm": "output_norm",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.down_proj": "ffn_down",
    "mlp.up_proj": "ffn_up",
    "lm_head": "output",
}


def write_gguf(
    path: Path,
    model: transformers.PreTrainedModel,
    kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
) -> None:
    """Saves a GGUF file of the llama architecture with a byte-level tokenizer."""
    config = model.config
    rope = config.rope_parameters
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    if getattr(config, "sliding_window", None):
        writer.add_sliding_window(config.sliding_window)
    if rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    if rope["rope_type"] == "llama3":
        writer.add_tensor("rope_freqs.weight", _llama3_factors(model))
    add_tokenizer(writer)
    tied = config.tie_word_embeddings
    for name, tensor in _renamed(model, GGUF_NAMES).items():
        if tied and name == "output.weight":
            continue
        array = tensor.contiguous().numpy()
        if array.ndim == 1 or kind == gguf.GGMLQuantizationType.F32:
            writer.add_tensor(name, array)
        else:
            writer.add_tensor(name, gguf.quantize(array, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _llama3_factors(model: transformers.PreTrainedModel) -> np.ndarray:
    """What transformers divides the rotary frequencies by."""
    rope, head_dim = model.config.rope_parameters, model.config.head_dim
    plain = rope["rope_theta"] ** (-torch.arange(0, head_dim, 2).double() / head_dim)
    return (plain / model.model.rotary_emb.inv_freq.double()).float().numpy()


def add_tokenizer(writer: gguf.GGUFWriter) -> None:
    content = json.loads(train_tokenizer().to_str())
    vocab = content["model"]["vocab"]
    tokens = sorted(vocab, key=vocab.get)
    padding = [f"[PAD{index}]" for index in range(len(tokens), VOCAB)]
    special = gguf.TokenType.CONTROL
    types = [special if t in ("<s>", "</s>") else gguf.TokenType.NORMAL for t in tokens]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens + padding)
    writer.add_token_types(types + [gguf.TokenType.UNUSED] * len(padding))
    writer.add_token_merges([" ".join(pair) for pair in content["model"]["merges"]])
    writer.add_bos_token_id(vocab["<s>"])
    writer.add_eos_token_id(vocab["</s>"])


def _renamed(model: transformers.PreTrainedModel, names: Mapping[str, str]) -> dict[str, Tensor]:
    """The weights under other names, rows of wq and wk in interleaved order; output included."""
    result = {}
    state = model.state_dict()
    for name, tensor in state.items():
        if ".q_proj." in name or ".k_proj." in name:
            tensor = interleaved(tensor, model.config.head_dim)
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        result[name] = tensor
    return result


def interleaved(rows: Tensor, head_dim: int) -> Tensor:
    """Rows of half-split pairs to neighbouring pairs, head by head."""
    order = torch.arange(head_dim).view(2, head_dim // 2).t().flatten()
    heads = torch.arange(0, len(rows), head_dim)
    return rows[(heads[:, None] + order).flatten()]


def _shard(name: str, tensor: Tensor, index: int, n_shards: int) -> Tensor:
    dim = META_SPLIT.get(name.split(".")[-2])
    return tensor.clone() if dim is None else tensor.chunk(n_shards, dim)[index].clone()


def read_json(path: Path) -> dict[str, object]:
    return json.loads(path.read_text(encoding="utf-8"))


def write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")
