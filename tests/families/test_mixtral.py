"""Mixtral on tiny random weights, held against transformers."""

import json

import family
import gguf
import transformers
from family import with_feed_forward, with_older_rope, write_heads_and_base
from family_tests import CONTEXT, FamilyTests
from native import export

from exporter.artifact.reader import read_artifact
from exporter.cli import main as cli
from exporter.families.mixtral import FAMILY
from exporter.families.sources.hf import HFConfig
from exporter.model.config import Experts


def gguf_fields(writer: gguf.GGUFWriter, config) -> None:
    write_heads_and_base(writer, config)
    writer.add_expert_count(config.num_local_experts)
    writer.add_expert_used_count(config.num_experts_per_tok)


class TestMixtral(FamilyTests):
    case = family.Case(
        transformers.MixtralForCausalLM,
        gguf.MODEL_ARCH.LLAMA,
        {"num_hidden_layers": 2, "num_local_experts": 5, "num_experts_per_tok": 2, "rms_norm_eps": 1e-5,
         "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
        gguf_fields,
        permuted=True,
        gguf_tensors=family.experts_apart,
        older=with_older_rope,
    )  # fmt: skip
    variants = {"one expert of three": {"num_local_experts": 3, "num_experts_per_tok": 1}}
    without = {
        "the second expert": lambda config: with_feed_forward(config, experts=Experts(5, 1, True)),
        "factors of the chosen alone": lambda config: with_feed_forward(
            config, experts=Experts(5, 2, False)
        ),
    }


def test_what_a_token_reads(tmp_path, capsys):
    """Said by `inspect` and by the self-test alike: of experts, those that are chosen."""
    family.make_hf(tmp_path / "hf", TestMixtral.case, tie_word_embeddings=False)
    path = tmp_path / "m.pte"
    export(tmp_path / "hf", "--quantize", "q4", "--max-seq-length", CONTEXT, "--output-pte", path)
    artifact = read_artifact(path)
    chosen = [t for t in artifact.packed() if t.name.endswith((".gate_up", ".down"))]
    whole = [t for t in artifact.packed() if t not in chosen and t.name != "table"]
    expected = sum(len(t.data) for t in whole) + round(sum(len(t.data) for t in chosen) * 2 / 5)
    assert artifact.read_bytes() == expected and len(chosen) == 4
    assert cli.main(["inspect", str(path)]) == 0
    assert "experts   2 of 5 a token" in capsys.readouterr().out
    said = json.loads(artifact.metadata["self_test"])["weight_bytes"]
    # Norms, too, in float32: two a layer and the last one.
    assert said == expected + 4 * 64 * 5


def test_a_recipe_for_the_router_is_refused(tmp_path, capsys):
    family.make_hf(tmp_path / "hf", TestMixtral.case)
    recipe = {"linear:a8wx": {"bitwidth": 4, "layers": {"layers.*.router": {"bitwidth": 8}}}}
    words = [tmp_path / "hf", "--quantize", json.dumps(recipe), "--output-pte", tmp_path / "m.pte"]
    assert cli.main([str(word) for word in words]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert 'no matrix of this model is called "layers.*.router"' in error and "down" in error


def test_a_published_config():
    """Mixtral-8x7B-v0.1's."""
    config = FAMILY.hf.read(HFConfig({
        "architectures": ["MixtralForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 1,
        "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.02,
        "intermediate_size": 14336, "max_position_embeddings": 32768, "model_type": "mixtral",
        "num_attention_heads": 32, "num_experts_per_tok": 2, "num_hidden_layers": 32,
        "num_key_value_heads": 8, "num_local_experts": 8, "output_router_logits": False,
        "rms_norm_eps": 1e-05, "rope_theta": 1000000.0, "router_aux_loss_coef": 0.02,
        "sliding_window": None, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
        "transformers_version": "4.36.0.dev0", "use_cache": True, "vocab_size": 32000,
    }))  # fmt: skip
    layer = config.layers[31]
    assert layer.feed_forward.experts == Experts(8, 2, renormalize=True)
    assert layer.attention.window is None and layer.feed_forward.hidden_dim == 14336
