"""Conversations made of a chat template itself, to reach every branch of it.

Some are written here: roles, tools, calls, thoughts, documents, contents of several parts. The others are
changes of those that reached something new: values that the template compares with, fields that it asks for.
"""

import copy
import random
from collections.abc import Iterator
from dataclasses import dataclass

from jinja2 import nodes

from exporter.chat.tree import INPUTS

Variables = dict[str, object]

_THOUGHT = "<think>\nLet me see.\n</think>\n\nIt is 7."
_CONTENTS = (
    "Hi!", "", " ", "  Hello, there. \n", "\n\nx\n\n", "one\ntwo", "5 < 6 && \"it's\"", "[1, 2]", '{"a": 1}',
    "中文 é", _THOUGHT, "<think>", "</think>", "a</think>b</think>c", "\n<think>\n\n</think>\n\nb",
    "/no_think",
    "x /think", "y" * 300,
)  # fmt: skip
_SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "description": "Where <it> is.\nAnd when"},
        "unit": {"type": "string", "enum": ["c", "f"], "default": "c"},
        "days": {"type": "integer", "minimum": 1, "nullable": True},
        "exact": {"type": ["boolean", "null"]},
        "tags": {"type": "array", "items": {"type": "string", "enum": ["x"]}, "description": "All"},
        "all": {"type": "array", "items": {"type": ["string", "number"]}},
        "deep": {"type": "object", "properties": {"a": {"type": "number", "format": "f"}}, "required": ["a"],
                 "additionalProperties": {"type": "string"}},
        "any": {"anyOf": [{"type": "string"}, {"type": "integer"}], "title": "Any"},
        "one": {"oneOf": [{"type": "string", "default": "s", "description": "d"}, {"type": "object"}]},
        "ref": {"$ref": "#/x"}, "none": {},
    },
    "required": ["city"],
}  # fmt: skip
_FUNCTION = {"name": "get_weather", "description": "Tell the weather.\nOf a day", "parameters": _SCHEMA}
_SHORT_FUNCTION = {"name": "stop", "description": "Stop", "parameters": {"type": "object", "properties": {}},
                   "return": {"type": "string"}, "response": {"type": "object"}, "strict": True}  # fmt: skip
_WIDE_FUNCTION = {
    "name": "look_up", "description": "Look up", "parameters": {
        "type": "object",
        "properties": {
            "numbers": {"type": "array", "items": {"type": "number"}},
            "wholes": {"type": "array", "items": {"type": "integer"}, "nullable": True},
            "flags": {"type": "array", "items": {"type": "boolean"}},
            "rows": {"type": "array", "items": {"type": "object", "properties": {"a": {"type": "string"}}}},
            "either": {"type": "array", "items": {"oneOf": [{"type": "object"}, {"type": "object"}]}},
            "long": {"type": "array", "items": {"type": "x" * 60}}, "bare": {"type": "array"},
            "name": {"type": "string", "nullable": True, "default": "n", "format": "date"},
            "same": {"oneOf": [{"type": "object", "description": "A"}, {"type": "object"}], "default": 1},
            "other": {"type": "boolean", "default": False}, "kind": {"type": {"x": 1}},
            "pair": {"type": ["string"]}, "size": {"type": "number", "nullable": True, "maximum": 3},
            "map": {"type": "object"}, "inner": {"type": "object", "properties": {
                "b": {"type": "boolean"},
                "c": {"type": "array", "items": {"type": "string", "enum": ["x"]}}}},
        },
    },
}  # fmt: skip
_TOOLS = (
    [{"type": "function", "function": _FUNCTION}],
    [{"type": "function", "function": _FUNCTION}, {"type": "function", "function": _SHORT_FUNCTION}],
    [{**_FUNCTION, "type": "function"}], [_SHORT_FUNCTION], [{"type": "code_interpreter"}], [],
    [{"type": "function", "function": _WIDE_FUNCTION}, {"type": "function", "function": _FUNCTION}],
    [{"type": "function", "function": {"name": "now", "description": "", "parameters": None}}],
)  # fmt: skip
_ARGUMENTS = (
    {"city": "Rome", "days": 2, "exact": True, "tags": ["a"], "none": None, "x": 1.5}, {}, '{"city": "Rome"}',
    {"deep": {"a": [1, {"b": "c"}]}},
)  # fmt: skip
_DOCUMENTS = (
    [
        {"title": "T", "text": "One\ntwo", "contents": "One"},
        {"doc_id": 1, "data": {"text": "x"}, "content": "c"},
    ],
    [],
)
_PARTS = (
    [{"type": "text", "text": "Hi"}],
    [{"type": "text", "text": "Look:"}, {"type": "image"}, {"type": "image_url", "image_url": {"url": "u"}}],
    [{"type": "thinking", "thinking": "so"}, {"type": "text", "text": "7", "content": "7"}],
    [{"type": "audio"}, {"type": "video", "video": "v"}, {"type": "other"}, {"text": "t"}, "plain"],
    [],
)  # fmt: skip
_VALUES = (None, True, False, 0, 1, 2, -1, 3.5, "", "x", [], {}, ["x"], [None], {"type": "text", "text": "x"})
_NAMING = (nodes.Getattr, nodes.Getitem, nodes.Name)
_MOST_KEPT = 400


