"""A `.pte` as `contents.Artifact`.

The program carries no names: a weight is named by the place at which `forward` uses it.
"""

from collections import Counter
from pathlib import Path

from exporter.artifact.contents import (
    CODE,
    DELEGATES,
    EMBEDDING,
    LINEAR,
    METADATA,
    PTE,
    TOKENIZER,
    Artifact,
    Damaged,
    StoredTensor,
    layer_name,
    number,
    stored,
    summed,
)
from exporter.artifact.metadata import TOKENIZER_KEY
from exporter.artifact.pte_program import Plan, PlanTensor, PteProgram

_LOWBIT_LINEAR = ("lowbit::linear_a8wx.out", "lowbit::linear_wx.out", "lowbit::linear_fp.out")
# Of stock kernels: operator -> which argument is a weight.
_STOCK = {
    "aten::linear.out": (1, LINEAR), "aten::addmm.out": (2, LINEAR), "aten::mm.out": (1, LINEAR),
    "aten::embedding.out": (0, EMBEDDING),
    "quantized_decomposed::embedding_byte.out": (0, EMBEDDING),
    "quantized_decomposed::embedding_4bit.out": (0, EMBEDDING),
}  # fmt: skip


def read_pte(path: Path, data: memoryview) -> Artifact:
    """Raises Damaged."""
    program = PteProgram(data)
    metadata, forward, table = {}, None, None
    for plan in program.plans():
        if plan.name == "forward":
            forward = plan
        elif plan.name == TOKENIZER_KEY:
            table = plan.constant_tensor()
        elif (text := plan.constant_string()) is not None:
            metadata[plan.name] = text
    constants = _Constants(program, data)
    tokenizer = bytes(constants.bytes_of(table)[0]) if table is not None else b""
    if forward is None:
        raise Damaged("it has no method 'forward'")
    calls = list(forward.calls())
    lowbit = any(call.name in _LOWBIT_LINEAR for call in calls)
    names = _lowbit_names(forward, calls, metadata) if lowbit else {}
    weights = _weights(forward, constants, names)
    parts = Counter({TOKENIZER: len(tokenizer), METADATA: _strings(metadata)})
    if lowbit:
        for tensor in weights:
            parts[tensor.part()] += len(tensor.data)
    else:
        parts.update(_stock_parts(forward, calls, constants, number(metadata, "head_dim")))
    parts[DELEGATES] = _delegate_bytes(program)
    parts[CODE] = max(0, program.size - _strings(metadata))
    attention = next((call for call in calls if call.name == "lowbit::attention.out"), None)
    cache = forward.tensor(attention.arguments[3]) if attention else None
    linear = [call for call in calls if call.name == "lowbit::linear_a8wx.out"]
    return Artifact(
        path=path,
        kind=PTE,
        size=len(data),
        metadata=metadata,
        tokenizer=tokenizer,
        sizes=summed(len(data), parts),
        weights=weights,
        operators=dict(Counter(_plain(c.name) for c in calls if not c.delegate).most_common()),
        delegates=dict(Counter(c.name for c in calls if c.delegate).most_common()),
        targets=(),
        token_scales=bool(linear) and forward.boolean(linear[0].arguments[4]),
        cache_shape=cache.shape if cache else None,
        cache_dtype=cache.dtype if cache else metadata.get("dtype"),
        planned_bytes=sum(forward.planned_bytes()),
        unknown=() if lowbit else _not_ours(bool(parts[DELEGATES])),
    )


def _plain(name: str) -> str:
    """Ours as AOTInductor's artifacts have them; an overload tells nothing there."""
    return name.removesuffix(".out") if name.startswith("lowbit::") else name


def _not_ours(delegated: bool) -> tuple[str, ...]:
    inside = "the delegate's data, whose layout is its own" if delegated else "other kernels'"
    return (
        f"names and formats of the weights: they are {inside}",
        "bits a weight",
    )


