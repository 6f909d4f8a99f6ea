"""Read a `.pte` as `contents.Artifact`. Its constants carry the names that the program has for them."""

from collections import Counter
from pathlib import Path

from exporter.artifact.contents import (
    CODE_PART,
    DELEGATES_PART,
    EMBEDDING_PART,
    LINEAR_PART,
    METADATA_PART,
    PTE,
    TOKENIZER_PART,
    UNNAMED,
    Artifact,
    Damaged,
    StoredTensor,
    all_names,
    canonical,
    stored,
    summed,
    whole_number,
)
from exporter.artifact.metadata import TOKENIZER_KEY
from exporter.artifact.pte_program import Plan, PlanTensor, PteProgram

_LOWBIT_LINEAR = ("lowbit::linear_a8wx.out", "lowbit::linear_wx.out", "lowbit::linear_fp.out")
# Of stock kernels: operator -> which argument is a weight.
_STOCK = {
    "aten::linear.out": (1, LINEAR_PART), "aten::addmm.out": (2, LINEAR_PART),
    "aten::mm.out": (1, LINEAR_PART),
    "aten::embedding.out": (0, EMBEDDING_PART),
    "quantized_decomposed::embedding_byte.out": (0, EMBEDDING_PART),
    "quantized_decomposed::embedding_4bit.out": (0, EMBEDDING_PART),
}  # fmt: skip


def read_pte(path: Path, data: memoryview) -> Artifact:
    """Read the `.pte` at `path`, whose bytes are `data`. Raises Damaged."""
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
    weights = _weights(forward, constants, lowbit)
    parts = Counter({TOKENIZER_PART: len(tokenizer), METADATA_PART: _strings(metadata)})
    if lowbit:
        for tensor in weights:
            parts[tensor.part()] += len(tensor.data)
    else:
        parts.update(_stock_parts(forward, calls, constants, whole_number(metadata, "head_dim")))
    parts[DELEGATES_PART] = _delegate_bytes(program)
    parts[CODE_PART] = max(0, program.size - _strings(metadata))
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
        cache_dtype=metadata.get("cache_dtype") or metadata.get("dtype"),
        planned_bytes=sum(forward.planned_bytes()),
        unknown=() if lowbit else _not_ours(bool(parts[DELEGATES_PART])),
    )


def _plain(name: str) -> str:
    """Name an operator as AOTInductor's artifacts do: our own without their overload, which is always the
    same."""
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
        """Return a view of the constant and its offset in the file."""
        if tensor.constant >= len(self._offsets):
            raise Damaged(f"it has {len(self._offsets)} constants where number {tensor.constant} is wanted")
        offset = self._offsets[tensor.constant]
        if offset + tensor.bytes > self._size:
            raise Damaged("a constant lies outside its segment")
        start = self._start + offset
        return self._data[start : start + tensor.bytes], start


def _weights(forward: Plan, constants: _Constants, lowbit: bool) -> tuple[StoredTensor, ...]:
    """Return the constants that `forward` uses, a stored one once, in the program's order; those of our
    operators under canonical names."""
    merged: dict[int, tuple[PlanTensor, list[str]]] = {}
    for index in range(forward.value_count()):
        tensor = forward.tensor(index)
        if tensor is not None and tensor.constant:
            known = merged.setdefault(tensor.constant, (tensor, []))[1]
            if lowbit and tensor.name and canonical(tensor.name) not in known:
                known.append(canonical(tensor.name))
    all_known = {name for _, names in merged.values() for name in names}
    result = []
    for constant, (tensor, found) in merged.items():
        data, offset = constants.bytes_of(tensor)
        names = all_names(found[0], all_known) if len(found) == 1 else tuple(sorted(found))
        result.append(stored(names or (f"{UNNAMED}{constant}",), tensor.dtype, tensor.shape, data, offset))
    return tuple(result)


def _stock_parts(
    forward: Plan, calls: list, constants: _Constants, head_dim: int | None
) -> Counter:
    """Count the bytes of the constants by part, as far as the operators that take them tell."""
    kinds: dict[int, str] = {}
    for call in calls:
        place, part = _STOCK.get(call.name, (None, ""))
        if place is None:
            continue
        tensor = forward.tensor(call.arguments[place])
        rotary = tensor is not None and tensor.shape == (head_dim, head_dim)
        if tensor is not None and tensor.constant and not rotary:
            kinds[tensor.constant] = part
            scales = forward.tensor(call.arguments[1]) if part == EMBEDDING_PART else None
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
    """Count the bytes of the delegates' segments: all but the constants'."""
    constants, _ = program.constant_offsets()
    return sum(size for i, (_, size) in enumerate(program.segments()) if i != constants)


def _strings(metadata: dict[str, str]) -> int:
    return sum(len(key.encode()) + len(text.encode()) for key, text in metadata.items())
