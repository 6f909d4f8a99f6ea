#!/usr/bin/env python3
"""Compares the tokenizers' engines with the reference libraries on random tokenizers and texts.

    .venv/bin/python scripts/fuzz_tokenizers.py [--pairs N] [--texts N] [--seed N]

Each pair is a tokenizer and a text. The C++ engine (cmake-out/tests/tokenizer_tool) encodes every
text as markup and as content and decodes the ids, the plain engine in Python a share of them. The
right values are those of transformers and `tokenizers` for a tokenizer.json (BPE and Unigram), of `tiktoken`
for a tekken.json. For a tokenizer.model (BPE and unigram) they are those of `sentencepiece`, and where the
text holds a token of the files beside it, or is markup, those of `sentencepiece` between the tokens that
`tokenizers` finds. Exits 1 at the first difference, which it
shows, with the tokenizer's folder left in place.
"""

import argparse
import base64
import json
import logging
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

os.environ["RUST_BACKTRACE"] = "0"  # a panic of the library says enough in three lines
ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import sentencepiece  # noqa: E402
import tiktoken  # noqa: E402
from native_tokenizer import ask  # noqa: E402
from random_tokenizers import (  # noqa: E402
    random_text,
    write_huggingface,
    write_sentencepiece,
    write_tekken,
)
from transformers import PreTrainedTokenizerFast  # noqa: E402

from exporter.tokenizer.engine import Engine  # noqa: E402
from exporter.tokenizer.table import Flag, PieceType  # noqa: E402
from exporter.tokenizer.tokenizer import Tokenizer, read_tokenizer  # noqa: E402

PYTHON_SHARE = 40  # one text of so many
_CANNOT = "AddedVocabulary bad split"  # tokenizers' panic where two tokens take the same white space


class Difference(Exception):
    """An engine gives something else than the reference."""


@dataclass(frozen=True)
class Wanted:
    markup: list[int]
    content: list[int]
    decoded: str  # of `markup` without special tokens


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=1_000_000)
    parser.add_argument("--texts", type=int, default=1000, help="of one tokenizer")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    rng = random.Random(options.seed)
    done = n_tokenizers = skipped = 0
    start = time.monotonic()
    while done < options.pairs:
        folder = Path(tempfile.mkdtemp(prefix="tokenizer-"))
        n_tokenizers += 1
        try:
            compared = compare(rng, folder, min(options.texts, options.pairs - done))
        except Difference as difference:
            print(f"seed {options.seed}, tokenizer {n_tokenizers}, {folder}: {difference}")
            return 1
        done, skipped = done + compared, skipped + (compared == 0)
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
    seconds = time.monotonic() - start
    print(f"{done} pairs of {n_tokenizers - skipped} tokenizers, no difference, {seconds:.0f} s")
    return 0


def compare(rng: random.Random, folder: Path, n_texts: int) -> int:
    """Compare on one random tokenizer; returns the number of texts, 0 where none can be made."""
    write, wanted_of = rng.choices(
        ((write_huggingface, _huggingface), (write_sentencepiece, _sentencepiece), (write_tekken, _tekken)),
        (6, 3, 1),
    )[0]
    try:
        names = write(rng, folder)
    except RuntimeError:  # sentencepiece cannot train on every corpus
        return 0
    try:
        tokenizer = read_tokenizer(folder)
    except ValueError as error:
        if _CANNOT in str(error) or "<unk>" in str(error):  # a text that is left out below, too
            return 0
        raise Difference(str(error)) from None
    texts = [random_text(rng, names, rng.choice((3, 6, 15))) for _ in range(n_texts)]
    wanted = list(wanted_of(folder, tokenizer, texts))
    kept = [(text, want) for text, want in zip(texts, wanted, strict=True) if want is not None]
    _compare_native(folder, tokenizer, kept)
    _compare_python(tokenizer, kept[:: PYTHON_SHARE])
    return len(kept)