@dataclass(frozen=True)
class Words:
    """What a template asks for: texts that it compares with or looks for, fields, values of each variable."""

    texts: tuple[str, ...]
    fields: tuple[str, ...]
    roles: tuple[str, ...]
    efforts: tuple[str, ...]


def words_of(tree: nodes.Template) -> Words:
    """Collect the words of a parsed template."""
    fields, texts, roles, efforts = set(), set(), {"system", "user", "assistant", "tool", "developer"}, set()
    for node in tree.find_all((nodes.Getattr, nodes.Getitem)):
        name = node.attr if isinstance(node, nodes.Getattr) else getattr(node.arg, "value", None)
        if isinstance(name, str):
            fields.add(name)
    written = {id(part) for node in tree.find_all((nodes.Output, nodes.Add, nodes.Concat))
               for part in node.iter_child_nodes()}  # fmt: skip
    for node in tree.find_all(nodes.Compare):
        sides = [node.expr, *(operand.expr for operand in node.ops)]
        constants = [const.value for side in sides for const in _constants(side)]
        names = {_name(part) for side in sides for part in [side, *side.find_all(_NAMING)]}
        if names & {"role", "from", "author"}:
            roles.update(constants)
        if "reasoning_effort" in names:
            efforts.update(constants)
    for node in tree.find_all(nodes.Const):
        values = node.value if isinstance(node.value, tuple | list) else (node.value,)
        found = {value for value in values if isinstance(value, str) and value and len(value) < 200}
        if id(node) not in written:
            texts |= found
    fields |= {text for text in texts if text.isidentifier()}
    ordered = (tuple(sorted(words)) for words in (texts, fields - set(INPUTS), roles, efforts))
    return Words(*ordered)


def _name(node: nodes.Node) -> object:
    """The last name of an expression such as message.role or message['role']."""
    match node:
        case nodes.Getattr():
            return node.attr
        case nodes.Getitem(arg=nodes.Const() as key):
            return key.value
    return node.name if isinstance(node, nodes.Name) else None


def _constants(node: nodes.Node) -> Iterator[nodes.Const]:
    if isinstance(node, nodes.Const):
        yield from [node] if isinstance(node.value, str) else []
    else:
        yield from (const for const in node.find_all(nodes.Const) if isinstance(const.value, str))


