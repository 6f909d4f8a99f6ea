"""Writes small archives for scripts/fuzz_pt2.sh to start from: make_seeds.py FOLDER."""

import json
import platform
import sys
import zipfile
from pathlib import Path
from tempfile import NamedTemporaryFile
from unittest.mock import patch

from exporter.artifact.metadata import SCHEMA_VERSION
from exporter.lower import pt2_package
from exporter.lower.pt2_package import MODEL, Pt2Writer

ROOM = 512  # for the metadata to grow in place
TOKENIZER = b"ten tokens"
WEIGHTS = bytes(range(128))
END_OFFSET = slice(-6, -2)  # of the directory, in the last record


def target(name: str, folder: str, *cpu_features: str) -> dict:
    features = list(cpu_features)
    machine = platform.machine().replace("arm64", "aarch64")
    return {"name": name, "machine": machine, "cpu_features": features, "folder": folder}


def weight(name: str, dtype: str, shape: list[int], offset: int) -> dict:
    return {"name": name, "dtype": dtype, "shape": shape, "offset": offset}


PLAIN = {
    "schema_version": SCHEMA_VERSION,
    "backend": "aoti",
    "model_name": "toy",
    "model_family": "llama",
    "vocab_size": 300,
    "context_length": 64,
    "max_chunk": 16,
    "max_rows": 4,
    "n_layers": 2,
    "n_heads": 4,
    "n_kv_heads": 2,
    "head_dim": 8,
    "dim": 32,
    "dtype": "bfloat16",
    "quantization": {},
    "delegate": "lowbit",
    "tokenizer_kind": "tiktoken",
    "tokenizer_size": len(TOKENIZER),
    "n_pieces": 290,
    "bos_id": -1,
    "eos_id": 2,
    "stop_ids": [2, 5],
    "add_bos": True,
    "chat": {},
    "sampling": {"temperature": 0.6, "top_k": 40, "top_p": None, "min_p": 0.1,
                 "repetition_penalty": 1.1, "logit_bias": [[[3, 4], -2.5]], "bad_words_ids": [[5]],
                 "begin_suppress_tokens": [8], "stop_strings": ["x"]},
    "exporter_version": "0.1",
    "torch_version": "2",
    "torchao_version": "0",
    "executorch_version": "",
    "checkpoint_digest": "ab",
    "kernel_layout_version": "1",
    "operators_version": "3",
    "runtime": "lean",
    "targets": [target("baseline", MODEL)],
    "host_functions": ["aoti_torch_get_dim"],
    "host_interface": "2.13/3",
    "weights": [weight("w", "float16", [3, 5], 0), weight("b", "float32", [], 64)],
    "state": {"layers": [{"kv_heads": 2, "head_dim": 8, "rope": 0},
                         {"kv_heads": 1, "head_dim": 16, "rope": -1}], "frequencies": [[1.0, 0.25]]},
    "cache_dtype": "float32",
    "longest_context": 128,
    "max_segments": 7,
    "model_digest": "cd",
}
TORCH = PLAIN | {
    "delegate": "stock",
    "key_cache_shape": [2, 8, 64],
    "value_cache_shape": [2, 64, 8],
    "n_caches": 4,
    "runtime": "torch",
    "targets": [target("x86-64-v3", "v3", "avx2", "fma"), target("baseline", MODEL)],
    "weights": [],
}


def metadata(values: dict) -> str:
    """All values are strings, as the exporter writes them."""
    texts = {
        key: value if isinstance(value, str) else json.dumps(value) for key, value in values.items()
    }
    return json.dumps(texts) + " " * ROOM


def write(path: Path, values: dict) -> None:
    with Pt2Writer(path) as writer, NamedTemporaryFile() as code:
        code.write(b"\x7fELF")
        code.flush()
        writer.metadata(metadata(values))
        for each in values["targets"]:
            writer.file(each["folder"], "model.so", Path(code.name))
        if values["weights"]:
            writer.weights(len(WEIGHTS), [WEIGHTS])
        writer.tokenizer(TOKENIZER)


def write_zip64(path: Path) -> None:
    with patch.object(zipfile, "ZIP64_LIMIT", 0):
        write(path, PLAIN)
    archive = bytearray(path.read_bytes())
    archive[END_OFFSET] = b"\xff" * 4  # zipfile leaves it when it fits
    path.write_bytes(archive)


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    with patch.object(pt2_package, "ALIGNMENT", 64):  # a page of padding tells nothing
        write(folder / "plain.pt2", PLAIN)
        write(folder / "torch.pt2", TORCH)
        write_zip64(folder / "zip64.pt2")


if __name__ == "__main__":
    main()
