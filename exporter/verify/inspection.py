"""Say what `inspect` says of an artifact: as one JSON object, as text, and as differences of two."""

import hashlib
import json
import re
from collections.abc import Iterator

import numpy as np

from exporter.artifact.contents import (
    CHOSEN_KEY,
    EXPERTS_KEY,
    SO,
    Artifact,
    StoredTensor,
    stored_recipe,
)
from exporter.artifact.memory import CACHE_TYPES, Memory, position_bytes
from exporter.artifact.metadata import (
    STATE_KEY,
    TOKEN_SOURCES_KEY,
    adapter_line,
    source_lines,
    stored_adapters,
)
from exporter.recipe.schemes import LOWBIT

_LISTED_ELSEWHERE = ("weights", "host_functions", "targets", TOKEN_SOURCES_KEY)  # of the metadata
MISSING = "(none)"


def facts(artifact: Artifact, memory: Memory) -> dict:
    """Return everything `inspect` knows, as JSON has it. Sizes are bytes."""
    count = artifact.weight_count()
    return {
        "file": str(artifact.path),
        "kind": artifact.kind,
        "model": artifact.model_name,
        "scheme": scheme(artifact),
        "size": artifact.size,
        "weights": count,
        "bits_per_weight": 8 * artifact.size / count if count else None,
        "bits_per_linear_weight": artifact.linear_bits(),
        "memory": {
            "context": memory.context,
            "sessions": memory.sessions,
            "file": memory.file,
            "cache": memory.cache,
            "activations": memory.activations,
            "runner": memory.runner,
            "total": memory.total,
        },
        "cpu": cpu(artifact),
        "targets": list(artifact.targets),
        "cache_dtype": artifact.cache_dtype,
        "sizes": dict(artifact.sizes),
        "table_shared_with_output": shared(artifact),
        "formats": dict(formats(artifact)),
        "operators": dict(artifact.operators),
        "delegates": dict(artifact.delegates),
        "tokenizer": {
            "bytes": len(artifact.tokenizer),
            "sha256": hashlib.sha256(artifact.tokenizer).hexdigest(),
        },
        "token_sources": _token_sources(artifact),
        "unknown": list(artifact.unknown),
        "metadata": {key: artifact.metadata[key] for key in sorted(artifact.metadata)},
        "tensors": [
            {
                "names": list(tensor.names),
                "dtype": tensor.dtype,
                "shape": list(tensor.shape),
                "offset": tensor.offset,
                "bytes": len(tensor.data),
                "format": tensor.packed.text() if tensor.packed else None,
                "rows": tensor.packed.rows if tensor.packed else None,
                "columns": tensor.packed.columns if tensor.packed else None,
            }
            for tensor in artifact.weights
        ],
    }


def _experts(artifact: Artifact) -> Iterator[tuple[str, str]]:
    count, chosen = artifact.number(EXPERTS_KEY), artifact.number(CHOSEN_KEY)
    if count and chosen:
        yield "experts", f"{chosen} of {count} a token, which reads {_mb(artifact.read_bytes())} of weights"


def text(artifact: Artifact, memory: Memory) -> Iterator[str]:
    """Yield the lines a person reads: the summary first, then each part."""
    count, linear = artifact.weight_count(), artifact.linear_bits()
    size = f"{_mb(artifact.size)}" + (" with its .so.json" if artifact.kind == SO else "")
    if count:
        size += f": {count / 1e6:.1f} M weights, {8 * artifact.size / count:.2f} bits a weight"
        size += f", {linear:.2f} in the linear layers" if linear else ""
    yield f"{artifact.model_name or 'a model without a name'}  {artifact.path}"
    yield ""
    for name, value in (
        ("scheme", scheme(artifact)),
        *_experts(artifact),
        ("size", size),
        ("memory", _memory(memory)),
        ("cache", _cache(artifact)),
        ("runs on", cpu(artifact)),
        ("delegate", artifact.delegate or "not recorded"),
        *(("adapter", adapter_line(entry)) for entry in stored_adapters(artifact.metadata)),
    ):
        yield f"  {name:9} {value}"
    for line in artifact.unknown:
        yield f"  {'not known':9} {line}"
    yield from ("", "sizes")
    for part, bytes_ in artifact.sizes.items():
        label = part + (" (also the output layer's)" if _is_shared(part, artifact) else "")
        yield f"  {label:38} {_mb(bytes_):>11} {100 * bytes_ / artifact.size:5.1f} %"
    listed = formats(artifact)
    if listed:
        yield from ("", "weights")
        width = max(map(len, listed))
        yield from (f"  {name:{width}}  {said}" for name, said in listed.items())
    yield from ("", "operators")
    for names in (artifact.delegates, artifact.operators):
        for name, calls in names.items():
            where = " (delegate)" if names is artifact.delegates else ""
            yield f"  {name:36}{'' if calls is None else f' {calls:5} {_times(calls)}'}{where}"
    if artifact.targets:
        yield from ("", "targets")
        for target in artifact.targets:
            features = " ".join(target.get("cpu_features") or ()) or "any CPU"
            yield f"  {target.get('name')} ({target.get('machine')}): {features}"
    tokens = list(source_lines(_token_sources(artifact)))
    if tokens:
        yield from ("", "tokens that begin and end", *(f"  {line}" for line in tokens))
    yield from ("", "metadata")
    for key in sorted(artifact.metadata):
        yield f"  {key:22} {_short(key, artifact.metadata[key])}"


