"""Reading checkpoints: formats agree, memory is mapped, and every fault is one clear line."""

from __future__ import annotations

import hashlib
import random
import shutil
from pathlib import Path

import gguf
import numpy as np
import pytest
import safetensors.torch
import tiny
import torch
from checkpoint_files import assert_refused, assert_same_weights, edit_tensors, finish
from gguf import GGMLQuantizationType

from exporter.checkpoint import tensors as checkpoint_tensors
from exporter.checkpoint.checkpoint import open_checkpoint
from exporter.checkpoint.tensors import half_split
from exporter.formats.gguf_file import read_gguf


@pytest.mark.parametrize("variation", ["llama2", "llama3", "llama3.1", "smollm2"])
def test_formats_agree(tmp_path: Path, variation: str):
    model = tiny.make_hf(tmp_path / "hf", variation)
    tiny.write_meta(tmp_path / "meta", model)
    tiny.write_gguf(tmp_path / "model.gguf", model)
    hf = open_checkpoint(str(tmp_path / "hf"))
    for path in (tmp_path / "meta", tmp_path / "model.gguf"):
        other = open_checkpoint(str(path))
        assert_same_weights(other, hf)
        assert other.config.tied_embeddings == hf.config.tied_embeddings
        assert other.config.layers[0].attention.rope == hf.config.layers[0].attention.rope


@pytest.mark.parametrize("variation", list(tiny.VARIATIONS))
def test_spellings_agree(tmp_path: Path, variation: str):
    tiny.make_hf(tmp_path, variation)
    newer = open_checkpoint(str(tmp_path)).config
    config = tiny.read_json(tmp_path / "config.json")
    tiny.write_json(tmp_path / "config.json", tiny.older(config))
    assert open_checkpoint(str(tmp_path)).config == newer


