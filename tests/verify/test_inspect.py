"""`inspect`: what the reader says of every format, against the model itself and the runners."""

import json
import struct
from dataclasses import replace

import pytest
import tiny
import torch
from native import export, runner_of, stats

from exporter.artifact.contents import stored_recipe
from exporter.artifact.memory import CACHE_TYPES, StateChoice, cache_bytes, estimate
from exporter.artifact.reader import read_artifact
from exporter.checkpoint.checkpoint import open_checkpoint
from exporter.checkpoint.load import load_model
from exporter.cli import main as cli
from exporter.formats.packed_header import read_matrix
from exporter.lowbit import ops
from exporter.lowbit.decoder import LowbitTransformer
from exporter.lowbit.pack import PackOptions, pack_integers
from exporter.lowbit.state import StateLayout, state_bytes
from exporter.lowbit.weights import quantize_embedding
from exporter.recipe.recipe import parse_recipe
from exporter.recipe.schemes import EmbeddingScheme
from exporter.verify import inspection as report_inspect

RECIPE = {
    "linear:a8wx": {"bitwidth": 4, "groupsize": 32, "has_weight_zeros": True},
    "embedding:wx": {"bitwidth": 8, "groupsize": 32},
}
SHARED = "q4"
CONTEXT = 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    tiny.make_hf(folder, "attention_bias")
    return folder


@pytest.fixture(scope="module")
def files(folder, tmp_path_factory):
    """One model in all three formats."""
    out = tmp_path_factory.mktemp("artifacts")
    paths = [out / f"m.{kind}" for kind in ("pte", "pt2", "so")]
    flags = ("--output-pte", "--output-aoti-package", "--output-dso")
    named = [word for pair in zip(flags, paths, strict=True) for word in pair]
    export(folder, *named, "--quantize", json.dumps(RECIPE), "--max-seq-length", CONTEXT)
    return paths


