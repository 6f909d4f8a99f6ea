"""Check whether an artifact's metadata, tokenizer and chat template are its checkpoint's."""

import json
from collections.abc import Iterable, Iterator, Mapping

from exporter.artifact.metadata import (
    ADAPTERS_KEY,
    TOKEN_SOURCES_KEY,
    adapter_line,
    shape_strings,
    source_lines,
    stored_adapters,
)
from exporter.artifact.runner_interface import RunnerModel
from exporter.chat.conversations import expected_conversations
from exporter.chat.texts import PROMPTS
from exporter.pipeline.prepare import Described
from exporter.tokenizer.sample import SAMPLE
from exporter.verify.checks import Check, check, equal, skipped


def identity_checks(described: Described, native: RunnerModel) -> Iterator[Check]:
    """Check what the artifact `native` says of itself and of text against what the checkpoint says,
    `described`."""
    metadata, expected = native.metadata, described.text.to_strings()
    yield _digest(described, metadata)
    if described.checkpoint.adapters or ADAPTERS_KEY in metadata:
        yield _adapters(described, metadata)
    yield _shape(described, metadata)
    yield _table(described, native)
    yield _encoding(described, native)
    yield _decoding(native)
    for name, key in (("beginning of text", "bos_id"), ("end of text", "eos_id"),
                      ("add_bos", "add_bos")):  # fmt: skip
        yield equal(name, expected[key], metadata.get(key))
    yield _stops(described, metadata)
    yield _sources(described, metadata)
    yield _chat_template(described, metadata)
    yield _chat_prompts(described, native)


def _digest(described: Described, metadata: Mapping[str, str]) -> Check:
    said, found = metadata.get("checkpoint_digest", ""), described.checkpoint.digest
    return check(
        "checkpoint digest", said == found, said[:16] or "none", f"equal to {found[:16]}",
        f"{said[:16] or 'none'} instead of {found[:16]}, another checkpoint",
    )  # fmt: skip


def _adapters(described: Described, metadata: Mapping[str, str]) -> Check:
    """Compare adapters by digests and scales; folders may have been renamed."""
    stored = stored_adapters(metadata)
    given = [adapter.to_dict() for adapter in described.checkpoint.adapters]
    same = _weighed(stored) == _weighed(given)
    said, expected = ("; ".join(map(adapter_line, entries)) or "none" for entries in (stored, given))
    return check("adapters", same, said, f"equal to {expected}", f"{said} instead of {expected}")


def _weighed(adapters: Iterable[Mapping[str, object]]) -> list[tuple[str, str]]:
    """Return digests and scales, in an order of their own: a sum has none."""
    return sorted((str(entry["digest"]), str(entry["scale"])) for entry in adapters)


def _shape(described: Described, metadata: Mapping[str, str]) -> Check:
    config = described.checkpoint.config
    shape = shape_strings(config)
    wrong = [
        f"{key} {metadata.get(key)} instead of {value}"
        for key, value in shape.items() if metadata.get(key) != value
    ]  # fmt: skip
    wrong += wrong_contexts(metadata, config.context_length)
    found = ", ".join(wrong)
    return check("model shape", not wrong, found or f"{len(shape) + 1} values", "equal", found)


def wrong_contexts(metadata: Mapping[str, str], most: int) -> list[str]:
    """Say what is wrong with an artifact's two context lengths, for a model of at most `most`."""
    wrong, least = [], 1
    for key, otherwise in (("context_length", ""), ("longest_context", str(most))):
        value = metadata.get(key, otherwise)
        if value.isdecimal() and least <= int(value) <= most:
            least = int(value)  # the longest context holds the default one
        else:
            wrong.append(f"{key} {value}, outside {least}..{most}")
    return wrong


def _table(described: Described, native: RunnerModel) -> Check:
    expected = described.text.table
    actual = bytes(native.tokenizer.table)
    at = next((i for i, (a, b) in enumerate(zip(expected, actual, strict=False)) if a != b), None)
    if expected == actual:
        broken = ""
    elif len(expected) != len(actual):
        broken = f"{len(actual)} bytes instead of {len(expected)}, another tokenizer"
    else:
        broken = f"differs from the checkpoint's from byte {at} on"
    return check("tokenizer table", not broken, f"{len(actual)} bytes", "equal bytes", broken)