def differences(a: tuple[Artifact, Memory], b: tuple[Artifact, Memory]) -> dict[str, list]:
    """Return what `facts` says otherwise of the two, by path of keys; and the weights whose bytes differ.

    Values are pairs; MISSING where one has none. What one of them cannot tell is no difference.
    """
    first, second = (_flat(_compared(*side)) for side in (a, b))
    found = {
        key: [first.get(key, MISSING), second.get(key, MISSING)]
        for key in dict.fromkeys([*first, *second])
        if first.get(key, MISSING) != second.get(key, MISSING)
        and not (key in first and key in second and None in (first[key], second[key]))
    }
    changed = [name for name, same in _same_bytes(a[0], b[0]) if not same]
    if changed:
        found["weights of the same format and other bytes"] = [", ".join(fold(changed)), ""]
    if a[0].tokenizer != b[0].tokenizer:
        found["tokenizer table"] = [f"{len(side[0].tokenizer)} bytes" for side in (a, b)]
    return found


def scheme(artifact: Artifact) -> str:
    """Write the recipe in words: `linear:a8wx bitwidth 4, groupsize 32, has_weight_zeros; ...`."""
    try:
        recipe = stored_recipe(artifact)
    except ValueError:
        return f"unreadable: {artifact.metadata['quantization']!r}"
    parts = []
    for key, options in recipe.items():
        options = options if isinstance(options, dict) else {"": options}
        said = (_option(name, value) for name, value in options.items() if value is not False)
        parts.append(f"{key} {', '.join(said)}".strip())
    return "; ".join(parts) or f"none: {artifact.dtype or 'float'} weights"


def _option(name: str, value: object) -> str:
    if value is True:
        return name
    return f"{name} {value if isinstance(value, (str, int, float)) else json.dumps(value)}"


def cpu(artifact: Artifact) -> str:
    """Name the CPUs that the artifact runs on."""
    if artifact.targets:
        return "; ".join(
            f"{t.get('machine')} with {' '.join(t['cpu_features'])}" if t.get("cpu_features")
            else f"any {t.get('machine')}" for t in artifact.targets
        )  # fmt: skip
    if artifact.delegate == LOWBIT or artifact.delegates or artifact.operators:
        return "any CPU of the runner's: its kernels choose the instruction set"
    return "not recorded"


def shared(artifact: Artifact) -> bool:
    """Tell whether embedding and output layer are one stored table."""
    return any({"table", "output"} <= set(tensor.names) for tensor in artifact.weights)


def formats(artifact: Artifact) -> dict[str, str]:
    """Return folded names of the packed weights, and each one's format and shape."""
    groups: dict[tuple[str, str], list[str]] = {}
    for tensor in artifact.packed():
        name = " = ".join(sorted(tensor.names, reverse=True))
        said = f"{tensor.packed.text()}, [{tensor.packed.rows}, {tensor.packed.columns}]"
        kind = re.sub(r"\d+", "*", name)
        groups.setdefault((kind, said), []).append(name)
    return {", ".join(fold(names)): said for (_, said), names in groups.items()}


