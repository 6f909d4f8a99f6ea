"""The operators `torch.ops.lowbit.*`: where their library is, and what tracing needs of them.

The library knows them from one table, `kernels/bindings/operators.txt`: schemas, implementations, and
sizes of results as text. What is derived here serves tracing and AOTInductor.
"""

import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import FunctionSchema, Tensor
from torch._ops import OpOverload

from exporter.util.errors import first_line
from exporter.util.native_files import check_version, native_folder, remedy

LIBRARY_VARIABLE = "LOWBIT_LIBRARY"
LIBRARY = native_folder() / "liblowbit_aten.so"

# A type of PyTorch's schemas in AOTInductor's C interface.
_C_TYPES = {
    "Tensor": "AtenTensorHandle",
    "Optional[Tensor]": "AtenTensorHandle*",
    "int": "int64_t",
    "float": "double",
    "bool": "int32_t",
}


def load() -> None:
    """Make `torch.ops.lowbit` available; further calls do nothing.

    Raises FileNotFoundError with the remedy when the library is not built.
    """
    if hasattr(torch.ops.lowbit, "linear_a8wx"):
        return
    path = Path(os.environ.get(LIBRARY_VARIABLE) or LIBRARY)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: the library of the lowbit operators is not there; {remedy()}, or name it with "
            f"{LIBRARY_VARIABLE}"
        )
    check_version("torch")
    # Global, so that packages compiled by AOTInductor find their operators when loaded here.
    try:
        ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        raise ValueError(
            f"{path} does not fit torch {torch.__version__} ({first_line(error)}); {remedy()}, with the "
            "torch that pyproject.toml names"
        ) from None
    _register_shapes()


@contextmanager
def errors_told() -> Iterator[None]:
    """Raise what operators of ours refuse, which PyTorch makes a RuntimeError with a trace, as a ValueError
    of their own line: a value and its remedy."""
    try:
        yield
    except RuntimeError as error:
        line = str(error).partition("\n")[0]
        if not line.startswith("lowbit::"):
            raise
        raise ValueError(line) from None


def table() -> dict[str, str]:
    """Each operator's name -> the size of its result, "ROWS, COLUMNS" in its arguments; empty before
    `load`."""
    if not hasattr(torch.ops.lowbit, "operators"):
        return {}
    return dict(line.split(" ", 1) for line in torch.ops.lowbit.operators())


def interface_version() -> int:
    """Return the version of the operators' arguments and meaning: a runner of another cannot run them."""
    load()
    return torch.ops.lowbit.interface_version()


def c_shims() -> dict[OpOverload, list[str]]:
    """`aot_inductor.custom_ops_to_c_shims` of every operator."""
    return {(op := _operator(name)): [_c_declaration(name, op._schema)] for name in table()}


def _operator(name: str) -> OpOverload:
    return getattr(torch.ops.lowbit, name).default


def _c_declaration(name: str, schema: FunctionSchema) -> str:
    arguments = ", ".join(f"{_C_TYPES[str(a.type)]} {a.name}" for a in schema.arguments)
    return f"AOTITorchError aoti_torch_cpu_{name}({arguments}, AtenTensorHandle* ret0)"


def _register_shapes() -> None:
    """The results' sizes, for tracing."""
    for name, size in table().items():
        torch.library.register_fake(f"lowbit::{name}")(_fake(_operator(name)._schema, size))


def _fake(schema: FunctionSchema, size: str) -> Callable[..., Tensor]:
    """A function of `schema` whose result is float32 of `size`, which may be symbolic."""
    names = [argument.name for argument in schema.arguments]
    expression = compile(f"({size.replace('/', '//')})", schema.name, "eval")

    def fake(*arguments, **keywords) -> Tensor:
        given = {**dict(zip(names, arguments, strict=False)), **keywords}
        tensors = {name: a for name, a in given.items() if isinstance(a, Tensor)}
        sizes = given | {name: tensor.shape for name, tensor in tensors.items()}
        result = eval(expression, {"__builtins__": {}}, sizes)
        return next(iter(tensors.values())).new_empty(result, dtype=torch.float32)

    return fake
