"""gpt-oss on tiny random weights, held against transformers."""

import json
from pathlib import Path

import family
import gguf
import numpy as np
import pytest
import torch
import transformers
from family import with_attention, with_feed_forward, write_heads_and_base
from family_tests import CONTEXT, LENGTH, MAX_ERROR, TOKENS, FamilyTests, far, run
from safetensors.torch import load_file, save_file

from exporter.checkpoint.checkpoint import open_checkpoint
from exporter.checkpoint.load import load_model
from exporter.families.gptoss import FAMILY, split_experts
from exporter.families.sources.hf import HFConfig
from exporter.formats.file_tensor import FileTensor, contiguous_strides
from exporter.formats.prequantized.fp4 import E2M1
from exporter.model.config import Experts

YARN = {
    "rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 24,
    "beta_fast": 8.0, "beta_slow": 1.0, "truncate": False,
}  # fmt: skip


def gguf_fields(writer: gguf.GGUFWriter, config) -> None:
    write_heads_and_base(writer, config)
    rope = config.rope_parameters
    writer.add_expert_count(config.num_local_experts)
    writer.add_expert_used_count(config.num_experts_per_tok)
    writer.add_expert_feed_forward_length(config.intermediate_size)
    writer.add_sliding_window(config.sliding_window)
    writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    writer.add_rope_scaling_factor(rope["factor"])
    writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    writer.add_rope_scaling_yarn_beta_fast(rope["beta_fast"])
    writer.add_rope_scaling_yarn_beta_slow(rope["beta_slow"])


