"""Folders as people have them: what loads although something is left over or left out, and what is refused,
in which words and before torch is loaded."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import tiny
import torch
import transformers
from checkpoint_files import assert_refused, assert_same_weights, edit_tensors, finish

from exporter.checkpoint.checkpoint import open_checkpoint
from exporter.formats.torch_file import read_torch_file

POINTER = (
    "version https://git-lfs.github.com/spec/v1\n"
    "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"
)


@pytest.fixture(scope="module", params=["llama3", "smollm2", "mistral"])
def variation(request, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    tiny.make_hf(folder, request.param)
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    tiny.make_hf(folder, "smollm2")
    return folder


@pytest.fixture
def copy(whole, tmp_path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(whole, tmp_path / "copy"))


# What loads


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_an_index_whose_shards_are_gone(variation, tmp_path, name):
    """As transformers does, the single file goes first."""
    folder = Path(shutil.copytree(variation, tmp_path / "copy"))
    if name.endswith(".bin"):
        torch.save(
            safetensors.torch.load_file(folder / "model.safetensors"), folder / "pytorch_model.bin"
        )
        (folder / "model.safetensors").unlink()
    gone = {"weight_map": {"model.norm.weight": f"{name.replace('.', '-00001-of-00003.', 1)}"}}
    tiny.write_json(folder / f"{name}.index.json", gone)
    transformers.AutoModelForCausalLM.from_pretrained(folder)
    assert_same_weights(open_checkpoint(str(folder)), open_checkpoint(str(variation)))


def test_a_stale_index_of_another_format(whole, copy):
    """Shards of safetensors that are gone do not hide a whole pytorch_model.bin."""
    torch.save(safetensors.torch.load_file(copy / "model.safetensors"), copy / "pytorch_model.bin")
    (copy / "model.safetensors").rename(copy / "model.safetensors.index.json")
    tiny.write_json(copy / "model.safetensors.index.json", {"weight_map": {"a": "gone.safetensors"}})
    assert_same_weights(open_checkpoint(str(copy)), open_checkpoint(str(whole)))
    (copy / "pytorch_model.bin").unlink()
    assert_refused(copy, "lacks 1 of 1 shards", "model.safetensors.index.json", "gone.safetensors")


@pytest.mark.parametrize("kept", ["lm_head.weight", "model.embed_tokens.weight"])
@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_tied_weights_under_either_name(whole, copy, kept, file):
    tensors = safetensors.torch.load_file(copy / "model.safetensors")
    tensors[kept] = tensors.pop("model.embed_tokens.weight")
    (copy / "model.safetensors").unlink()
    if file.endswith(".bin"):
        torch.save(tensors, copy / file)
    else:
        safetensors.torch.save_file(tensors, copy / file)
    assert_same_weights(open_checkpoint(str(copy)), open_checkpoint(str(whole)))


def test_what_save_model_leaves_out(whole, copy):
    """Of any tensors in one memory, `safetensors.torch.save_model` keeps one and notes the other."""
    model = transformers.AutoModelForCausalLM.from_pretrained(whole)
    model.model.layers[1].mlp.up_proj.weight = model.model.layers[0].mlp.gate_proj.weight
    safetensors.torch.save_model(model, str(copy / "model.safetensors"))
    with safetensors.safe_open(copy / "model.safetensors", "pt") as file:
        assert len(file.metadata()) == 2 and "model.embed_tokens.weight" not in file.keys()
    read = open_checkpoint(str(copy)).state_dict(torch.float32)
    expected = {name: p for name, p in model.named_parameters(remove_duplicate=False)}
    assert torch.equal(read["tok_embeddings.weight"], expected["model.embed_tokens.weight"])
    for ours, theirs in (("layers.1.feed_forward.w3", "layers.1.mlp.up_proj"),
                         ("layers.0.feed_forward.w1", "layers.0.mlp.gate_proj")):  # fmt: skip
        assert torch.equal(read[f"{ours}.weight"], expected[f"model.{theirs}.weight"])


def test_the_same_folder_twice(whole, copy):
    assert open_checkpoint(str(whole), checkpoint=whole).name == whole.name
    with pytest.raises(ValueError, match=f"{whole} and --checkpoint {copy} are two checkpoints"):
        open_checkpoint(str(whole), checkpoint=copy)


# Files of torch.save, read without torch


def test_files_of_torch_save_are_read_as_torch_reads_them(tmp_path):
    """Random tensors of every type, views, parameters and shared storages."""
    chance = random.Random(3)
    dtypes = (torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.float8_e4m3fn,
              torch.int8, torch.int64, torch.uint16, torch.bool)  # fmt: skip
    for case in range(40):
        torch.serialization.set_crc32_options(case % 4 != 0)
        saved: dict = {"step": case, "nested": {"name": "x", "size": torch.Size((2, 3))}}
        for i in range(chance.randrange(1, 6)):
            shape = [chance.randrange(0 if case == 7 else 1, 6) for _ in range(chance.randrange(4))]
            tensor = torch.randn(shape).to(chance.choice(dtypes))
            view = chance.choice((lambda t: t, lambda t: t.T if t.dim() == 2 else t,
                                  lambda t: t[1:] if t.dim() and len(t) > 1 else t))  # fmt: skip
            saved[f"w{i}"] = view(tensor)
            if tensor.is_floating_point():
                saved["nested"][f"p{i}"] = torch.nn.Parameter(saved[f"w{i}"])
                if case % 3 == 0:  # what optimizers' hooks leave
                    saved["nested"][f"p{i}"].note = "an attribute"
        torch.save(saved, tmp_path / "x.pt")
        found = read_torch_file(tmp_path / "x.pt")
        expected = torch.load(tmp_path / "x.pt", weights_only=True)
        assert found.keys() == expected.keys() and found["step"] == case
        for name, want in {**expected, **expected["nested"]}.items():
            if isinstance(want, torch.Tensor):
                got = {**found, **found["nested"]}[name].bits()
                bits = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[want.element_size()]
                assert np.array_equal(got.view(f"i{got.itemsize}" if got.itemsize > 1 else "u1"),
                                      want.detach().contiguous().view(bits).numpy()), name  # fmt: skip
    torch.serialization.set_crc32_options(True)


def test_damaged_files_of_torch_save(tmp_path, whole):
    torch.save(safetensors.torch.load_file(whole / "model.safetensors"), tmp_path / "whole.pt")
    content, chance = (tmp_path / "whole.pt").read_bytes(), random.Random(5)
    path = tmp_path / "damaged.pt"
    directory = content.rindex(b"PK\x01\x02", 0, content.rindex(b"PK\x01\x02")) - 3000
    for case in range(400):
        damaged = bytearray(content[: chance.choice((len(content), chance.randrange(len(content))))])
        for _ in range(4):
            start, end = ((0, 4000), (directory, len(content)))[case % 2]
            place = chance.randrange(start, end)
            damaged[min(place, len(damaged) - 1)] = chance.randrange(256)
        path.write_bytes(damaged)
        try:
            read_torch_file(path)
        except ValueError as error:
            assert str(path) in str(error) and "\n" not in str(error)


class Other:
    pass


@pytest.mark.parametrize(
    "content", [{"w": Other()}, [torch.ones(2)], Other()], ids=["within a dict", "a list", "itself"]
)
def test_pickles_of_other_things(tmp_path, content):
    torch.save(content, tmp_path / "model.pt")
    assert_refused(tmp_path / "model.pt", "model.pt")
    torch.save({"w": torch.ones(2)}, tmp_path / "model.pt", _use_new_zipfile_serialization=False)
    assert_refused(tmp_path / "model.pt", "no zip archive", "torch.load")


# What is refused


@pytest.mark.parametrize(
    "name",
    ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
     "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", "pytorch_model.bin",
     "model.safetensors.index.json"],
)  # fmt: skip
@pytest.mark.parametrize(
    ("content", "said"),
    [(POINTER, "Git LFS pointer"), ("", "is empty"), ("\n<!DOCTYPE html><html>", "is a web page")],
)
def test_files_that_stand_for_others(copy, name, content, said):
    if name in ("pytorch_model.bin", "model.safetensors.index.json"):
        (copy / "model.safetensors").unlink()
    (copy / name).write_text(content)
    assert_refused(copy, str(copy / name), said)


@pytest.mark.parametrize("content", [POINTER, ""])
@pytest.mark.parametrize("name", ["model.gguf", "stories.pt", "consolidated.00.pth"])
def test_single_files_that_stand_for_others(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    assert_refused(tmp_path / name, name, "Git LFS pointer" if content else "is empty")


@pytest.mark.parametrize("fields", [
    {"peft_type": "LORA", "base_model_name_or_path": "org/base"}, {"fine_tune_type": "dora"}, None,
])  # fmt: skip
def test_adapters_are_never_left_out_in_silence(copy, tmp_path, fields):
    """Alone, beside a base model, and where a file of the folder is named."""
    said = json.dumps(fields) if fields else "{"
    words = ["holds an adapter", "--adapter", *(fields or {}).values()]
    (copy / "adapter_config.json").write_text(said)
    assert_refused(copy, *words, "or remove adapter_config.json to export the base model")
    assert_refused(copy / "model.safetensors", *words)
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "adapter_config.json").write_text(said)
    (alone / "adapter_model.safetensors").write_bytes(b"")
    assert_refused(alone, *words)
    (copy / "adapter_config.json").unlink()
    open_checkpoint(str(copy))


def test_gguf_adapters(tmp_path):
    writer = tiny.gguf.GGUFWriter(tmp_path / "lora.gguf", "llama")
    writer.add_type("adapter")
    writer.add_tensor("token_embd.weight", np.ones((4, 4), np.float32))
    finish(writer)
    assert_refused(tmp_path / "lora.gguf", "'adapter'", "merged")


@pytest.mark.parametrize(
    ("method", "names"),
    [("GPTQ or AWQ", ("qweight", "qzeros", "scales", "g_idx")), ("GPTQ or AWQ", ("qweight", "scales")),
     ("bitsandbytes", ("weight", "weight.absmax", "weight.quant_map")),
     ("bitsandbytes", ("weight", "SCB")), ("HQQ", ("W_q", "meta")),
     ("compressed-tensors", ("weight_packed", "weight_scale", "weight_shape")),
     ("8-bit floats with scales", ("weight", "weight_scale_inv")), ("MLX", ("weight", "scales", "biases"))],
)  # fmt: skip
@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_quantized_weights_without_their_config(copy, method, names, file):
    prefix = "model.layers.1.self_attn.q_proj."
    tensors = safetensors.torch.load_file(copy / "model.safetensors")
    tensors.pop(prefix + "weight")
    tensors |= {prefix + name: torch.ones(8, 8, dtype=torch.int32) for name in names}
    (copy / "model.safetensors").unlink()
    if file.endswith(".bin"):
        torch.save(tensors, copy / file)
    else:
        safetensors.torch.save_file(tensors, copy / file)
    assert_refused(copy, f"quantized by {method}", prefix, "--quantize", "original precision")


@pytest.mark.parametrize("key", ["quantization_config", "quantization"])
def test_quantized_configs(copy, key):
    config = tiny.read_json(copy / "config.json")
    tiny.write_json(copy / "config.json", config | {key: {"quant_method": "aqlm", "bits": 2}})
    assert_refused(copy, "config.json", "aqlm", "original precision")


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_small_floats(copy, dtype):
    edit_tensors(copy, lambda t: t.update({"model.norm.weight": t["model.norm.weight"].to(dtype)}))
    assert_refused(copy, "model.norm.weight", str(dtype).removeprefix("torch."), "less than 16 bits")


def test_quantized_pickles(tmp_path):
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    model = torch.nn.Sequential(torch.nn.Linear(64, 64))
    quantize_(model, Int8WeightOnlyConfig())
    torch.save(model.state_dict(), tmp_path / "model.pt")
    assert_refused(tmp_path / "model.pt", "holds weights quantized as torchao", "original precision")


def test_folders_that_are_nearly_right(whole, tmp_path):
    empty = tmp_path / "models"
    empty.mkdir()
    assert_refused(empty, f"{empty} holds no checkpoint: it is empty")
    shutil.copytree(whole, empty / "mine")
    assert_refused(empty, f"but {empty / 'mine'} does")
    (empty / "mine" / "config.json").unlink()
    assert_refused(empty / "mine", "model.safetensors but no config.json")
    assert_refused(tmp_path / "model", "did you mean models?")
    shutil.copy(whole / "config.json", empty / "config.json")
    (empty / "tf_model.h5").write_bytes(b"x")
    assert_refused(empty, "holds no weights", "not tf_model.h5")
