"""Models on the project's own kernels: every scheme, both runners, every instruction set.

A native run must equal eager `LowbitTransformer` to the last bit: they run the same kernels. Eager
itself is held against the decoder with the same weights, dequantized.
"""

import json
import os
import subprocess

import numpy as np
import pytest
import tiny
import torch
from native import ROOT, export, logits, run, runner_of, stats

from exporter.checkpoint.checkpoint import open_checkpoint
from exporter.checkpoint.load import load_model
from exporter.lowbit.decoder import LowbitTransformer
from exporter.lowbit.pack import PackOptions
from exporter.recipe.recipe import parse_recipe

CONTEXT = 64
TOKENS = list(range(5, 45))
ROWS = 16  # of one forward
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

SCHEMES = [
    {},
    {"linear:int8": {"groupsize": 0}},
    {"linear:int8": {"groupsize": 48}, "embedding": {"bitwidth": 8}},
    {"linear:int4": {"groupsize": 32}, "embedding": {"bitwidth": 4, "groupsize": 16}},
    {"linear:a8w4dq": {"groupsize": 32}},
    {"linear:a8wx": {"bitwidth": 5, "groupsize": 16}},
    {"linear:a8wx": {"bitwidth": 8, "method": "hqq"}, "embedding:wx": {"bitwidth": 8}},
]
ALL_BITS = [
    {
        "linear:a8wxdq": {"bitwidth": bits, "groupsize": 128, "has_weight_zeros": zeros},
        "embedding:wx": {"bitwidth": bits, "groupsize": 32},
    }
    for bits in range(1, 9) for zeros in (False, True) if bits > 1 or zeros
]  # fmt: skip
ONE_BIT = [
    {
        "linear:a8wx": {"bitwidth": 1, "groupsize": size, "scale_dtype": scales},
        "embedding:wx": {"bitwidth": 1, "groupsize": size, "scale_dtype": scales},
    }
    for size, scales in ((16, "float16"), (32, "int8"), (128, "float16"))
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    tiny.make_hf(folder, "smollm2")  # tied
    return folder


def packed_model(folder, recipe: dict, dtype="fp32", cache=None) -> LowbitTransformer:
    model = load_model(open_checkpoint(str(folder)), torch.float32, CONTEXT)
    parsed = parse_recipe(json.dumps(recipe))
    exact = dtype == "fp32" and not parsed.is_quantized()
    cache = cache or ("float32" if exact else "float16")
    return LowbitTransformer(model, PackOptions(parsed, DTYPES[dtype]), cache, lambda line: None)


def eager_logits(model) -> np.ndarray:
    session, parts = model.new_session(), []
    with torch.no_grad():
        for start in range(0, len(TOKENS), ROWS):
            chunk = torch.tensor([TOKENS[start : start + ROWS]])
            rows = torch.arange(chunk.shape[1])
            parts.append(session.read(chunk, start, rows))
    return torch.cat(parts).numpy()


def dequantized_logits(folder, model: LowbitTransformer) -> np.ndarray:
    """The float decoder with the weights that `model` packed."""
    unpack = torch.ops.lowbit.unpack
    checkpoint = open_checkpoint(str(folder))
    plain = load_model(checkpoint, torch.float32, CONTEXT)
    q, kv = plain.layers[0].attention.wq.out_features, plain.layers[0].attention.wk.out_features
    for block, packed in zip(plain.layers, model.layers, strict=True):
        attention, ffn = block.attention, block.feed_forward
        parts = unpack(packed.wqkv.weight).split([q, kv, kv])
        for linear, part in zip((attention.wq, attention.wk, attention.wv), parts, strict=True):
            linear.weight.copy_(part)
        gate, up = unpack(packed.gate_up.weight).chunk(2)
        ffn.w1.weight.copy_(gate), ffn.w3.weight.copy_(up)
        attention.wo.weight.copy_(unpack(packed.wo.weight))
        ffn.w2.weight.copy_(unpack(packed.down.weight))
    plain.output.weight = torch.nn.Parameter(unpack(model.output.weight), requires_grad=False)
    plain.tok_embeddings.weight = torch.nn.Parameter(unpack(model.table), requires_grad=False)
    with torch.no_grad():
        rows = torch.arange(len(TOKENS))
        return plain.new_session().read(torch.tensor([TOKENS]), 0, rows).numpy()


def relative(actual: np.ndarray, expected: np.ndarray) -> float:
    error, size = np.linalg.norm(actual - expected), np.linalg.norm(expected)
    return float(error / size)


def name_of(recipe: dict) -> str:
    return "_".join(f"{key}{list(options.values())}" for key, options in recipe.items()) or "float"


@pytest.mark.parametrize("recipe", SCHEMES + ALL_BITS + ONE_BIT, ids=name_of)
def test_eager_equals_the_dequantized_decoder(recipe, folder):
    """With float activations only the cache's type and the order of sums differ: float16 rounds by
    2^-11, and layers add such errors up. int8 activations round by 1/254 of their range; the
    weights of these models are large, which multiplies it: a quarter of that at 8 weight bits is
    lost in a few layers, but a wrong scale, zero point or order of columns loses all."""
    model = packed_model(folder, recipe)
    error = relative(eager_logits(model), dequantized_logits(folder, model))
    int8_activations = any("a8w" in key for key in recipe)
    assert error < (0.25 if int8_activations else 1e-2 if recipe else 1e-5)


@pytest.mark.parametrize("recipe", SCHEMES + ALL_BITS + ONE_BIT, ids=name_of)
def test_pte_equals_eager_bit_for_bit(recipe, folder, tmp_path):
    pte = tmp_path / "m.pte"
    export(folder, "--output-pte", pte, "--quantize", json.dumps(recipe),
           "--max-seq-length", CONTEXT)  # fmt: skip
    expected = eager_logits(packed_model(folder, recipe))
    assert np.array_equal(logits(pte, TOKENS, tmp_path), expected)


@pytest.mark.parametrize(
    ("recipe", "dtype"),
    [({}, "bf16"), (SCHEMES[3], "fp16"), *((recipe, "fp32") for recipe in ALL_BITS)],
    ids=str,
)
def test_pt2_equals_eager_bit_for_bit(recipe, dtype, folder, tmp_path):
    package = tmp_path / "m.pt2"
    export(folder, "--output-aoti-package", package, "--quantize", json.dumps(recipe),
           "--dtype", dtype, "--max-seq-length", CONTEXT)  # fmt: skip
    expected = eager_logits(packed_model(folder, recipe, dtype))
    assert np.array_equal(logits(package, TOKENS, tmp_path), expected)


@pytest.mark.parametrize("cache", ["fp32", "fp16", "int8"])
def test_cache_types(cache, folder, tmp_path):
    """float16 rounds keys and values by 2^-11, int8 by 1/254 of their largest value a head."""
    pte = tmp_path / "m.pte"
    export(folder, "--output-pte", pte, "--cache-dtype", cache, "--max-seq-length", CONTEXT)
    expected = eager_logits(packed_model(folder, {}, cache="float32"))
    bound = {"fp32": 0, "fp16": 2e-2, "int8": 0.2}[cache]
    assert relative(logits(pte, TOKENS, tmp_path), expected) <= bound


@pytest.fixture(scope="module")
def both(folder, tmp_path_factory):
    """One q4 model as .pte and .pt2."""
    out = tmp_path_factory.mktemp("both")
    pte, package = out / "m.pte", out / "m.pt2"
    export(folder, "--quantize", "q4", "--max-seq-length", CONTEXT, "--output-pte", pte,
           "--output-aoti-package", package)  # fmt: skip
    return pte, package


def supported_isas(artifact) -> list[str]:
    """What the error for an unknown name lists."""
    result = run_with_isa(artifact, "none")
    assert result.returncode == 1
    line = result.stderr.strip()
    assert "LOWBIT_ISA=none is unknown" in line and len(line.splitlines()) == 1
    return line.split("use one of ")[1].split(", or unset")[0].split(", ")


def run_with_isa(artifact, isa: str, *arguments: object):
    command = [runner_of(artifact), artifact, "--tokens", ",".join(map(str, TOKENS)), *arguments]
    return subprocess.run(
        list(map(str, command)), env={**os.environ, "LOWBIT_ISA": isa},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_the_same_bits_on_every_instruction_set_and_thread_count(both, tmp_path):
    files = set()
    for artifact in both:
        names = supported_isas(artifact)
        assert "scalar" in names
        for isa in names:
            for threads in (1, 2, 3, 5):
                out = tmp_path / "l.npy"
                result = run_with_isa(artifact, isa, "--threads", threads, "--logits-out", out)
                assert result.returncode == 0, result.stderr
                files.add(out.read_bytes())
    assert len(files) == 1


def test_the_same_bits_for_every_cut_of_the_prompt(both, tmp_path):
    files = {
        logits(artifact, TOKENS, tmp_path, *chunk).tobytes()
        for artifact in both
        for chunk in ((), ("--prefill-chunk", 7), ("--prefill-chunk", 1))
    }
    assert len(files) == 1


def test_the_forced_instruction_set_is_the_one_that_runs(both):
    for isa in supported_isas(both[0]):
        result = run_with_isa(both[0], isa, "-t", 0, "-n", 2, "--ignore-eos", "--stats", "--json")
        assert json.loads(result.stderr)["isa"] == isa
    assert stats(both[1], "-i", "Hi", "-n", 2)["isa"] == supported_isas(both[1])[0]


def test_a_tied_table_is_stored_once(folder, tmp_path, capsys):
    """In q4 both ask for one format; asking for others is said, with what sharing would save."""
    sizes = {}
    for name, recipe in (("shared", "q4"), ("apart", json.dumps(
        {"linear:a8wx": {"bitwidth": 4, "has_weight_zeros": True}, "embedding:wx": {"bitwidth": 4}}
    ))):  # fmt: skip
        pte = tmp_path / f"{name}.pte"
        export(folder, "--output-pte", pte, "--quantize", recipe, "--max-seq-length", CONTEXT)
        sizes[name] = pte.stat().st_size
    assert "the same format for both saves" in capsys.readouterr().err
    table = tiny.VOCAB * tiny.BASE["hidden_size"] // 2
    assert sizes["apart"] - sizes["shared"] > table


def test_damaged_weights_are_an_error(both, tmp_path):
    """Each packed weight's header is broken in turn: one line, no crash."""
    data = bytearray(both[0].read_bytes())
    at, found = 0, 0
    while (at := data.find(b"LOWBITW\0", at + 1)) >= 0:
        broken = bytearray(data)
        broken[at + 8 : at + 12] = b"\xff\0\0\0"
        path = tmp_path / "broken.pte"
        path.write_bytes(broken)
        result = run(runner_of(path), path, "-i", "Hi", "-n", 2)
        assert result.status == 1 and len(result.errors.splitlines()) == 1
        assert "packed layout 255" in result.errors
        found += 1
    assert found > 4


def test_the_library_is_asked_for_in_words(monkeypatch, tmp_path):
    code = "from exporter.lowbit import ops; ops.load()"
    result = subprocess.run(
        [ROOT / ".venv/bin/python", "-c", code], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, "LOWBIT_LIBRARY": str(tmp_path / "none.so")}, check=False,
    )  # fmt: skip
    assert "scripts/build_native.sh" in result.stderr.splitlines()[-1]