def _token_sources(artifact: Artifact) -> object:
    """Return what named the tokens that begin and end; None in older artifacts."""
    try:
        return json.loads(artifact.metadata.get(TOKEN_SOURCES_KEY, "null"))
    except ValueError:
        return None


def fold(names: list[str]) -> list[str]:
    """Fold `layers.0.wo`, `layers.1.wo`, `layers.4.wo` to `layers.0-1,4.wo`."""
    numbers: dict[tuple[str, str], list[int]] = {}
    for name in names:
        before, digits, after = re.fullmatch(r"(\D*)(\d*)(.*)", name).groups()
        numbers.setdefault((before, after), []).extend([int(digits)] if digits else [])
    return [before + _ranges(found) + after for (before, after), found in numbers.items()]


def _ranges(numbers: list[int]) -> str:
    runs: list[list[int]] = []
    for n in sorted(numbers):
        if runs and n == runs[-1][1] + 1:
            runs[-1][1] = n
        else:
            runs.append([n, n])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def _times(calls: int) -> str:
    return "call" if calls == 1 else "calls"


def _is_shared(part: str, artifact: Artifact) -> bool:
    return part == "embedding" and shared(artifact)


def _memory(memory: Memory) -> str:
    unknown = "not known"
    cache = unknown if memory.cache is None else _mb(memory.cache)
    activations = unknown if memory.activations is None else _mb(memory.activations)
    positions = f"{memory.context} positions"
    if memory.sessions > 1:
        positions = f"{memory.sessions} sessions of {positions}"
    return (
        f"{_mb(memory.total)} at {positions}: file {_mb(memory.file)}, cache {cache}"
        f", activations {activations}, runner {_mb(memory.runner)}"
    )


def _cache(artifact: Artifact) -> str:
    """Say what a choice at the start costs: bytes of a position and session, for each type of cache."""
    if artifact.delegate != LOWBIT:
        return f"in the graph: {artifact.cache_dtype or 'of a type not known'}, one session"
    costs = {dtype: position_bytes(artifact, dtype) for dtype in CACHE_TYPES}
    if None in costs.values():
        return "not known"
    said = ", ".join(f"{dtype} {size / 1e3:.1f}" for dtype, size in costs.items())
    default, longest = artifact.cache_dtype, artifact.metadata.get("longest_context", "?")
    return (
        f"KB a position and session: {said}; --cache-dtype chooses ({default} if not), "
        f"--max-seq-length up to {longest}"
    )


def _short(key: str, value: str) -> str:
    if key in (STATE_KEY, "chat"):
        return value if len(value) <= 200 else "(--json has it)"
    if key not in _LISTED_ELSEWHERE:
        return value.replace("\n", "\\n")
    try:
        names = json.loads(value)
    except ValueError:
        return value
    return f"{len(names)} (--json lists them)" if len(value) > 200 else value


def _compared(artifact: Artifact, memory: Memory) -> dict:
    said = facts(artifact, memory)
    for key in ("file", "tensors", "unknown"):
        del said[key]
    for key in _LISTED_ELSEWHERE:
        said["metadata"].pop(key, None)
    said["tokenizer"].pop("sha256")
    for key in ("quantization", "chat", "sampling", STATE_KEY):
        try:
            said["metadata"][key] = json.loads(said["metadata"].get(key, "null"))
        except ValueError:
            pass
    return said


def _flat(value: object, path: str = "") -> dict[str, object]:
    if not isinstance(value, dict):
        return {path: value}
    return {key: found for name, part in value.items()
            for key, found in _flat(part, f"{path}.{name}" if path else name).items()}  # fmt: skip


def _same_bytes(a: Artifact, b: Artifact) -> Iterator[tuple[str, bool]]:
    """Yield each tensor that both artifacts have in one format, and whether its bytes are equal."""
    theirs: dict[str, StoredTensor] = {name: t for t in b.weights for name in t.names}
    for tensor in a.weights:
        other = theirs.get(tensor.name)
        alike = other is not None and (other.dtype, other.shape) == (tensor.dtype, tensor.shape)
        if alike and tensor.packed == other.packed:
            yield tensor.name, np.array_equal(*(np.frombuffer(t.data, np.uint8)
                                                for t in (tensor, other)))  # fmt: skip


def _mb(size: int) -> str:
    return f"{size / 1e6:,.2f} MB" if size < 1e9 else f"{size / 1e9:,.3f} GB"


