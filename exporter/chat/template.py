"""Chat templates rendered as transformers does, with a word about names that nothing defines.

Source: transformers 5.23, utils/chat_template_utils.py and PreTrainedTokenizerBase.special_tokens_map.
"""

import datetime
import json
from collections.abc import Callable, Mapping, Sequence, Set
from typing import NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.runtime import missing
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

# PreTrainedTokenizerBase.SPECIAL_TOKENS_ATTRIBUTES
_NAMED_TOKENS = {f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask")}


class UndefinedName(jinja2.TemplateError):
    """A template prints a name that nothing defines."""


class Template:
    """A parsed chat template and what it may use.

    `tokens` are the named special tokens, `{"bos_token": "<s>", ...}`; `today` is the day that it is told.
    Raises jinja2.TemplateError for a syntax error.
    """

    def __init__(self, source: str, tokens: Mapping[str, str], today: datetime.date | None = None):
        def strftime_now(format: str) -> str:
            now = datetime.datetime.now()
            return (datetime.datetime.combine(today, datetime.time()) if today else now).strftime(format)

        names: set[str] = set()  # that the template sets itself
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True,
            undefined=type("Undefined", (_NamedUndefined,), {"known": names}),
            extensions=[_GenerationBlocks, "jinja2.ext.loopcontrols"],
        )  # fmt: skip
        environment.filters["tojson"] = _tojson
        environment.globals |= {
            "raise_exception": _raise_exception,
            "strftime_now": strftime_now,
            "namespace": _Namespace,
        }
        self.tree = environment.parse(source)
        names |= {name.name for name in self.tree.find_all(nodes.Name) if name.ctx != "load"}
        self._compiled = environment.from_string(environment.parse(source))
        self._tokens = dict(tokens)

    def render(
        self, messages: Sequence[Mapping[str, object]], generation_prompt: bool = True, **variables: object
    ) -> str:
        """Return the text of a conversation of objects with a role; `variables` are what else is given, such
        as tools or enable_thinking.

        Raises UndefinedName, jinja2.TemplateError where the template refuses it,
        and whatever its expressions raise.
        """
        given = {
            "messages": messages, "tools": None, "documents": None,
            "add_generation_prompt": generation_prompt, **self._tokens,
        }  # fmt: skip
        return self._compiled.render(given | variables)


class _NamedUndefined(jinja2.Undefined):
    """A name that nothing defines: it may be asked for, compared and replaced, but not printed.

    transformers prints nothing for it. So do here the special tokens that every tokenizer may have, where
    it names none, names that the template sets somewhere, and fields of messages and of namespaces: a
    template asks for many that only some conversations have.
    """

    known: Set[str] = frozenset()

    def __str__(self) -> str:
        if self._undefined_obj is not missing:
            return ""
        name = str(self._undefined_name)
        if name in _NAMED_TOKENS or name in self.known:
            return ""
        remedy = "name it in tokenizer_config.json" if name.endswith("_token") else "set it in the template"
        raise UndefinedName(f"the chat template prints '{name}', which is not defined: {remedy}")


class _GenerationBlocks(Extension):
    """`{% generation %}...{% endgeneration %}`, which marks what a model learns to write: its body."""

    tags = {"generation"}

    def parse(self, parser: jinja2.parser.Parser) -> nodes.Node:
        lineno = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(lineno)

    def _body(self, caller: Callable[[], str]) -> str:
        return caller()


class _Namespace(Namespace):
    """A namespace without attributes that begin with an underscore."""

    def __init__(*args, **kwargs):
        for name in dict(*args[1:], **kwargs):
            _check_attribute(name)
        Namespace.__init__(*args, **kwargs)

    def __setitem__(self, name: str, value: object) -> None:
        _check_attribute(name)
        super().__setitem__(name, value)


def _check_attribute(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace cannot hold {name!r}")


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
