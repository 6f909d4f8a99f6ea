"""Adapters in PEFT's format, merged as the weights are read, and those that are refused."""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path

import huggingface_hub
import peft_adapter
import pytest
import tiny
import torch
import transformers

from exporter.checkpoint.adapter_source import AdapterSource, parse_adapter
from exporter.checkpoint.checkpoint import open_checkpoint
from exporter.checkpoint.load import load_model
from exporter.checkpoint.streamed import stream_model
from exporter.pipeline.model_request import ModelSource
from exporter.pipeline.prepare import describe

CONTEXT = 48
HF_OF = {"wq": "self_attn.q_proj", "wv": "self_attn.v_proj", "wo": "self_attn.o_proj", "w2": "mlp.down_proj"}


@pytest.fixture(scope="module")
def bases(tmp_path_factory) -> dict[str, tuple]:
    found = {}
    for variation in ("llama3", "smollm2"):
        folder = tmp_path_factory.mktemp(variation)
        found[variation] = (tiny.make_hf(folder, variation), folder)
    return found


@pytest.fixture
def model(bases):
    return bases["llama3"][0]


@pytest.fixture
def folder(bases) -> Path:
    return bases["llama3"][1]


def opened(model: Path, *adapters: object):
    sources = [parse_adapter(str(adapter)) for adapter in adapters]
    return open_checkpoint(str(model), adapters=sources)


def assert_logits(checkpoint, reference) -> None:
    """Compare the decoder, read whole and a layer at a time, with transformers' on a prompt."""
    tokens = tiny.prompt(24)
    with torch.no_grad():
        wanted = reference(tokens).logits[0]
        for found in (load_model(checkpoint, torch.float32, CONTEXT), stream_model(checkpoint, CONTEXT)):
            logits = found.new_session().read(tokens, 0, torch.arange(24))
            torch.testing.assert_close(logits.view_as(wanted), wanted, rtol=1e-3, atol=1e-3)


def with_weights(model, tensors):
    """Return a copy of transformers' model with the weights `tensors`, embedding and output apart."""
    config = type(model.config)(**model.config.to_dict() | {"tie_word_embeddings": False})
    other = type(model)(config).eval().requires_grad_(False)
    other.load_state_dict(tensors)
    return other


def assert_merged(checkpoint, tensors) -> None:
    """Compare every parameter with `tensors`, under transformers' names; one of bfloat16 rounds the sum."""
    state, half = checkpoint.state_dict(torch.float32), checkpoint.state_dict(torch.bfloat16)
    for name, tensor in state.items():
        wanted = tensors[checkpoint.weights.stored_name(name)]
        torch.testing.assert_close(tensor, wanted, rtol=1e-5, atol=1e-5)
        assert torch.equal(half[name], tensor.to(torch.bfloat16))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("file", ["adapter_model.safetensors", "adapter_model.bin"])
def test_low_rank_tensors_are_added(tmp_path, model, folder, file, dtype):
    tensors = peft_adapter.pairs(model, 1, dtype=dtype)
    peft_adapter.write(tmp_path / "a", tensors, file)
    checkpoint = opened(folder, tmp_path / "a")
    merged = peft_adapter.expected(model.state_dict(), tensors)
    assert_merged(checkpoint, merged)
    assert_logits(checkpoint, with_weights(model, merged))


@pytest.mark.parametrize("source", ["meta", "gguf"])
def test_models_of_other_formats(tmp_path, model, source):
    """The order of rows is the adapter's, which is Hugging Face's."""
    tensors = peft_adapter.pairs(model, 1)
    peft_adapter.write(tmp_path / "a", tensors)
    path = tmp_path / ("m.gguf" if source == "gguf" else "m")
    (tiny.write_gguf if source == "gguf" else tiny.write_meta)(path, model)
    merged = peft_adapter.expected(model.state_dict(), tensors)
    assert_logits(opened(path, tmp_path / "a"), with_weights(model, merged))