def gguf_tensors(name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    """Experts' outputs in rows, gates and ups apart, as llama.cpp's converter has them."""
    module, _, kind = name.rpartition(".")
    if kind == "sinks":
        return {f"{name}.weight": tensor}
    if not module.endswith("experts"):
        return {name: tensor}
    projection, ending = kind.removesuffix("_bias"), ".bias" if kind.endswith("_bias") else ".weight"
    rows = tensor.transpose(1, 2) if ending == ".weight" else tensor
    if projection == "down_proj":
        return {f"{module}.down_proj{ending}": rows}
    return {f"{module}.gate_proj{ending}": rows[:, 0::2], f"{module}.up_proj{ending}": rows[:, 1::2]}


class TestGptOss(FamilyTests):
    case = family.Case(
        transformers.GptOssForCausalLM,
        gguf.MODEL_ARCH.GPT_OSS,
        {"num_hidden_layers": 3, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 8,
         "rope_parameters": YARN, "rms_norm_eps": 1e-5, "swiglu_limit": 7.0},
        gguf_fields,
        gguf_tensors=gguf_tensors,
    )  # fmt: skip
    without = {
        "sinks": lambda config: with_attention(config, sinks=False),
        "the offset": lambda config: with_feed_forward(config, up_offset=0.0),
        "the limit": lambda config: with_feed_forward(config, limit=0.5),
        "the activation": lambda config: with_feed_forward(config, activation="silu", up_offset=0.0),
        "the router's bias": lambda config: with_feed_forward(config, experts=Experts(4, 2, True)),
        "windows": lambda config: with_attention(config, window=None),
    }

    @pytest.fixture(scope="class")
    def mxfp4(self, model, tmp_path_factory):
        """A copy with experts in MXFP4, as OpenAI's files have them, and one with what these stand for."""
        folder = tmp_path_factory.mktemp("mxfp4")
        config = json.loads((model[1] / "hf" / "config.json").read_text())
        tensors = load_file(model[1] / "hf" / "model.safetensors")
        packed, floats = {}, {}
        random = np.random.default_rng(3)
        for name, tensor in tensors.items():
            if not name.endswith("_proj") or ".experts." not in name:
                packed[name] = floats[name] = tensor
                continue
            experts, inputs, outputs = tensor.shape
            blocks = random.integers(0, 256, (experts, outputs, inputs // 32, 16), np.uint8)
            scales = random.integers(122, 126, (experts, outputs, inputs // 32), np.uint8)
            values = np.stack((E2M1[blocks & 15], E2M1[blocks >> 4]), axis=-1)
            values = values.reshape(experts, outputs, inputs // 32, 32)
            values = (values * np.ldexp(1.0, scales.astype(int) - 127)[..., None]).astype(np.float32)
            packed[f"{name}_blocks"] = torch.from_numpy(blocks)
            packed[f"{name}_scales"] = torch.from_numpy(scales)
            whole = values.reshape(experts, outputs, inputs).transpose(0, 2, 1)
            floats[name] = torch.from_numpy(np.ascontiguousarray(whole))
        quantized = {"quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}}
        for kind, content, more in (("packed", packed, quantized), ("floats", floats, {})):
            (folder / kind).mkdir()
            for file in ("tokenizer.json", "tokenizer_config.json"):
                (folder / kind / file).write_bytes((model[1] / "hf" / file).read_bytes())
            (folder / kind / "config.json").write_text(json.dumps(config | more))
            save_file(content, folder / kind / "model.safetensors")
        return folder

    def test_mxfp4_is_what_it_stands_for(self, mxfp4):
        packed, floats = (open_checkpoint(str(mxfp4 / kind)) for kind in ("packed", "floats"))
        state, same = (checkpoint.state_dict(torch.float32) for checkpoint in (packed, floats))
        assert state.keys() == same.keys()
        assert all(torch.equal(state[name], same[name]) for name in state)
        model = transformers.GptOssForCausalLM.from_pretrained(
            mxfp4 / "floats", attn_implementation="eager"
        )
        with torch.no_grad():
            expected = model(torch.tensor([TOKENS])).logits[0].float().numpy()
        assert far(run(load_model(packed, torch.float32, CONTEXT), LENGTH), expected) < MAX_ERROR


def test_a_published_config():
    """gpt-oss-20b's."""
    config = FAMILY.hf.read(HFConfig({
        "architectures": ["GptOssForCausalLM"], "attention_bias": True, "attention_dropout": 0.0,
        "eos_token_id": 200002, "experts_per_token": 4, "head_dim": 64, "hidden_act": "silu",
        "hidden_size": 2880, "initial_context_length": 4096, "initializer_range": 0.02,
        "intermediate_size": 2880, "layer_types": ["sliding_attention", "full_attention"] * 12,
        "max_position_embeddings": 131072, "model_type": "gpt_oss", "num_attention_heads": 64,
        "num_experts_per_tok": 4, "num_hidden_layers": 24, "num_key_value_heads": 8,
        "num_local_experts": 32, "output_router_logits": False, "pad_token_id": 199999,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {"beta_fast": 32.0, "beta_slow": 1.0, "factor": 32.0,
                         "original_max_position_embeddings": 4096, "rope_type": "yarn", "truncate": False},
        "rope_theta": 150000, "router_aux_loss_coef": 0.9, "sliding_window": 128, "swiglu_limit": 7.0,
        "tie_word_embeddings": False, "transformers_version": "4.55.0.dev0", "use_cache": True,
        "vocab_size": 201088,
    }))  # fmt: skip
    layer = config.layers[0]
    assert layer.feed_forward.experts == Experts(32, 4, renormalize=True, bias=True)
    assert layer.attention.window == 128 and config.layers[1].attention.window is None
    assert layer.attention.rope == config.layers[1].attention.rope
    assert layer.attention.rope.scaling.truncate is False and layer.feed_forward.limit == 7.0


def of_experts(shape: tuple[int, ...]) -> FileTensor:
    return FileTensor(Path("m.safetensors"), 0, "BF16", shape, 0, contiguous_strides(shape))


@pytest.mark.parametrize(
    ("kind", "shape", "said"),
    [("gate_up_proj", (3_000_000, 0, 0), "[3000000, 0, 0], no matrices of 1 to 1024 experts"),
     ("gate_up_proj", (1025, 8, 64), "[1025, 8, 64], no matrices of 1 to 1024 experts"),
     ("down_proj_bias", (0, 64), "[0, 64], no matrices of 1 to 1024 experts"),
     ("down_proj_blocks", (2, 64, 0, 16), "[2, 64, 0, 16], no matrices of 1 to 1024 experts"),
     ("gate_up_proj", (2, 8, 65), "[2, 8, 65], and has not as many outputs of gates as of ups"),
     ("gate_up_proj_bias", (2, 65), "[2, 65], and has not as many outputs"),
     ("gate_up_proj_blocks", (2, 65, 1, 16), "[2, 65, 1, 16], and has not as many outputs"),
     ("gate_up_proj_scales", (2, 65, 1), "[2, 65, 1], and has not as many outputs")],
)  # fmt: skip
def test_experts_that_cannot_be_taken_apart(kind, shape, said):
    name = f"model.layers.0.mlp.experts.{kind}"
    with pytest.raises(ValueError) as caught:
        split_experts({name: of_experts(shape)})
    assert f"m.safetensors: tensor {name} is {said}" in str(caught.value)


def test_names_of_experts_parts():
    """Of every form; what only looks alike stays."""
    module = "model.layers.0.mlp.experts"
    whole = {
        "gate_up_proj": (2, 8, 64), "down_proj": (2, 32, 8), "gate_up_proj_bias": (2, 64),
        "down_proj_blocks": (2, 8, 1, 16), "down_proj_scales": (2, 8, 1), "down_proj_other": (2, 8, 1),
    }  # fmt: skip
    found = split_experts({f"{module}.{kind}": of_experts(shape) for kind, shape in whole.items()})
    shapes = {name.removeprefix(f"{module}."): tensor.shape for name, tensor in found.items()}
    assert shapes.pop("down_proj_other") == (2, 8, 1)
    own = {name.removeprefix("1."): shape for name, shape in shapes.items() if name.startswith("1.")}
    assert len(shapes) == 2 * len(own) and own == {
        "gate_proj.weight": (32, 8), "up_proj.weight": (32, 8), "down_proj.weight": (8, 32),
        "gate_proj.bias": (32,), "up_proj.bias": (32,), "down_proj.weight_packed": (8, 16),
        "down_proj.weight_scale": (8, 1),
    }  # fmt: skip
