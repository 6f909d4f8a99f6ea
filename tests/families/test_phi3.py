"""Phi-3 and Phi-4-mini on tiny random weights, held against transformers: fused matrices, a part of each head
rotated, a window passed, and LongRoPE in contexts below and beyond the original."""

from dataclasses import replace

import family
import gguf
import numpy as np
import pytest
import tiny
import torch
import transformers
from family import with_attention
from family_tests import CONTEXT, LENGTH, MAX_ERROR, TOKENS, FamilyTests, far, run
from native import export, logits
from quantized_tiny import verified

from exporter.checkpoint.checkpoint import open_checkpoint
from exporter.checkpoint.load import load_model
from exporter.families.phi3 import FAMILY
from exporter.families.sources.hf import HFConfig
from exporter.runners.native import load_artifact

WINDOW = 20  # of prompts of 60 tokens
PAIRS = 12  # that turn, of the 16 of a head
ORIGINAL = 70  # between the prompts' length and the context of the tests


def scaled(original: int) -> dict[str, object]:
    return {
        "max_position_embeddings": 256, "original_max_position_embeddings": original,
        "rope_parameters": {
            "rope_type": "longrope", "rope_theta": 1e4, "partial_rotary_factor": 0.75,
            "short_factor": [1.0 + 0.05 * i for i in range(PAIRS)],
            "long_factor": [1.5 + 0.5 * i for i in range(PAIRS)],
        },
    }  # fmt: skip


def gguf_fields(writer: gguf.GGUFWriter, config) -> None:
    writer.add_rope_dimension_count(2 * PAIRS)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_scaling_orig_ctx_len(config.original_max_position_embeddings)
    writer.add_sliding_window(config.sliding_window or 0)
    if (long := config.rope_parameters.get("long_factor")) is not None:
        factor = transformers.modeling_rope_utils.ROPE_INIT_FUNCTIONS["longrope"](config)[1]
        writer.add_rope_scaling_attn_factors(factor)
        short = config.rope_parameters["short_factor"]
        writer.add_tensor("rope_factors_long.weight", np.array(long, np.float32))
        writer.add_tensor("rope_factors_short.weight", np.array(short, np.float32))


def older(config: dict) -> dict:
    rope = dict(config["rope_parameters"])
    kept = {key: value for key, value in config.items() if key != "rope_parameters"}
    outside = {name: rope.pop(name) for name in ("rope_theta", "partial_rotary_factor")}
    rope.pop("original_max_position_embeddings")
    rope["type"] = rope.pop("rope_type").replace("longrope", "su")
    return kept | outside | {"rope_scaling": rope}