def test_scales_and_several_adapters(tmp_path, model, folder):
    first, second = peft_adapter.pairs(model, 1), peft_adapter.pairs(model, 2, rank=2)
    peft_adapter.write(tmp_path / "a", first)
    peft_adapter.write(tmp_path / "b=c", second, r=2)
    checkpoint = opened(folder, f"{tmp_path}/a=-0.5", f"{tmp_path}/b=c")
    merged = peft_adapter.expected(model.state_dict(), first, lambda module, rank: -0.5 * 8 / rank)
    assert_merged(checkpoint, peft_adapter.expected(merged, second))
    a, b = checkpoint.adapters
    assert (a.name, a.scale, b.name, b.scale) == ("a", -0.5, "b=c", 1.0)
    files = (tmp_path / "a" / name for name in ("adapter_config.json", "adapter_model.safetensors"))
    assert a.digest == hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest() != b.digest
    assert checkpoint.digest == open_checkpoint(str(folder)).digest


def test_patterns_and_rank_stabilized_factors(tmp_path, model, folder):
    tensors = peft_adapter.pairs(model, 1) | peft_adapter.pairs(model, 3, rank=2, targets=("mlp.up_proj",))
    peft_adapter.write(
        tmp_path / "a", tensors, use_rslora=True, rank_pattern={"up_proj": 2, "proj": 7},
        alpha_pattern={r"model\.layers\.1\.self_attn\.[qv]_proj": 3, "q_proj": 5}, fan_in_fan_out=True,
    )  # fmt: skip

    def factor(module: str, rank: int) -> float:
        alpha = 3 if re.search(r"1.*(q|v)_proj$", module) else 5 if module.endswith("q_proj") else 8
        return alpha / rank**0.5

    assert_merged(opened(folder, tmp_path / "a"), peft_adapter.expected(model.state_dict(), tensors, factor))


def test_whole_tensors(tmp_path, model, folder):
    """Of modules_to_save, as peft writes them now and as it wrote them once."""
    head, norm = torch.randn(tiny.VOCAB, 64), torch.randn(64)
    tensors = peft_adapter.pairs(model, 1) | {
        "lm_head.weight": head, "model.norm.modules_to_save.weight": norm
    }  # fmt: skip
    peft_adapter.write(tmp_path / "a", tensors, modules_to_save=["lm_head", "norm"])
    merged = peft_adapter.expected(model.state_dict(), tensors)
    merged |= {"lm_head.weight": head, "model.norm.weight": norm}
    assert_merged(opened(folder, tmp_path / "a"), merged)
    with pytest.raises(ValueError, match="whole tensors .* no scale"):
        opened(folder, f"{tmp_path}/a=2")
    with pytest.raises(ValueError, match="replaces as a whole"):
        opened(folder, tmp_path / "a", tmp_path / "a")


EMBEDDING, HEAD = "model.embed_tokens", "lm_head"


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("variation", ["llama3", "smollm2"])
def test_embeddings(tmp_path, bases, variation, tied):
    """A tied output layer stays as it was, and becomes a tensor of its own, unless the adapter ties it."""
    model, folder = bases[variation]
    a, b = torch.randn(4, tiny.VOCAB), torch.randn(64, 4)
    base = model.state_dict()
    kept = {f"{EMBEDDING}.base_layer.weight": base[f"{EMBEDDING}.weight"]}
    peft_adapter.write(
        tmp_path / "a", kept | {f"{EMBEDDING}.lora_embedding_A": a, f"{EMBEDDING}.lora_embedding_B": b},
        ensure_weight_tying=tied,
    )  # fmt: skip
    checkpoint = opened(folder, tmp_path / "a")
    changed = base[f"{EMBEDDING}.weight"] + (b @ a).T * 2
    stays = tied and variation == "smollm2"
    assert checkpoint.config.tied_embeddings == stays
    output = changed if stays else base[f"{HEAD}.weight"]
    assert_logits(
        checkpoint, with_weights(model, base | {f"{EMBEDDING}.weight": changed, f"{HEAD}.weight": output})
    )


