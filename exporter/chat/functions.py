"""What the runner's evaluator knows of Jinja's filters, tests and Python's methods, and their arguments.

The runner takes arguments by position and all of them (`runner/text/template_filters.cpp`,
`template_methods.cpp`): what a template leaves out has the default that stands here.
"""

from dataclasses import dataclass

REQUIRED = object()


@dataclass(frozen=True)
class Function:
    """A filter, test or method: what the runner calls it, and its parameters with their defaults.

    A parameter that is in `only` may have no other values than those there: the runner lacks it.
    """

    name: str
    parameters: tuple[tuple[str, object], ...] = ()
    only: tuple[tuple[str, tuple[object, ...]], ...] = ()
    variadic: bool = False


def _function(name: str, only: dict[str, tuple[object, ...]] | None = None, **parameters: object) -> Function:
    return Function(name, tuple(parameters.items()), tuple((only or {}).items()))


_FILTERS = (
    _function("abs"),
    _function("capitalize"),
    _function("default", default_value="", boolean=False),
    _function("dictsort", case_sensitive=False, by="key", reverse=False),
    _function("first"),
    _function("float", default=0.0),
    _function("indent", width=4, first=False, blank=False),
    _function("int", {"base": (10,)}, default=0, base=10),
    _function("items"),
    _function("join", d="", attribute=None),
    _function("last"),
    _function("length"),
    _function("list"),
    _function("lower"),
    _function("max", case_sensitive=False, attribute=None),
    _function("min", case_sensitive=False, attribute=None),
    _function("replace", old=REQUIRED, new=REQUIRED, count=None),
    _function("reverse"),
    _function("sort", reverse=False, case_sensitive=False, attribute=None),
    _function("string"),
    # transformers' own, not Jinja's
    _function("tojson", ensure_ascii=False, indent=None, separators=None, sort_keys=False),
    _function("trim", chars=None),
    _function("unique", case_sensitive=False, attribute=None),
    _function("upper"),
)
FILTERS = {function.name: function for function in _FILTERS}
FILTERS |= {"count": FILTERS["length"], "d": FILTERS["default"], "safe": FILTERS["string"]}
MAP_ATTRIBUTE = _function("map_attribute", attribute=REQUIRED, default=None)

_OTHER = {"other": REQUIRED}
_TESTS = (
    *(_function(name) for name in (
        "boolean", "callable", "defined", "even", "false", "float", "integer", "iterable", "mapping", "none",
        "number", "odd", "sequence", "string", "true", "undefined",
    )),
    _function("divisibleby", num=REQUIRED),
    *(_function(name, **_OTHER) for name in ("eq", "ge", "gt", "le", "lt", "ne")),
    _function("in", seq=REQUIRED),
)  # fmt: skip
TESTS = {function.name: function for function in _TESTS}
_SAME_TESTS = {
    "eq": ("==", "equalto"), "ne": ("!=",), "lt": ("<", "lessthan"), "le": ("<=",),
    "gt": (">", "greaterthan"), "ge": (">=",),
}  # fmt: skip
TESTS |= {other: TESTS[name] for name, others in _SAME_TESTS.items() for other in others}
TRUTH = Function("truth")

_METHODS = (
    *(_function(name) for name in ("capitalize", "items", "keys", "lower", "title", "upper", "values")),
    *(_function(name, sub=REQUIRED) for name in (
        "count", "endswith", "find", "partition", "removeprefix", "removesuffix", "rfind", "rpartition",
        "startswith",
    )),
    Function("format", variadic=True),
    _function("get", key=REQUIRED, default=None),
    _function("join", iterable=REQUIRED),
    *(_function(name, chars=None) for name in ("strip", "lstrip", "rstrip")),
    _function("replace", old=REQUIRED, new=REQUIRED, count=-1),
    *(_function(name, sep=None, maxsplit=-1) for name in ("split", "rsplit")),
    _function("splitlines", keepends=False),
)  # fmt: skip
METHODS = {function.name: function for function in _METHODS}
# What Jinja's sandbox refuses when it is called, as it changes its value.
FORBIDDEN_METHODS = {
    "append", "clear", "extend", "insert", "pop", "popitem", "remove", "reverse", "setdefault", "sort",
    "update",
}  # fmt: skip