class TestPhi3(FamilyTests):
    """In contexts beyond the original one, which the test's is, and so are its prompts."""

    case = family.Case(
        transformers.Phi3ForCausalLM,
        gguf.MODEL_ARCH.PHI3,
        {"num_hidden_layers": 2, "hidden_size": 128, "sliding_window": WINDOW, **scaled(LENGTH // 2)},
        gguf_fields,
        older=older,
    )  # fmt: skip
    variants = {
        "one rotation, tied": {
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.75},
            "tie_word_embeddings": True, "sliding_window": None,
        },
    }  # fmt: skip
    without = {
        "the window": lambda config: with_attention(config, window=None),
        "the scaling": lambda config: with_rope(config, scaling=None),
        "the factor of cosines and sines": lambda config: with_scaling(config, attention_factor=1.0),
        "the long context's factors": lambda config: config.for_context(1),
    }


def with_rope(config, **change):
    return with_attention(config, rope=replace(config.layers[0].attention.rope, **change))


def with_scaling(config, **change):
    scaling = config.layers[0].attention.rope.scaling
    return with_rope(config, scaling=replace(scaling, **change))


def test_a_context_chooses_its_frequencies(tmp_path, capsys):
    """When it is made: up to ORIGINAL positions the short ones, beyond the long ones, in the same artifact.
    Transformers chooses by the tokens that it reads at once."""
    made = family.make_hf(tmp_path / "hf", TestPhi3.case, **scaled(ORIGINAL))
    beyond = family.make_hf(tmp_path / "long", TestPhi3.case, **scaled(LENGTH // 2))
    with torch.no_grad():
        short, long = (model(torch.tensor([TOKENS])).logits[0].numpy() for model in (made, beyond))
    factor = open_checkpoint(str(tmp_path / "hf")).config.layers[0].attention.rope.scaling.attention_factor
    checkpoint = open_checkpoint(str(tmp_path / "long"))
    checkpoint = replace(checkpoint, config=with_scaling(checkpoint.config, attention_factor=factor))
    long = run(load_model(checkpoint, torch.float32, CONTEXT), LENGTH)  # of the same factor
    assert far(short, long) > 100 * MAX_ERROR
    checkpoint = open_checkpoint(str(tmp_path / "hf"))
    for context, expected in ((ORIGINAL, short), (ORIGINAL + 1, long)):
        assert far(run(load_model(checkpoint, torch.float32, context), LENGTH), expected) < MAX_ERROR
    for name in ("m.pte", "m.pt2"):
        flag = "--output-pte" if name == "m.pte" else "--output-aoti-package"
        export(tmp_path / "hf", "--max-seq-length", CONTEXT, flag, tmp_path / name)
        artifact = tmp_path / name
        for context, expected in ((ORIGINAL, short), (ORIGINAL + 1, long), (CONTEXT, long)):
            found = logits(artifact, TOKENS, tmp_path, "--max-seq-length", context)
            assert far(found, expected) < MAX_ERROR, (name, context)
        status, out, _ = verified(capsys, artifact, tmp_path / "hf", "--trace")
        assert status == 0, out
        saved = load_artifact(artifact, context_length=ORIGINAL).open_session().save()
        load_artifact(artifact, context_length=ORIGINAL - 1).restore_session(saved)
        with pytest.raises(ValueError, match="another kind"):
            load_artifact(artifact, context_length=CONTEXT).restore_session(saved)


def test_fused_matrices_are_views_and_checked(tmp_path):
    family.make_hf(tmp_path, TestPhi3.case)
    checkpoint = open_checkpoint(str(tmp_path))
    keys = checkpoint.state_dict(torch.float32)["layers.0.attention.wk.weight"]
    assert keys.shape == (64, 128) and keys.untyped_storage().nbytes() > 3 * keys.nbytes
    config = tiny.read_json(tmp_path / "config.json")
    for change, named in (
        ({"intermediate_size": 95}, r"gate_up_proj.weight \[192, 128\] instead of \[190, 128\]"),
        ({"num_key_value_heads": 1}, r"qkv_proj.weight \[256, 128\] instead of \[192, 128\]"),
    ):
        tiny.write_json(tmp_path / "config.json", config | change)
        with pytest.raises(ValueError, match=named):
            open_checkpoint(str(tmp_path))


def test_gguf_matrices_may_be_apart(tmp_path):
    def apart(name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
        if "qkv_proj" in name:
            parts = dict(zip("qkv", tensor.split([128, 64, 64]), strict=True))
            return {name.replace("qkv_proj", f"{x}_proj"): part for x, part in parts.items()}
        return {name: tensor}

    made = family.make_hf(tmp_path / "hf", TestPhi3.case)
    family.write_gguf(tmp_path / "m.gguf", made, replace(TestPhi3.case, gguf_tensors=apart))
    hf, gguf_file = (open_checkpoint(str(tmp_path / name)) for name in ("hf", "m.gguf"))
    assert "blk.0.attn_k.weight" in gguf_file.weights.shapes
    weights, same = hf.state_dict(torch.float32), gguf_file.state_dict(torch.float32)
    assert all(torch.equal(weights[name], same[name]) for name in weights)


def test_a_published_config():
    """Phi-4-mini's, with shorter lists of factors."""
    config = FAMILY.hf.read(HFConfig({
        "architectures": ["Phi3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
        "auto_map": {"AutoConfig": "configuration_phi3.Phi3Config"}, "bos_token_id": 199999,
        "embd_pdrop": 0.0, "eos_token_id": 199999, "full_attn_mod": 1, "hidden_act": "silu",
        "hidden_size": 3072, "initializer_range": 0.02, "intermediate_size": 8192, "interpolate_factor": 1,
        "lm_head_bias": False, "max_position_embeddings": 131072, "mlp_bias": False, "model_type": "phi3",
        "num_attention_heads": 24,
        "num_hidden_layers": 32, "num_key_value_heads": 8, "original_max_position_embeddings": 4096,
        "pad_token_id": 199999, "partial_rotary_factor": 0.75, "resid_pdrop": 0.0, "rms_norm_eps": 1e-05,
        "rope_scaling": {"long_factor": [1.0] * 48, "short_factor": [1.0] * 48, "type": "longrope"},
        "rope_theta": 10000.0, "sliding_window": 262144, "tie_word_embeddings": True,
        "torch_dtype": "bfloat16", "transformers_version": "4.45.0", "use_cache": True, "vocab_size": 200064,
    }))  # fmt: skip
    rope = config.layers[0].attention.rope
    assert (rope.width, config.layers[0].attention.head_dim) == (96, 128)
    assert rope.scaling.original_context_length == 4096
    assert rope.scaling.attention_factor == pytest.approx(1.1902380714238083)
