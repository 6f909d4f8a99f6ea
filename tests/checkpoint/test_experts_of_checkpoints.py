"""A mixture of experts in checkpoints: GGUF's tensors of all experts, older ones of each, and adapters."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import family
import gguf
import numpy as np
import peft_adapter
import pytest
import torch
import transformers
from checkpoint_files import assert_refused, assert_same_weights, finish
from family import experts_apart, write_heads_and_base

from exporter.checkpoint.adapter_source import parse_adapter
from exporter.checkpoint.checkpoint import open_checkpoint
from exporter.formats.gguf_experts import with_experts
from exporter.formats.gguf_file import read_gguf
from exporter.model.config import MAX_EXPERTS

COUNT, CHOSEN = 5, 2


def fields_of(count: int):
    def write(writer: gguf.GGUFWriter, config) -> None:
        write_heads_and_base(writer, config)
        writer.add_expert_count(count)
        writer.add_expert_used_count(CHOSEN)

    return write


CASE = family.Case(
    transformers.MixtralForCausalLM,
    gguf.MODEL_ARCH.LLAMA,
    {"num_hidden_layers": 2, "num_local_experts": COUNT, "num_experts_per_tok": CHOSEN, "rms_norm_eps": 1e-5,
     "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
    fields_of(COUNT),
    permuted=True,
    gguf_tensors=experts_apart,
)  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixtral")
    return family.make_hf(folder, CASE), folder


def test_names_of_older_files(model, tmp_path):
    """A tensor for each expert's matrix, `blk.0.ffn_gate.0.weight`."""
    mixtral, folder = model

    def apart(name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
        return {} if "experts." in name else {name: tensor}

    def of_each(writer: gguf.GGUFWriter, mixtral) -> None:
        ours = {"gate_proj": "gate", "up_proj": "up", "down_proj": "down"}
        for whole_name, whole in mixtral.state_dict().items():
            if "experts." in whole_name:
                layer = whole_name.split(".")[2]
                for name, tensor in experts_apart(whole_name, whole).items():
                    for i, own in enumerate(tensor):
                        stored = f"blk.{layer}.ffn_{ours[name.split('.')[-2]]}.{i}.weight"
                        writer.add_tensor(stored, own.contiguous().numpy())

    family.write_gguf(tmp_path / "m.gguf", mixtral, replace(CASE, gguf_tensors=apart, gguf_of_model=of_each))
    assert "blk.0.ffn_gate.0.weight" in read_gguf(tmp_path / "m.gguf").tensors
    assert_same_weights(open_checkpoint(str(tmp_path / "m.gguf")), open_checkpoint(str(folder)))


@pytest.mark.parametrize(
    ("count", "said"),
    [(COUNT - 1, "extra: blk.0.ffn_gate_exps.4.weight"), (COUNT + 1, "missing: blk.0.ffn_gate_exps.5.weight"),
     (MAX_EXPERTS + 1, f"2 of {MAX_EXPERTS + 1} experts")],
)  # fmt: skip
def test_another_number_of_experts_than_the_fields_say(model, tmp_path, count, said):
    family.write_gguf(tmp_path / "m.gguf", model[0], replace(CASE, gguf_fields=fields_of(count)))
    assert_refused(tmp_path / "m.gguf", "m.gguf", said)


def test_a_scale_of_each_expert(model, tmp_path):
    """As llama.cpp stores NVFP4's: a number of each expert beside the matrices of all."""
    scales = np.float32([1, 0.5, 3, 0.25, -2])

    def with_scales(writer: gguf.GGUFWriter, mixtral) -> None:
        writer.add_tensor("blk.1.ffn_up_exps.scale", scales)
        writer.add_tensor("blk.1.ffn_up_exps.input_scale", np.full(COUNT, 9, np.float32))
        writer.add_tensor("blk.0.ffn_gate_inp.scale", np.float32([4]))

    family.write_gguf(tmp_path / "m.gguf", model[0], replace(CASE, gguf_of_model=with_scales))
    expected = open_checkpoint(str(model[1])).state_dict(torch.float32)
    expected["layers.0.feed_forward.router.weight"] *= 4
    for i, scale in enumerate(scales):
        expected[f"layers.1.feed_forward.experts.{i}.w3.weight"] *= scale
    found = open_checkpoint(str(tmp_path / "m.gguf")).state_dict(torch.float32)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("scales", [[1.0] * (COUNT - 1), [1.0]])
def test_scales_of_another_number_of_experts(model, tmp_path, scales):
    def with_scales(writer: gguf.GGUFWriter, mixtral) -> None:
        writer.add_tensor("blk.1.ffn_up_exps.scale", np.float32(scales))

    family.write_gguf(tmp_path / "m.gguf", model[0], replace(CASE, gguf_of_model=with_scales))
    assert_refused(tmp_path / "m.gguf", "1 extra: blk.1.ffn_up_exps.scale")


def refusal(path: Path, tensors: dict[str, np.ndarray]) -> str:
    writer = gguf.GGUFWriter(path, "llama")
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    finish(writer)
    with pytest.raises(ValueError) as caught:
        with_experts(read_gguf(path), MAX_EXPERTS)
    return str(caught.value)


@pytest.mark.parametrize("kind", ["weight", "bias"])
def test_an_experts_tensor_that_is_there_twice(tmp_path, kind):
    whole, own = np.zeros((3, 2, 32), np.float32), np.zeros((2, 32), np.float32)
    first, second = (f"a_exps.{kind}", whole), (f"a_exps.2.{kind}", own)
    for tensors in (dict([first, second]), dict([second, first])):
        said = refusal(tmp_path / "m.gguf", tensors)
        assert f"m.gguf: tensor a_exps.2.{kind} is also a part of a_exps.{kind}" in said


def test_more_experts_than_a_model_has(tmp_path):
    """Which would be as many tensors."""
    said = refusal(tmp_path / "m.gguf", {"blk.0.ffn_up_exps.weight": np.zeros((1_500_000, 1), np.float32)})
    assert "tensor blk.0.ffn_up_exps.weight is of 1500000 experts, and at most 1024" in said


def test_adapters_of_experts_and_routers(model, tmp_path):
    """W + factor · B · A of the matrices that they name, and no other."""
    mixtral, folder = model
    random, tensors, base = torch.Generator().manual_seed(5), {}, open_checkpoint(str(folder))
    expected = base.state_dict(torch.float32)
    for stored, canonical in {
        "block_sparse_moe.experts.3.w2": "experts.3.w2", "block_sparse_moe.experts.0.w1": "experts.0.w1",
        "block_sparse_moe.gate": "router",
    }.items():  # fmt: skip
        for i in range(2):
            weight = expected[f"layers.{i}.feed_forward.{canonical}.weight"]
            rows, columns = weight.shape
            a, b = torch.randn(4, columns, generator=random), torch.randn(rows, 4, generator=random)
            module = f"model.layers.{i}.{stored}"
            tensors |= {f"{module}.lora_A.weight": a, f"{module}.lora_B.weight": b}
            expected[f"layers.{i}.feed_forward.{canonical}.weight"] = weight + b @ a * 2
    peft_adapter.write(tmp_path / "a", tensors)
    found = open_checkpoint(str(folder), adapters=[parse_adapter(str(tmp_path / "a"))])
    state = found.state_dict(torch.float32)
    assert state.keys() == expected.keys()
    for name, wanted in expected.items():
        torch.testing.assert_close(state[name], wanted, rtol=1e-6, atol=1e-5)
    changed = {name for name, tensor in base.state_dict(torch.float32).items()
               if not torch.equal(tensor, state[name])}  # fmt: skip
    assert len(changed) == 6