def _encoding(described: Described, native: RunnerModel) -> Check:
    """Check encoding against the checkpoint's own library, on the exporter's sample and the prompts."""
    texts = (*SAMPLE, *PROMPTS)
    wrong = [t for t in texts if native.tokenizer.encode(t) != described.tokenizer.encode(t)]
    return check(
        "tokenizer encoding", not wrong, f"{len(texts) - len(wrong)} of {len(texts)} texts",
        "equal ids", f"{wrong[0][:40]!r} gives other ids" if wrong else "",
    )  # fmt: skip


def _decoding(native: RunnerModel) -> Check:
    """Check that prompts come back: those without odd white space, which some tokenizers rightly change."""
    wrong = []
    for text in PROMPTS:
        back = native.tokenizer.decode(native.tokenizer.encode(text))
        if back.strip() != text.strip():
            wrong.append(text)
    unknown = "" if not wrong else f"{wrong[0][:40]!r} does not come back"
    return check("tokenizer round trip", not wrong, f"{len(PROMPTS) - len(wrong)} of "
                 f"{len(PROMPTS)} texts", "the same text back", unknown)  # fmt: skip


def _stops(described: Described, metadata: Mapping[str, str]) -> Check:
    expected = list(described.text.stop_ids)
    actual = _json(metadata.get("stop_ids"))
    pieces = described.tokenizer.source.pieces

    def named(ids: object) -> str:
        if not isinstance(ids, list):
            return str(ids)
        known = (isinstance(i, int) and 0 <= i < len(pieces) for i in ids)
        return json.dumps([
            f"{i} {pieces[i].decode(errors='replace')}" if good else i
            for i, good in zip(ids, known, strict=True)
        ], ensure_ascii=False)  # fmt: skip

    same = expected == actual
    return check("stop tokens", same, named(actual), f"equal to {named(expected)}",
                 f"{named(actual)} instead of {named(expected)}")  # fmt: skip


def _sources(described: Described, metadata: Mapping[str, str]) -> Check:
    """Check which file named each token that begins a text or ends a generation."""
    name, actual = "sources of these tokens", _json(metadata.get(TOKEN_SOURCES_KEY))
    if actual is None:
        return skipped(name, "not recorded: the artifact is of an older exporter")
    wrong = list(_differing(described.text.token_sources, actual))
    return check(name, not wrong, "; ".join(source_lines(actual)), "equal", "; ".join(wrong))


def _chat_template(described: Described, metadata: Mapping[str, str]) -> Check:
    expected, actual = described.text.chat, _json(metadata.get("chat"))
    if isinstance(actual, dict) and "reducible" in actual:
        words = "of an older exporter, in another form; export it again"
        return check("chat template", False, "", "equal", words)
    kept = ("tree", "inputs", "thoughts", "channels", "reason")
    if isinstance(actual, dict):
        actual = {key: actual[key] for key in kept if key in actual}
    wrong = list(_differing({key: expected[key] for key in kept if key in expected}, actual))
    return check("chat template", not wrong, "; ".join(wrong) or "the checkpoint's",
                 "equal", "; ".join(wrong))  # fmt: skip


def _differing(expected: object, actual: object, path: str = "") -> Iterator[str]:
    if isinstance(expected, dict) and isinstance(actual, dict):
        for key in dict.fromkeys([*expected, *actual]):
            yield from _differing(expected.get(key), actual.get(key), f"{path}.{key}".strip("."))
    elif expected != actual:
        said = ", ".join(_short(value) for value in (actual, expected))
        yield f"{path or 'all'} is {said.replace(', ', ' instead of ', 1)}"


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def _chat_prompts(described: Described, native: RunnerModel) -> Check:
    """Check the ids of whole conversations: the artifact's against the template's text, tokenized."""
    name, chat = "chat prompts", described.text.chat
    if "reason" in chat:
        return skipped(name, f"the checkpoint's template cannot be used: {chat['reason']}")
    done, wrong = 0, ""
    for expected in expected_conversations(described.tokenizer, chat):
        try:
            actual = list(native.chat_prompt(expected.messages, date=expected.date, **expected.variables))
        except ValueError as error:
            wrong = wrong or str(error)
            continue
        if expected.ids != actual and not wrong:
            at = next((i for i, (a, b) in enumerate(zip(expected.ids, actual, strict=False)) if a != b),
                      min(len(expected.ids), len(actual)))  # fmt: skip
            wrong = f"token {at} of {len(expected.ids)} differs from the template's"
        done += expected.ids == actual
    return check(name, not wrong, f"{done} conversations", "the template's ids", wrong)


def _json(text: str | None) -> object:
    try:
        return json.loads(text or "null")
    except ValueError:
        return text
