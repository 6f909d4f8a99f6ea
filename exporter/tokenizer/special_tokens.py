"""Special tokens by the names that templates use: bos_token, eos_token, sep_token and so on.

Source: transformers 5.23, PreTrainedTokenizerBase.__init__ and special_tokens_map.
"""

from collections.abc import Iterator, Mapping

from exporter.tokenizer.config import content_of
from exporter.tokenizer.table import Table

# tokenizer.ggml.*_token_id: the first part of transformers' name. GGUF's format spells "seperator" so.
_GGUF_NAMES = {
    "bos": "bos", "eos": "eos", "unknown": "unk", "seperator": "sep", "padding": "pad", "cls": "cls",
    "mask": "mask",
}  # fmt: skip
_GGUF_ENDS = ("eos", "eot", "eom")


def named_tokens(config: Mapping, table: Table, whole: bool) -> dict[str, str]:
    """The named special tokens of tokenizer_config.json's content `config`, `{"bos_token": "<s>", ...}`.

    bos and eos that it leaves out are the table's own; so is unk with `whole`, in a format that says all.
    """
    own = {"bos_token": table.bos_id, "eos_token": table.eos_id}
    own |= {"unk_token": table.unk_id} if whole else {}
    return _texts(own, table) | dict(_configured(config))


def gguf_named_tokens(metadata: Mapping, table: Table) -> dict[str, str]:
    """The named special tokens of a GGUF file's metadata."""
    ids = {f"{name}_token": metadata.get(f"tokenizer.ggml.{key}_token_id", -1)
           for key, name in _GGUF_NAMES.items()}  # fmt: skip
    return _texts(ids, table)


def gguf_ends(metadata: Mapping) -> dict[str, object]:
    """The keys of a GGUF file's metadata that name end tokens, and their ids."""
    keys = (f"tokenizer.ggml.{name}_token_id" for name in _GGUF_ENDS)
    return {key: metadata[key] for key in keys if key in metadata}


def _texts(ids: Mapping[str, object], table: Table) -> dict[str, str]:
    return {
        name: table.pieces[id].decode(errors="replace")
        for name, id in ids.items()
        if isinstance(id, int) and 0 <= id < len(table.pieces)
    }


def _configured(config: Mapping) -> Iterator[tuple[str, str]]:
    extra = (config.get(key) for key in ("model_specific_special_tokens", "extra_special_tokens"))
    for entries in (*extra, config):
        for name, value in entries.items() if isinstance(entries, Mapping) else ():
            text = content_of(value)
            if isinstance(text, str) and (name.endswith("_token") or entries is not config):
                yield name, text