def _huggingface(folder: Path, tokenizer: Tokenizer, texts: list[str]) -> Iterator[Wanted | None]:
    library = PreTrainedTokenizerFast.from_pretrained(folder).backend_tokenizer
    takes_names = tokenizer.source.flags & (Flag.IGNORE_MERGES | Flag.UNIGRAM)
    for text in texts:
        if "<unk>" in text and takes_names:  # which these make of text, as nothing does here
            yield None
            continue
        try:
            library.encode_special_tokens = False
            markup = library.encode(text, add_special_tokens=False).ids
            library.encode_special_tokens = True
            content = library.encode(text, add_special_tokens=False).ids
        except BaseException as error:
            if _CANNOT not in str(error):
                raise
            yield None
            continue
        decoded = library.decode(_plain(tokenizer, markup), skip_special_tokens=True)
        yield Wanted(markup, content, decoded)


def _sentencepiece(folder: Path, tokenizer: Tokenizer, texts: list[str]) -> Iterator[Wanted]:
    library = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    first_added = library.get_piece_size()
    texts_beside = [t.text.decode() for t in tokenizer.source.added if t.id >= first_added]
    for text in texts:
        alone = not any(added in text for added in texts_beside)
        try:
            content = library.encode(text) if alone else _content(tokenizer, text)
            markup = tokenizer.encode(text)
        except ValueError as error:
            if _CANNOT not in str(error):
                raise
            yield None
            continue
        yield Wanted(markup, content, tokenizer.decode(_plain(tokenizer, markup)))


def _tekken(folder: Path, tokenizer: Tokenizer, texts: list[str]) -> Iterator[Wanted]:
    root = json.loads((folder / "tekken.json").read_text())
    config = root["config"]
    n_special = config["default_num_special_tokens"]
    vocab = root["vocab"][: config["default_vocab_size"] - n_special]
    ranks = {base64.b64decode(token["token_bytes"]): token["rank"] for token in vocab}
    library = tiktoken.Encoding("t", pat_str=config["pattern"], mergeable_ranks=ranks, special_tokens={})
    for text in texts:
        content = [id + n_special for id in library.encode_ordinary(text)]
        markup = tokenizer.encode(text)
        plain = [id - n_special for id in markup if id >= n_special]
        yield Wanted(markup, content, library.decode(plain))


def _content(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of `text` as content: `tokenizers` finds the added tokens that are not special, and `sentencepiece`
    encodes what is between."""
    finder = tokenizer.reference.finder
    finder.encode_special_tokens = True
    try:
        return tokenizer.encode(text)
    finally:
        finder.encode_special_tokens = False


def _plain(tokenizer: Tokenizer, ids: list[int]) -> list[int]:
    return [id for id in ids if tokenizer.source.types[id] != PieceType.CONTROL]


def _compare_native(folder: Path, tokenizer: Tokenizer, pairs: list[tuple[str, Wanted]]) -> None:
    names = ("tokenizer.json", "tokenizer.model", "tekken.json")
    file = next(path for path in folder.iterdir() if path.name in names)
    requests = [{"table": True}]
    for text, want in pairs:
        requests += [{"text": text}, {"text": text, "plain": True}]
        requests.append({"ids": _plain(tokenizer, want.markup)})
    table, *answers = ask(file, requests)
    if bytes.fromhex(table) != tokenizer.table:
        raise Difference("the raw reader's table is not the exporter's")
    for i, (text, want) in enumerate(pairs):
        markup, content, decoded = answers[3 * i : 3 * i + 3]
        _same(text, "C++, markup", markup, want.markup)
        _same(text, "C++, content", content, want.content)
        _same(text, "C++, decoded", decoded["text"], want.decoded)


def _compare_python(tokenizer: Tokenizer, pairs: list[tuple[str, Wanted]]) -> None:
    engine = Engine(tokenizer.source)
    for text, want in pairs:
        _same(text, "Python, markup", engine.encode(text), want.markup)
        _same(text, "Python, content", engine.encode(text, markup=False), want.content)
        _same(text, "Python, decoded", engine.decode(_plain(tokenizer, want.markup)), want.decoded)


def _same(text: str, what: str, got: object, want: object) -> None:
    if got != want:
        raise Difference(f"{what}: {json.dumps(text)} gives {got!r}, not {want!r}")


if __name__ == "__main__":
    sys.exit(main())
