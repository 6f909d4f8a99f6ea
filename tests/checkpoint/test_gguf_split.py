"""GGUF models that are split into files, and what is said of those that are quantized."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import gguf
import pytest
import tiny
from checkpoint_files import assert_refused, assert_same_weights, finish
from gguf import GGMLQuantizationType

from exporter.checkpoint.checkpoint import open_checkpoint
from exporter.formats.gguf_file import GGUFFile, read_gguf
from exporter.formats.gguf_types import tensor_type
from exporter.pipeline.model_request import ModelSource
from exporter.pipeline.prepare import describe


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    model = tiny.make_hf(folder / "hf", "smollm2")
    tiny.write_gguf(folder / "whole.gguf", model, GGMLQuantizationType.Q4_0)
    return folder / "whole.gguf"


@pytest.fixture
def parts(whole, tmp_path) -> list[Path]:
    return split(read_gguf(whole), tmp_path, 3)


def split(file: GGUFFile, folder: Path, n: int, **change: int) -> list[Path]:
    """Writes a file as `n` parts, as llama-gguf-split does; the fields are in the first. `change`: of those
    of the split."""
    paths = []
    for number in range(n):
        paths.append(folder / f"m-{number + 1:05}-of-{n:05}.gguf")
        writer = gguf.GGUFWriter(paths[-1], "llama" if number == 0 else "")
        if number == 0:
            for name, value in file.fields.items():
                if name != "general.architecture":
                    add(writer, name, value)
        said = {"no": number, "count": n, "tensors.count": len(file.tensors)} | change
        for name, kind in (("no", gguf.GGUFValueType.UINT16), ("count", gguf.GGUFValueType.UINT16),
                           ("tensors.count", gguf.GGUFValueType.INT32)):  # fmt: skip
            writer.add_key_value(f"split.{name}", said[name], kind)
        for i, (name, tensor) in enumerate(file.tensors.items()):
            if i % n == number:
                data = file.data[tensor.path][tensor.start : tensor.start + tensor.n_bytes]
                kind = GGMLQuantizationType[tensor.kind.name]
                writer.add_tensor(name, data.reshape(*tensor.shape[:-1], -1), raw_dtype=kind)
        finish(writer)
    return paths


def add(writer: gguf.GGUFWriter, name: str, value: object) -> None:
    kinds = {bool: "BOOL", int: "UINT32", float: "FLOAT32", str: "STRING", list: "ARRAY"}
    writer.add_key_value(name, value, gguf.GGUFValueType[kinds[type(value)]])


@pytest.mark.parametrize("named", [0, 1, 2, "folder"])
def test_any_part_names_them_all(whole, parts, named):
    path = parts[0].parent if named == "folder" else parts[named]
    checkpoint = open_checkpoint(str(path))
    assert_same_weights(checkpoint, open_checkpoint(str(whole)))
    assert checkpoint.weights.files == tuple(parts) and checkpoint.tokenizer_path == parts[0]
    assert checkpoint.name == (path.name if named == "folder" else "m")
    tables = [describe(ModelSource(str(place))).tokenizer.table for place in (path, whole)]
    assert tables[0] == tables[1]


def test_parts_that_are_not_there(parts):
    parts[1].unlink()
    for path in (parts[0], parts[2], parts[0].parent):
        assert_refused(path, "one of 3 parts, of which 1 are missing", parts[1].name)
    shutil.copy(parts[2], parts[1])
    assert_refused(parts[0], parts[1].name, "says that it is part 3 of 3")
    parts[2].rename(parts[2].with_name("other.gguf"))
    assert_refused(parts[2].with_name("other.gguf"), "is part 3 of 3", "-00001-of-00003.gguf")


@pytest.mark.parametrize(
    ("change", "said"),
    [({"count": 2}, "says that it is part 1 of 2"), ({"tensors.count": 99}, "hold 99 tensors, but")],
)
def test_parts_that_do_not_belong_together(whole, tmp_path, change, said):
    assert_refused(split(read_gguf(whole), tmp_path, 3, **change)[0], said)


def test_a_tensor_in_two_parts(whole, parts, tmp_path):
    (tmp_path / "other").mkdir()
    first = split(read_gguf(whole), tmp_path / "other", 3, no=1)[0]
    shutil.copy(first, parts[1])
    assert_refused(parts[0], f"{parts[1]}: tensor", "is in another part, too")


def test_quantized_files_are_told(whole, capsys):
    describe(ModelSource(str(whole)))
    assert f"{whole} is quantized already (15 Q4_0): its weights are read as" in capsys.readouterr().err


def test_a_type_that_is_not_read(tmp_path, whole):
    file = read_gguf(whole)
    table = replace(file.tensors["token_embd.weight"], kind=tensor_type(GGMLQuantizationType.I8))
    (path,) = split(replace(file, tensors={**file.tensors, "token_embd.weight": table}), tmp_path, 1)
    assert_refused(path, f"{path}: tensor token_embd.weight has type I8, which cannot be dequantized")