@pytest.mark.parametrize("equal", [False, True])
def test_a_tied_model_whose_tables_are_replaced(tmp_path, bases, equal):
    model, folder = bases["smollm2"]
    table = torch.randn(tiny.VOCAB, 64)
    tensors = {f"{EMBEDDING}.weight": table, f"{HEAD}.weight": table if equal else table + 1}
    peft_adapter.write(tmp_path / "a", {name: tensor.clone() for name, tensor in tensors.items()})
    checkpoint = opened(folder, tmp_path / "a")
    assert checkpoint.config.tied_embeddings == equal
    assert_logits(checkpoint, with_weights(model, model.state_dict() | tensors))


def test_what_peft_writes_and_merges(tmp_path, model, folder):
    """peft's own files, and its own merge_and_unload."""
    peft = pytest.importorskip("peft", reason="the extra `test` has it")
    for case, options in enumerate((
        {"target_modules": ["q_proj", "down_proj"], "use_rslora": True, "rank_pattern": {"down_proj": 2}},
        {"target_modules": "all-linear", "modules_to_save": ["lm_head"], "alpha_pattern": {"v_proj": 3}},
        {"target_modules": ["embed_tokens", "o_proj"], "init_lora_weights": "gaussian"},
    )):  # fmt: skip
        base = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
        adapted = peft.get_peft_model(base, peft.LoraConfig(r=4, task_type="CAUSAL_LM", **options))
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.3)
        place = tmp_path / str(case)
        adapted.save_pretrained(place)
        merged = adapted.eval().merge_and_unload()
        checkpoint = opened(folder, place)
        assert_merged(checkpoint, merged.state_dict())
        assert_logits(checkpoint, merged)


# What is refused


def refused(model: Path, adapter: Path | str, *said: str) -> None:
    with pytest.raises((ValueError, OSError)) as caught:
        opened(model, adapter)
    message = str(caught.value)
    assert "\n" not in message
    for text in (str(adapter).partition("=")[0], *said):
        assert text in message


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"use_dora": True}, "'use_dora'"), ({"peft_type": "IA3"}, "'IA3'"), ({"bias": "all"}, "bias 'all'"),
        ({"lora_bias": True}, "'lora_bias'"), ({"task_type": "SEQ_CLS"}, "'SEQ_CLS'"),
        ({"init_lora_weights": "pissa_niter_4"}, "'pissa_niter_4'"),
        ({"layer_replication": [[0, 2]]}, "replication"),
        ({"trainable_token_indices": [5]}, "trainable_token"),
        ({"something_new": 3}, "'something_new' (value 3)"),
        ({"peft_type": None, "fine_tune_type": "lora"}, "mlx_lm.fuse"), ({"r": 8}, "not of rank 8"),
        ({"r": "x"}, "'r'"), ({"lora_alpha": None}, "'lora_alpha'"), ({"rank_pattern": {"(": 2}}, "'('"),
    ],
)  # fmt: skip
def test_adapters_of_other_kinds(tmp_path, model, folder, config, said):
    peft_adapter.write(tmp_path / "a", peft_adapter.pairs(model, 1), **config)
    refused(folder, tmp_path / "a", said)


