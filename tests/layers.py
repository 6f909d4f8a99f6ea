"""Every part that a layer can have, each in a LayerSpec, and random models of them."""

from dataclasses import replace

import tiny
import torch

from exporter.model.config import (
    AttentionSpec,
    FeedForwardSpec,
    LayerSpec,
    ModelConfig,
    QueryGrowth,
    Rope,
    Xielu,
)
from exporter.model.decoder import Transformer

LENGTH, CONTEXT, WINDOW = 40, 48, 8
ROPE = Rope(1e4, 32)
ATTENTION = AttentionSpec(4, 2, 32, ROPE)
FEED_FORWARD = FeedForwardSpec(96)
PLAIN = LayerSpec(ATTENTION, FEED_FORWARD)


def attending(**change) -> LayerSpec:
    return replace(PLAIN, attention=replace(ATTENTION, **change))


def feeding(**change) -> LayerSpec:
    return replace(PLAIN, feed_forward=replace(FEED_FORWARD, **change))


LAYERS = {
    "norm by head": attending(qk_norm="head"),
    "norm over the width": attending(qk_norm="width"),
    "half of a head rotates": attending(rope=replace(ROPE, width=16)),
    "neighbours rotate": attending(rope=replace(ROPE, interleaved=True)),
    "neighbours of a part rotate": attending(rope=replace(ROPE, width=16, interleaved=True)),
    "nothing rotates": attending(rope=None),
    "scale": attending(scale=0.05),
    "soft cap": attending(softcap=0.7),
    "sinks": attending(sinks=True),
    "window": attending(window=WINDOW),
    "sinks and a window": attending(sinks=True, window=WINDOW, softcap=2.0),
    "gate": attending(gated=True),
    "biases": attending(qkv_bias=True, output_bias=True, gated=True),
    "gelu": feeding(activation="gelu"),
    "gelu of the tanh form": feeding(activation="gelu_tanh"),
    "squared relu": feeding(activation="relu2"),
    "silu alone": feeding(gated=False),
    "gelu alone": feeding(activation="gelu", gated=False, bias=True),
    "gelu of the tanh form alone": feeding(activation="gelu_tanh", gated=False),
    "squared relu alone": feeding(activation="relu2", gated=False),
    "xielu": feeding(activation="xielu", gated=False, xielu=Xielu(0.7, 1.3, 0.4)),
    "layer norms": replace(PLAIN, norm="layer"),
    "layer norms with biases": replace(PLAIN, norm="layer", norm_bias=True),
    "layer norms after": replace(PLAIN, norm="layer", norm_bias=True, norm_in=False, norm_out=True),
    "norms inside": replace(PLAIN, sub_norms=True),
    "layer norms inside": replace(PLAIN, sub_norms=True, norm="layer", norm_bias=True),
    "both branches of one norm": replace(PLAIN, parallel=True),
    "both branches of one layer norm": replace(PLAIN, parallel=True, norm="layer"),
    "both branches of the stream": replace(PLAIN, parallel=True, norm_in=False, norm_out=True),
    "limits": feeding(limit=0.5, bias=True),
    "norms after": replace(PLAIN, norm_in=False, norm_out=True),
    "norms before and after": replace(PLAIN, norm_out=True),
    "one head for all, narrow": attending(n_heads=2, n_kv_heads=1, head_dim=24, rope=Rope(1e4, 24)),
    "queries grow": attending(rope=replace(ROPE, query_growth=QueryGrowth(0.5, LENGTH // 4))),
}


def make(layers: tuple[LayerSpec, ...], **change) -> Transformer:
    """A model with random weights, the norms' and the sinks' among them."""
    config = ModelConfig("test", 64, layers, tiny.VOCAB, 1e-5, 256, tied_embeddings=True)
    model = Transformer(replace(config, **change), CONTEXT)
    torch.manual_seed(7)
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, mean=float("norm.weight" in name), std=0.2)
    return model.eval().requires_grad_(False)


def logits(decoder, chunk: int = LENGTH) -> torch.Tensor:
    tokens, session, found = tiny.prompt(LENGTH), decoder.new_session(), []
    with torch.no_grad():
        for start in range(0, LENGTH, chunk):
            part = tokens[:, start : start + chunk]
            rows = torch.arange(part.shape[1])
            found.append(session.read(part, start, rows))
    return torch.cat(found)