def test_shards(tmp_path: Path, folder: Path):
    tiny.make_hf(tmp_path / "sharded", "llama3", max_shard_size="100KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 2
    assert_same_weights(open_checkpoint(str(tmp_path / "sharded")), open_checkpoint(str(folder)))


def test_pytorch_bin(tmp_path: Path, folder: Path):
    shutil.copy(folder / "config.json", tmp_path)
    torch.save(
        safetensors.torch.load_file(folder / "model.safetensors"), tmp_path / "pytorch_model.bin"
    )
    assert_same_weights(open_checkpoint(str(tmp_path)), open_checkpoint(str(folder)))


def mapped(folder: Path) -> list[range]:
    """The addresses at which files of `folder` are mapped."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    found = (line.split()[0].split("-") for line in lines if str(folder) in line)
    return [range(int(first, 16), int(last, 16)) for first, last in found]


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="Linux tells what is mapped")
def test_stored_dtype_is_mapped_and_others_are_converted(folder: Path):
    checkpoint = open_checkpoint(str(folder))
    first = checkpoint.state_dict(torch.float32)
    places = mapped(folder)
    assert all(any(t.data_ptr() in place for place in places) for t in first.values())
    for dtype in (torch.bfloat16, torch.float16):
        converted = checkpoint.state_dict(dtype)
        assert all(torch.equal(converted[name], first[name].to(dtype)) for name in first)


QUANTIZED = [
    GGMLQuantizationType[name] for name in ("F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")
]


@pytest.mark.parametrize("kind", QUANTIZED, ids=lambda kind: kind.name)
def test_gguf_types(tmp_path: Path, model, monkeypatch: pytest.MonkeyPatch, kind):
    monkeypatch.setattr(checkpoint_tensors, "VALUES_AT_ONCE", 1000)  # several blocks a tensor
    tiny.write_gguf(tmp_path / "model.gguf", model, kind)
    state = open_checkpoint(str(tmp_path / "model.gguf")).state_dict(torch.float32)
    up = model.model.layers[1].mlp.up_proj.weight.numpy()
    expected = torch.from_numpy(gguf.dequantize(gguf.quantize(up, kind), kind))
    assert torch.equal(state["layers.1.feed_forward.w3.weight"], expected)


# Integers, and what ggml makes of activations only.
UNREAD = ("I8", "I16", "I32", "I64", "Q8_1", "Q8_K")


def one_bit_floats(rows: np.ndarray) -> np.ndarray:
    """Q1_0 as it is defined: of 128 elements a float16 scale, then a bit each, the lowest first; set is +."""
    found = []
    for row in rows:
        scale = row[:2].view("<f2").astype(np.float32)[0]
        found.append([scale if row[2 + i // 8] >> (i % 8) & 1 else -scale for i in range(128)])
    return np.float32(found)


@pytest.mark.filterwarnings("ignore:(invalid value|overflow) encountered")  # random bytes are any floats
@pytest.mark.parametrize("kind", list(GGMLQuantizationType), ids=lambda kind: kind.name)
def test_every_gguf_type(tmp_path: Path, kind):
    block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    width = max(block, 32)
    data = np.random.default_rng(0).integers(0, 256, (4, width // block * block_bytes), np.uint8)
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama")
    writer.add_tensor("w", data, raw_dtype=kind)
    finish(writer)
    file = read_gguf(tmp_path / "model.gguf")
    assert file.tensors["w"].shape == (4, width)
    assert file.quantized(["w"]) == ("" if kind.name in ("F64", "F32", "F16", "BF16") else f"1 {kind.name}")
    if kind.name in UNREAD:
        for read in (lambda: file.check_types(["w"]), lambda: file.float_rows("w", 0, 4)):
            with pytest.raises(ValueError, match=f"tensor w has type {kind.name}, which cannot be deq"):
                read()
        return
    file.check_types(["w"])
    if kind.name == "F64":
        expected = data.view("<f8").astype("f4")
    elif kind.name == "Q1_0":  # which the gguf package does not turn into floats
        expected = one_bit_floats(data)
    else:
        expected = gguf.dequantize(data, kind)
    np.testing.assert_array_equal(file.float_rows("w", 1, 3), expected[1:3])


def test_half_split_is_the_inverse_of_interleaving():
    rows = torch.arange(2 * 8 * 3.0).view(16, 3)
    interleaved = tiny.interleaved(rows, 8)
    assert interleaved[:, 0].tolist()[:4] == [0.0, 12.0, 3.0, 15.0]
    assert torch.equal(half_split(interleaved, 8), rows)
    assert torch.equal(half_split(interleaved[:, 0], 8), rows[:, 0])


def test_rotary_tables_of_older_files_are_ignored(folder: Path):
    edit_tensors(folder, lambda t: t.update({
        f"model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.ones(8) for i in range(2)
    }))  # fmt: skip
    open_checkpoint(str(folder))


def test_what_goes_with_the_weights(folder: Path, tmp_path: Path):
    checkpoint = open_checkpoint("some-name", checkpoint=folder)
    assert checkpoint.name == "some-name"
    assert checkpoint.tokenizer_path == folder / "tokenizer.json"
    assert checkpoint.generation["eos_token_id"] == 1
    weights = (folder / "model.safetensors").read_bytes()
    assert checkpoint.digest == hashlib.sha256(weights).hexdigest()
    other = tmp_path / "other.json"
    other.write_text("{}")
    assert open_checkpoint(str(folder), tokenizer=other).tokenizer_path == other
    with pytest.raises(FileNotFoundError, match="nowhere.model"):
        open_checkpoint(str(folder), tokenizer=Path("nowhere.model"))


# Tied output layers


def test_tied_output_stored_beside_the_embedding(tmp_path: Path):
    tiny.make_hf(tmp_path, "smollm2")
    edit_tensors(
        tmp_path, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"] + 0})
    )
    assert "output.weight" not in open_checkpoint(str(tmp_path)).state_dict(torch.float32)
    edit_tensors(tmp_path, lambda t: t["lm_head.weight"].add_(1))
    assert_refused(tmp_path, "tie_word_embeddings", "lm_head.weight")


# Faults in Hugging Face folders


def test_tensors_that_do_not_fit_are_named(folder: Path):
    def edit(tensors):
        tensors["model.layers.7.extra.weight"] = tensors.pop("model.layers.0.mlp.up_proj.weight")
        tensors["model.norm.weight"] = torch.ones(63)

    edit_tensors(folder, edit)
    assert_refused(
        folder,
        "1 missing: model.layers.0.mlp.up_proj.weight",
        "1 extra: model.layers.7.extra.weight",
        "1 misshapen: model.norm.weight [63] instead of [64]",
    )


def test_many_missing_tensors_are_counted(folder: Path):
    config = tiny.read_json(folder / "config.json")
    tiny.write_json(folder / "config.json", config | {"num_hidden_layers": 4})
    assert_refused(folder, "18 missing: model.layers.2.", "...")


def test_integer_weights_are_refused(folder: Path):
    edit_tensors(
        folder, lambda t: t.update({"model.norm.weight": torch.ones(64, dtype=torch.int8)})
    )
    assert_refused(folder, "model.norm.weight", "int8")


@pytest.mark.parametrize("keep", [0, 5, 1000, -1])
def test_truncated_safetensors(folder: Path, keep: int):
    cut(folder / "model.safetensors", keep)
    assert_refused(folder, "model.safetensors", "download it again")


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"architectures": ["GPT2LMHeadModel"]}'])
def test_wrong_config(folder: Path, content: str):
    (folder / "config.json").write_text(content)
    assert_refused(folder, "config.json")


def test_missing_files(folder: Path, tmp_path: Path):
    (folder / "model.safetensors").unlink()
    assert_refused(folder, str(folder), "no weights")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    tiny.write_json(folder / "model.safetensors.index.json", index)
    assert_refused(folder, "1 of 1 shards", "model-00001-of-00002.safetensors")
    tiny.write_json(folder / "model.safetensors.index.json", {})
    assert_refused(folder, "weight_map")
    (tmp_path / "empty").mkdir()
    assert_refused(tmp_path / "empty", "holds no checkpoint")
    assert_refused(tmp_path / "notes.txt", "notes.txt")
    (tmp_path / "notes.txt").write_text("x")
    assert_refused(tmp_path / "notes.txt", "no known kind")


def cut(path: Path, keep: int) -> None:
    path.write_bytes(path.read_bytes()[:keep])


# Faults in Meta and llama2.c files


@pytest.mark.parametrize("keep", [0, 100, 50_000])
def test_truncated_pth(tmp_path: Path, model, keep: int):
    tiny.write_meta(tmp_path, model)
    cut(tmp_path / "consolidated.00.pth", keep)
    assert_refused(tmp_path, "consolidated.00.pth", "download it again")


def test_pickled_objects_are_refused(tmp_path: Path, model):
    tiny.write_meta(tmp_path, model)
    torch.save({"w": Path("x")}, tmp_path / "consolidated.00.pth")
    assert_refused(tmp_path, "consolidated.00.pth")


def test_shards_of_different_models(tmp_path: Path, model):
    tiny.write_meta(tmp_path, model, n_shards=2)
    shard = torch.load(tmp_path / "consolidated.01.pth")
    shard["output.weight"] = torch.ones(3, 64)
    torch.save(shard, tmp_path / "consolidated.01.pth")
    assert_refused(tmp_path, "consolidated.01.pth has no tensor output.weight of shape [160, 64]")


def test_faulty_meta_folders(tmp_path: Path, model):
    tiny.write_meta(tmp_path, model, n_shards=2)
    (tmp_path / "consolidated.01.pth").unlink()
    assert_refused(tmp_path, "misshapen")
    (tmp_path / "params.json").unlink()
    assert_refused(tmp_path, "params.json is missing")
    (tmp_path / "consolidated.00.pth").unlink()
    tiny.write_json(tmp_path / "params.json", {})
    assert_refused(tmp_path, "consolidated.*.pth")
    torch.save({"tok_embeddings.weight": torch.ones(2)}, tmp_path / "consolidated.00.pth")
    assert_refused(tmp_path, "has no matrix tok_embeddings.weight")


# Faults in GGUF files


def test_damaged_gguf_files_never_crash(tmp_path: Path, model):
    path = tmp_path / "model.gguf"
    tiny.write_gguf(path, model)
    whole = path.read_bytes()
    header = whole.index(b"output_norm") + 100
    chance = random.Random(0)
    for keep in [0, 3, 4, 12, 24, len(whole) - 1] + [chance.randrange(header) for _ in range(40)]:
        path.write_bytes(whole[:keep])
        assert_refused(path, "model.gguf")
    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(4):
            damaged[chance.randrange(4, header)] = chance.randrange(256)
        path.write_bytes(damaged)
        try:
            open_checkpoint(str(path)).state_dict(torch.float32)
        except (ValueError, OSError) as error:
            assert "\n" not in str(error)


def test_gguf_of_another_architecture(tmp_path: Path):
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "mamba")
    writer.add_tensor("token_embd.weight", torch.ones(4, 4).numpy())
    finish(writer)
    assert_refused(tmp_path / "model.gguf", "'mamba'", "'llama'")