class _Constants:
    def __init__(self, program: PteProgram, data: memoryview):
        self._data = data
        index, offsets = program.constant_offsets()
        segments = program.segments()
        if index >= len(segments):
            raise Damaged("its constants are in no segment")
        self._start, self._size = segments[index] if index >= 0 else (0, 0)
        self._offsets = offsets
        if self._start + self._size > len(data):
            raise Damaged("it ends before its constants do")

    def bytes_of(self, tensor: PlanTensor) -> tuple[memoryview, int]:
        """A view of the constant and its offset in the file."""
        if tensor.constant >= len(self._offsets):
            raise Damaged(f"it has {len(self._offsets)} constants where number {tensor.constant} is wanted")
        offset = self._offsets[tensor.constant]
        if offset + tensor.bytes > self._size:
            raise Damaged("a constant lies outside its segment")
        start = self._start + offset
        return self._data[start : start + tensor.bytes], start


def _lowbit_names(forward: Plan, calls: list, metadata: dict[str, str]) -> dict[int, list[str]]:
    """Canonical names by value. Raises Damaged when the program is not a decoder of ours."""
    layers = number(metadata, "n_layers") or 0
    linear = sum(call.name in _LOWBIT_LINEAR for call in calls)
    if linear not in (4 * layers + 1, 4 * layers + 2):  # a matrix before a tied output is one more
        raise Damaged(f"its program has {linear} linear layers where {layers} blocks need "
                      f"{4 * layers + 1}")  # fmt: skip
    norms = (f"layers.{i // 2}.{('attention_norm', 'ffn_norm')[i % 2]}" for i in range(2 * layers))
    names: dict[int, list[str]] = {}

    def add(index: int, name: str) -> None:
        known = names.setdefault(index, [])
        if name not in known:
            known.append(name)

    done = 0
    for call in calls:
        arguments = call.arguments
        if call.name in _LOWBIT_LINEAR:
            done += 1
            name = "output" if done == linear else layer_name(done - 1, layers)
            add(arguments[1], name)
            bias = forward.tensor(arguments[2])
            if bias is not None:
                add(arguments[2], f"{name}.bias")
        elif call.name == "lowbit::embedding.out":
            add(arguments[0], "table")
        elif call.name == "lowbit::rms_norm.out":
            add(arguments[1], next(norms, "norm"))
        elif call.name == "lowbit::attention.out":
            add(arguments[1], "rope_cos")
            add(arguments[2], "rope_sin")
    return names


def _weights(
    forward: Plan, constants: _Constants, names: dict[int, list[str]]
) -> tuple[StoredTensor, ...]:
    """The constants that `forward` uses, a stored one once, in the program's order."""
    merged: dict[int, tuple[PlanTensor, list[str]]] = {}
    for index in [*names, *(i for i in range(forward.value_count()) if i not in names)]:
        tensor = forward.tensor(index)
        if tensor is None or not tensor.constant:
            continue
        given = names.get(index) or []
        known = merged.setdefault(tensor.constant, (tensor, []))[1]
        known += [name for name in given if name not in known]
    result = []
    for constant, (tensor, found) in merged.items():
        data, offset = constants.bytes_of(tensor)
        ordered = tuple(sorted(found)) or (f"constant {constant}",)
        result.append(stored(ordered, tensor.dtype, tensor.shape, data, offset))
    return tuple(result)


def _stock_parts(
    forward: Plan, calls: list, constants: _Constants, head_dim: int | None
) -> Counter:
    """Bytes of the constants by part, as far as the operators that take them tell."""
    kinds: dict[int, str] = {}
    for call in calls:
        place, part = _STOCK.get(call.name, (None, ""))
        if place is None:
            continue
        tensor = forward.tensor(call.arguments[place])
        rotary = tensor is not None and tensor.shape == (head_dim, head_dim)
        if tensor is not None and tensor.constant and not rotary:
            kinds[tensor.constant] = part
            scales = forward.tensor(call.arguments[1]) if part == EMBEDDING else None
            if scales is not None and scales.constant:
                kinds[scales.constant] = part
    parts, seen = Counter(), set()
    for index in range(forward.value_count()):
        tensor = forward.tensor(index)
        if tensor is not None and tensor.constant and tensor.constant not in seen:
            seen.add(tensor.constant)
            parts[kinds.get(tensor.constant, "other constants")] += len(
                constants.bytes_of(tensor)[0]
            )
    return parts


def _delegate_bytes(program: PteProgram) -> int:
    """Of the segments that are delegates' own: all but the constants'."""
    constants, _ = program.constant_offsets()
    return sum(size for i, (_, size) in enumerate(program.segments()) if i != constants)


def _strings(metadata: dict[str, str]) -> int:
    return sum(len(key.encode()) + len(text.encode()) for key, text in metadata.items())