def test_tensors_that_do_not_fit(tmp_path, model, folder):
    tensors, name = peft_adapter.pairs(model, 1), "model.layers.1.self_attn.q_proj"
    for edit, said in (
        ({f"{name}.lora_magnitude_vector": torch.ones(64)}, "not of plain LoRA"),
        ({f"{name}.lora_B.bias": torch.ones(64)}, "not of plain LoRA"),
        ({f"{name}.lora_B.weight": torch.ones(32, 4)}, f"{name}.weight is [32, 64], the model's [64, 64]"),
        ({f"{name}.lora_B.weight": torch.ones(64, 4, dtype=torch.int8)}, "not floats"),
        ({f"{name}.lora_B.weight": torch.ones(64)}, "not of rank 4"),
        ({"model.layers.9.mlp.down_proj.weight": torch.ones(2, 2)}, "1 of its tensors belong to nothing"),
        ({"model.layers.0.self_attn.q_proj.bias": torch.ones(64)}, "q_proj.bias"),
        ({"lm_head.weight": torch.ones(tiny.VOCAB + 2, 64)}, "where tokens were added"),
    ):
        peft_adapter.write(tmp_path / "a", tensors | edit)
        refused(folder, tmp_path / "a", said)
    tensors.pop(f"{name}.lora_A.weight")
    peft_adapter.write(tmp_path / "a", tensors)
    refused(folder, tmp_path / "a", f"{name}.lora_A.weight is missing")
    peft_adapter.write(tmp_path / "a", {})
    refused(folder, tmp_path / "a", "no tensors")


def test_folders_that_hold_no_adapter(tmp_path, folder, model):
    refused(folder, tmp_path / "nowhere", "is no folder")
    refused(folder, folder, "adapter_config.json")
    peft_adapter.write(tmp_path / "a", peft_adapter.pairs(model, 1))
    (tmp_path / "a" / "adapter_model.safetensors").unlink()
    refused(folder, tmp_path / "a", "adapter_model.bin")
    (tmp_path / "a" / "adapter_config.json").write_text("{")
    refused(folder, tmp_path / "a", "not valid JSON")


@pytest.mark.parametrize("scale", ["", "x", "0", "nan", "inf"])
def test_scales_that_are_none(scale):
    with pytest.raises(ValueError, match="is no scale"):
        parse_adapter(f"some={scale}")


def test_an_adapter_beside_its_base_model(tmp_path, model, folder):
    both = Path(shutil.copytree(folder, tmp_path / "both"))
    tensors = peft_adapter.pairs(model, 1)
    peft_adapter.write(both, tensors)
    with pytest.raises(ValueError, match=f"{both} --adapter {both}; or remove"):
        opened(both)
    assert_merged(opened(both, both), peft_adapter.expected(model.state_dict(), tensors))


def test_a_tokenizer_beside_an_adapter(tmp_path, model, folder, capsys):
    """It is not taken unasked, and not passed over in silence where it is another one."""
    peft_adapter.write(tmp_path / "a", peft_adapter.pairs(model, 1))
    own = Path(shutil.copy(folder / "tokenizer.json", tmp_path / "a"))
    adapters = (AdapterSource(str(tmp_path / "a")),)
    describe(ModelSource(str(folder), adapters=adapters))
    assert "another tokenizer" not in capsys.readouterr().err
    own.write_text(own.read_text() + " ")
    describe(ModelSource(str(folder), adapters=adapters))
    assert f"adapter a has another tokenizer than the model, {own}" in capsys.readouterr().err
    describe(ModelSource(str(folder), tokenizer=own, adapters=adapters))
    assert "another tokenizer" not in capsys.readouterr().err


def test_hub_ids(tmp_path, folder, model, monkeypatch):
    """An adapter of the hub, and one whose base is another model."""
    tensors = peft_adapter.pairs(model, 1)
    peft_adapter.write(tmp_path / "a", tensors, base_model_name_or_path="org/Base-7B-bnb-4bit")
    places = {"org/base-7b": folder, "org/other": folder, "me/lora": tmp_path / "a"}
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **kwargs: str(places[name]))
    checkpoint = open_checkpoint("org/base-7b", adapters=[AdapterSource("me/lora", 1.0)])
    assert checkpoint.adapters[0].name == "me/lora"
    assert_merged(checkpoint, peft_adapter.expected(model.state_dict(), tensors))
    with pytest.raises(ValueError, match="is for org/Base-7B-bnb-4bit, not for org/other"):
        open_checkpoint("org/other", adapters=[AdapterSource("me/lora", 1.0)])
    open_checkpoint("org/other", checkpoint=folder, adapters=[AdapterSource("me/lora", 1.0)])