class Scenarios:
    """Makes conversations, one after the other, from those that were kept."""

    def __init__(self, words: Words, seed: int = 0):
        self._words = words
        self._random = random.Random(seed)
        self._kept: list[Variables] = []

    def keep(self, variables: Variables) -> None:
        """Go on from this one: it reached something new."""
        if len(self._kept) < _MOST_KEPT:
            self._kept.append(variables)

    def written(self) -> Iterator[Variables]:
        """The conversations to begin with."""
        user, answer = {"role": "user", "content": "Hi!"}, {"role": "assistant", "content": "Hello."}
        system = {"role": "system", "content": "Be brief."}
        call = {"role": "assistant", "content": "", "tool_calls": [self._call(_FUNCTION, _ARGUMENTS[0])]}
        result = {"role": "tool", "content": "5 °C", "name": "get_weather", "tool_call_id": "abcdefghi"}
        thought = {"role": "assistant", "content": _THOUGHT}
        reasoned = {"role": "assistant", "content": "It is 7.", "reasoning_content": "Let me see.",
                    "reasoning": "Let me see.", "thinking": "Let me see."}  # fmt: skip
        lists = (
            [user], [system, user], [user, answer, user], [system, user, answer, user, answer, user],
            [user, answer], [system, user, thought, user], [user, reasoned, user], [user, thought],
            [user, reasoned],
            [system, user, call, result], [user, call, result, answer, user],
            [user, {**call, "content": "I see."}, result, result, answer, user],
            [user, {**call, "content": None}, result],
            [user, {**reasoned, "tool_calls": call["tool_calls"] * 2}, result, result],
            [{**system, "role": "developer"}, user], [user, user], [answer], [system],
        )  # fmt: skip
        for messages in lists:
            yield {"messages": messages}
            for tools in _TOOLS[:2]:
                yield {"messages": messages, "tools": tools}
            for thinking in (True, False):
                yield {"messages": messages, "enable_thinking": thinking, "thinking": thinking}
            yield {"messages": messages, "add_generation_prompt": False}
        for parts in _PARTS:
            yield {
                "messages": [
                    {"role": "user", "content": parts},
                    {"role": "assistant", "content": parts},
                    user,
                ]
            }
        for role in self._words.roles:
            for content in _CONTENTS:
                message = {"role": role, "content": content}
                yield {"messages": [user, message, user]}
                yield {"messages": [message, user, answer, message]}
        for tools in _TOOLS:
            yield {"messages": [system, user], "tools": tools}
            yield {"messages": [user, answer, user], "tools": tools}
        for documents in _DOCUMENTS:
            yield {"messages": [system, user], "documents": documents}
            yield {"messages": [user], "documents": documents, "tools": _TOOLS[0]}
        for effort in ("low", "high", *self._words.efforts):
            yield {"messages": [user], "reasoning_effort": effort, "enable_thinking": True}
        for text in self._words.texts:
            for content in (text, f"a{text}b", f"{text}\nb", f"a\n{text}", f"{text}a{text}"):
                yield {"messages": [system, {"role": "user", "content": content},
                                    {"role": "assistant", "content": content}, user]}  # fmt: skip

    def changed(self) -> Variables:
        """One of those that were kept, with up to four changes."""
        variables = copy.deepcopy(self._random.choice(self._kept))
        for _ in range(self._random.randint(1, 4)):
            self._change(variables)
        return variables

    def _call(self, function: dict, arguments: object) -> dict:
        called = {"name": function["name"], "arguments": arguments}
        return {"id": "abcdefghi", "type": "function", "function": called}

    def _change(self, variables: Variables) -> None:
        rng = self._random
        choice = rng.random()
        if choice < 0.15:
            self._change_variable(variables)
            return
        messages = variables["messages"]
        if choice < 0.4 or not messages:
            at = rng.randint(0, len(messages))
            messages.insert(at, self._message())
            return
        if choice < 0.5 and len(messages) > 1:
            messages.pop(rng.randrange(len(messages)))
            return
        root = variables["tools"] if variables.get("tools") and choice > 0.7 else messages
        self._change_within(root)

    def _change_variable(self, variables: Variables) -> None:
        name = self._random.choice(INPUTS[1:])
        values = {
            "tools": _TOOLS, "documents": _DOCUMENTS,
            "reasoning_effort": (*self._words.efforts, "high", "low"),
        }.get(name, (True, False))  # fmt: skip
        if self._random.random() < 0.2:
            variables.pop(name, None)
        else:
            variables[name] = copy.deepcopy(self._random.choice(values))

    def _message(self) -> dict:
        rng = self._random
        message: dict = {"role": rng.choice(self._words.roles), "content": self._content()}
        if message["role"] == "assistant" and rng.random() < 0.5:
            calls = [
                self._call(rng.choice((_FUNCTION, _SHORT_FUNCTION)), rng.choice(_ARGUMENTS))
                for _ in range(rng.randint(1, 2))
            ]
            message["tool_calls"] = [call["function"] if rng.random() < 0.2 else call for call in calls]
        if rng.random() < 0.3 and self._words.fields:
            message[rng.choice(self._words.fields)] = self._value()
        if message["role"] == "tool":
            message |= {"name": "get_weather", "tool_call_id": rng.choice(("abcdefghi", "call_1"))}
        return copy.deepcopy(message)

    def _content(self) -> object:
        rng = self._random
        choice = rng.random()
        if choice < 0.15:
            return rng.choice(_PARTS)
        if choice < 0.2:
            return None
        found = self._words.texts or _CONTENTS
        parts = [rng.choice(rng.choice((found, _CONTENTS))) for _ in range(rng.randint(1, 3))]
        return rng.choice(("", "\n", " ")).join(parts)

    def _value(self) -> object:
        choice = self._random.random()
        if choice < 0.3 and self._words.texts:
            return self._random.choice(self._words.texts)
        if choice < 0.5 and self._words.fields:
            return {self._random.choice(self._words.fields): self._random.choice(_VALUES)}
        return self._random.choice((*_VALUES, *_CONTENTS[:4]))

    def _change_within(self, value: object) -> None:
        """Change something in a list or an object, at any depth."""
        rng = self._random
        while True:
            keys = list(value) if isinstance(value, dict) else range(len(value))
            inner = [key for key in keys if isinstance(value[key], dict | list) and value[key]]
            if not inner or rng.random() < 0.3:
                break
            value = value[rng.choice(inner)]
        if isinstance(value, dict):
            if rng.random() < 0.25 and value:
                value.pop(rng.choice(list(value)))
            else:
                value[rng.choice([*value, *self._words.fields] or ["x"])] = copy.deepcopy(self._value())
        elif rng.random() < 0.3 and value:
            value.append(copy.deepcopy(rng.choice(value)))
        elif value:
            value[rng.randrange(len(value))] = copy.deepcopy(self._value())
