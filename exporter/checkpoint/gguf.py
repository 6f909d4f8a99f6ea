"""GGUF files of the llama architecture."""

from __future__ import annotations

from pathlib import Path

from exporter.checkpoint.weights import Read, Source, Weights
from exporter.families.gguf import from_gguf
from exporter.formats.gguf_file import read_gguf
from exporter.model.generation_settings import from_gguf as generation_from_gguf

MODULES = {
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
ROPE_FACTORS = "rope_freqs.weight"
# Rope factors are read into the config; the others are rotary tables of early files.
IGNORED = (ROPE_FACTORS, "blk.*.attn_rot_embd.weight")
EMBEDDING = "token_embd.weight"


def read_checkpoint_gguf(path: Path) -> Source:
    """Reads the file's fields and maps its weights; the tokenizer is in the file itself.

    Raises ValueError or OSError for a file that is unreadable, damaged or unsupported.
    """
    file = read_gguf(path)

    def read() -> Read:
        from exporter.checkpoint.tensors import open_gguf  # torch takes seconds

        return open_gguf(file)

    tensors = file.tensors
    if EMBEDDING not in tensors:
        raise ValueError(f"{path} has no tensor {EMBEDDING}: give a whole model")
    factors = None
    if ROPE_FACTORS in tensors:
        factors = file.float_rows(ROPE_FACTORS, 0, 1)[0].tolist()
    try:
        config = from_gguf(
            file.fields,
            vocab_size=tensors[EMBEDDING].shape[0],
            tied_embeddings="output.weight" not in tensors,
            qkv_bias="blk.0.attn_q.bias" in tensors,
            output_bias="blk.0.attn_output.bias" in tensors,
            mlp_bias="blk.0.ffn_gate.bias" in tensors,
            rope_factors=factors,
        )
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    weights = Weights(
        files=(path,),
        shapes={name: tensor.shape for name, tensor in tensors.items()},
        open=read,
        modules=MODULES,
        ignored=IGNORED,
        interleaved=True,
    )
    generation = generation_from_gguf(file.fields)
    return Source(config, weights, tokenizer_path=path, generation=generation)