def inspect(capsys, *arguments: object) -> str:
    capsys.readouterr()
    assert cli.main(["inspect", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def test_every_format_gives_the_models_own_tensors_by_name(files, folder):
    decoder = load_model(open_checkpoint(str(folder)), torch.float32, CONTEXT)
    options = PackOptions(parse_recipe(json.dumps(RECIPE)), torch.float32)
    expected = {
        name.removesuffix(".weight"): value.contiguous().view(torch.uint8).numpy().tobytes()
        for name, value in LowbitTransformer(decoder, options, "float16", print)
        .state_dict().items()
    }  # fmt: skip
    assert "layers.1.wqkv.bias" in expected
    for path in files:
        artifact = read_artifact(path)
        assert {name: bytes(t.data) for t in artifact.weights for name in t.names} == expected


def test_offsets_are_those_of_the_file(files):
    for path in files:
        content = path.read_bytes()
        for tensor in read_artifact(path).weights:
            assert content[tensor.offset : tensor.offset + len(tensor.data)] == tensor.data


def test_headers_are_what_the_kernels_unpack(files):
    ops.load()
    for tensor in read_artifact(files[0]).packed():
        weight = torch.frombuffer(bytearray(tensor.data), dtype=torch.uint8)
        unpacked = torch.ops.lowbit.unpack(weight)
        assert tuple(unpacked.shape) == (tensor.packed.rows, tensor.packed.columns)
    (table,) = read_artifact(files[0]).weight("table").packed.parts
    assert (table.bits, table.group_size, table.zeros) == (8, 32, "none")


def test_the_parts_add_up_to_the_file(files):
    for path in files:
        artifact = read_artifact(path)
        beside = path.with_name(path.name + ".json")
        size = path.stat().st_size + (beside.stat().st_size if path.suffix == ".so" else 0)
        assert artifact.size == size == sum(artifact.sizes.values())
        assert all(artifact.sizes.values())
        linear = [t for t in artifact.packed() if t.name != "table"]
        assert artifact.sizes["linear weights"] == sum(len(t.data) for t in linear)


def test_a_shared_table_is_said_to_be_one(tmp_path, capsys):
    tiny.make_hf(tmp_path / "m", "smollm2")
    pte = tmp_path / "m.pte"
    export(tmp_path / "m", "--output-pte", pte, "--quantize", SHARED, "--max-seq-length", CONTEXT)
    artifact = read_artifact(pte)
    assert artifact.weight("output") is artifact.weight("table")
    assert "embedding (also the output layer's)" in inspect(capsys, pte)


def test_operators_and_caches_of_the_program(files):
    artifact = read_artifact(files[0])
    assert artifact.operators["lowbit::linear_a8wx"] == 2 * 4 + 1
    assert artifact.operators["lowbit::attention"] == 2 and not artifact.delegates
    for path in files[1:]:
        other = read_artifact(path)
        assert set(other.operators) == set(artifact.operators)
        assert other.cache_dtype == artifact.cache_dtype == "float16"


def test_the_estimate_of_memory_is_what_the_runner_takes(files):
    """Of a tiny model that is mostly the program and its libraries."""
    for path in files[:2]:
        assert runner_of(path).is_file()
        measured = stats(path, "-t", 0, "-n", 40, "--ignore-eos", "--tokens", "5,6,7")
        expected = estimate(read_artifact(path)).total
        assert 0.5 * expected < measured["peak_rss_bytes"] < 1.5 * expected


def test_text_and_json(files, capsys):
    text = inspect(capsys, files[0])
    assert "layers.0-1.wqkv" in text and "4 bits, groups of 32, zeros, [128, 64]" in text
    said = json.loads(inspect(capsys, files[1], "--json", "--context", 32))
    assert said["memory"]["context"] == 32 and said["metadata"]["backend"] == "aoti"
    # k, v; layers; heads; width; float16. cos, sin; pairs; float32.
    assert said["memory"]["cache"] == 2 * 2 * 2 * 16 * 32 * 2 + 2 * 8 * 32 * 4
    assert {"output"} | {f"layers.{i}.{kind}" for i in (0, 1) for kind in
                         ("wqkv", "wo", "gate_up", "down")} | {"table"} == {
        t["names"][0] for t in said["tensors"] if t["format"]}  # fmt: skip


def test_two_artifacts_are_told_apart(files, folder, tmp_path, capsys):
    assert inspect(capsys, files[0], files[0]).startswith("no difference")
    other = tmp_path / "o.pte"
    export(folder, "--output-pte", other, "--quantize", "q8", "--max-seq-length", CONTEXT)
    text = inspect(capsys, files[0], other)
    assert "metadata.quantization.linear:a8wx.bitwidth: 4 -> 8" in text
    assert "vocab_size" not in text
    broken = bytearray(files[0].read_bytes())
    broken[read_artifact(files[0]).weight("layers.1.down").offset + 200] ^= 1
    (tmp_path / "b.pte").write_bytes(broken)
    text = inspect(capsys, files[0], tmp_path / "b.pte")
    assert text == "weights of the same format and other bytes: layers.1.down\n"


def test_stock_kernels_say_what_is_not_known(folder, tmp_path, capsys):
    pte = tmp_path / "s.pte"
    export(folder, "--output-pte", pte, "--delegate", "stock", "--max-seq-length", CONTEXT)
    artifact = read_artifact(pte)
    assert artifact.sizes["linear weights"] >= 4 * 64 * 96 * 3 * 2
    assert artifact.sizes["embedding"] == 4 * 64 * tiny.VOCAB
    assert "not known" in inspect(capsys, pte)


def failing(capsys, path) -> str:
    capsys.readouterr()
    assert cli.main(["inspect", str(path)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert str(path) in line
    return line


def test_damaged_files_are_one_line(files, tmp_path, capsys):
    for path in files:
        content = path.read_bytes()
        for size in (10, 70, 2000, len(content) // 2, len(content) - 5):
            part = tmp_path / f"part{path.suffix}"
            part.write_bytes(content[:size])
            sidecar = path.with_name(path.name + ".json")
            if sidecar.exists():
                part.with_name(part.name + ".json").write_bytes(sidecar.read_bytes())
            if path.suffix == ".so" and size == len(content) - 5:
                continue  # of the section table's end, which nothing needs
            failing(capsys, part)
    foreign = tmp_path / "x.pte"
    foreign.write_bytes(b"GGUF" + bytes(100))
    assert "is no artifact" in failing(capsys, foreign)
    failing(capsys, tmp_path / "missing.pte")
    failing(capsys, tmp_path)


@pytest.mark.parametrize("seed", range(60))
def test_random_damage_never_escapes(files, tmp_path, seed):
    """Bytes of the program's tables replaced: a value or a line, no other exception."""
    generator = torch.Generator().manual_seed(seed)
    path = files[seed % 2]
    content = bytearray(path.read_bytes())
    tensors = read_artifact(path).weights
    end = min(t.offset for t in tensors) if seed % 2 == 0 else len(content)
    for place in torch.randint(8, end, (20,), generator=generator).tolist():
        content[place] = int(torch.randint(256, (1,), generator=generator))
    broken = tmp_path / "b"
    broken.write_bytes(content)
    try:
        estimate(read_artifact(broken))
    except (ValueError, OSError) as error:
        assert "\n" not in str(error)


def test_a_wrong_header_is_named(files, tmp_path, capsys):
    artifact = read_artifact(files[0])
    content = bytearray(files[0].read_bytes())
    struct.pack_into("<I", content, artifact.weight("layers.0.wo").offset + 20, 48)
    (tmp_path / "b.pte").write_bytes(content)
    assert "layers.0.wo" in failing(capsys, tmp_path / "b.pte")


@pytest.mark.parametrize("text", ["damaged", '["q4"]', "null"])
def test_a_damaged_recipe_is_named(files, text):
    artifact = read_artifact(files[0])
    assert stored_recipe(artifact)["linear:a8wx"]["bitwidth"] == 4
    damaged = replace(artifact, metadata={**artifact.metadata, "quantization": text})
    with pytest.raises(ValueError) as raised:
        stored_recipe(damaged)
    said = f"its metadata 'quantization' is no recipe: {text!r}"
    assert str(raised.value) == f"{files[0]} is damaged: {said}; export it again"
    assert report_inspect.scheme(damaged) == f"unreadable: {text!r}"


class TestStack:
    """A matrix of rows of 6, 5 and 4 bits."""

    @pytest.fixture(scope="class")
    def stack(self) -> bytes:
        ops.load()
        scheme = EmbeddingScheme("embedding:wx", 32, 6, bitwidth_from_row=((16, 5), (48, 4)))
        weight = torch.randn(70, 64, generator=torch.manual_seed(1))
        return pack_integers(quantize_embedding(weight, scheme)).numpy().tobytes()

    def test_truncated_at_each_length(self, stack):
        assert [part.bits for part in read_matrix(stack, "w").parts] == [6, 5, 4]
        for length in (*range(0, len(stack), 7), len(stack) - 1):
            with pytest.raises(ValueError, match="^w "):
                read_matrix(stack[:length], "w")
        with pytest.raises(ValueError, match="^w "):
            read_matrix(stack + bytes(64), "w")

    @pytest.mark.parametrize("part", range(4))
    def test_each_field_altered(self, stack, part):
        """Of the stack's header, then of each weight's."""
        start = [0, *(p.at for p in read_matrix(stack, "w").parts)][part]
        words = {8: (0, 1, 2, 3, 4), 12: (0, 1, 9, 1 << 31)}  # version; count, or kind
        sizes = {at: (0, 63, 80, 1 << 63) for at in ((32, 40, 48) if part else (16, 24, 32))}
        for at, values in {**words, **sizes}.items():
            form = "<I" if at in words else "<Q"
            for value in values:
                content = bytearray(stack)
                if value == struct.unpack_from(form, content, start + at)[0]:
                    continue
                struct.pack_into(form, content, start + at, value)
                with pytest.raises(ValueError, match="^w "):
                    read_matrix(bytes(content), "w")

    def test_random_damage_is_a_value_error(self, stack):
        generator = torch.Generator().manual_seed(5)
        for _ in range(2000):
            content = bytearray(stack)
            place = int(torch.randint(len(stack), (), generator=generator))
            content[place] = int(torch.randint(256, (), generator=generator))
            content[place % 64] = int(torch.randint(256, (), generator=generator))
            try:
                read_matrix(bytes(content), "w")
            except ValueError as error:
                assert "\n" not in str(error)


def test_a_context_that_is_too_long(files, capsys):
    assert cli.main(["inspect", str(files[0]), "--context", "257"]) == 1
    assert "outside 1..256" in capsys.readouterr().err


def test_what_a_choice_at_the_start_costs(files, folder, capsys):
    """As the states themselves say."""
    artifact = read_artifact(files[0])
    layout = StateLayout.of(open_checkpoint(str(folder)).config)
    for dtype in CACHE_TYPES:
        for context, sessions in ((64, 1), (200, 3)):
            expected = state_bytes(layout, context, dtype, sessions)
            assert cache_bytes(artifact, StateChoice(context, dtype, sessions), context) == expected
    said = json.loads(inspect(capsys, files[0], "--json", "--cache-dtype", "int8", "--sessions", 3))
    assert said["memory"]["cache"] == state_bytes(layout, 64, "int8", 3) and said["memory"]["sessions"] == 3
    assert "KB a position and session: float32" in inspect(capsys, files[0])
