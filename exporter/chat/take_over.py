"""A model's chat template as an artifact holds it, compared with Jinja; or why a runner cannot use it.

The result is a JSON object (docs/artifact.md):

    tree       the nodes (`chat/tree.py`)
    inputs     what the template asks for beside what it sets itself: "tools", "enable_thinking", ...
    thoughts   the two marks around a thought in an answer; none where that is not known
    channels   where an answer is of messages with thoughts or without: what stands before each, "thought" and
               "answer"; absent for other models
    compared   on how many conversations the tree was compared with Jinja, by the runner's evaluator
    unreached  what none of these reached: "line 3: `x` never is true"

or only `reason`.
"""

import jinja2
from jinja2 import nodes

from exporter.chat import conformance
from exporter.chat.conformance import Differs
from exporter.chat.template import Template, UndefinedName
from exporter.chat.tree import INPUTS, NotKnown, make_tree
from exporter.tokenizer.tokenizer import Tokenizer

# The marks of thoughts that published models use.
_THOUGHTS = (
    ("<think>", "</think>"), ("[THINK]", "[/THINK]"), ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<seed:think>", "</seed:think>"), ("<|inner_prefix|>", "<|inner_suffix|>"),
)  # fmt: skip

# The same of models whose answers are messages in channels (gpt-oss's harmony format).
_CHANNELS = (
    {"thought": ["<|channel|>analysis<|message|>"],
     "answer": ["<|channel|>final<|message|>", "<|end|>", "<|start|>assistant"]},
)  # fmt: skip


def take_over_template(source: str | None, tokenizer: Tokenizer) -> dict:
    """Make the JSON object described above of a template and its tokenizer's named tokens."""
    if source is None:
        return {"reason": "the checkpoint has no chat template"}
    try:
        template = Template(source, tokenizer.named_tokens, conformance.DAY)
        tree = make_tree(template.tree, tokenizer.named_tokens)
        found = conformance.compare(template, tree)
    except (NotKnown, Differs, UndefinedName) as error:
        return {"reason": str(error)}
    except jinja2.TemplateError as error:
        return {"reason": " ".join(f"the chat template fails: {type(error).__name__}: {error}".split())}
    return {
        "tree": tree.nodes,
        "inputs": _inputs(template.tree),
        "thoughts": _thoughts(source, tokenizer),
        **_channels(source),
        "compared": found.compared,
        "unreached": list(found.unreached),
    }


def notes(chat: dict) -> list[str]:
    """Say in lines what a person should know of the result."""
    if "reason" in chat:
        return [f"no chat mode: {chat['reason']}"]
    said = f"chat template: equal to Jinja's text on {chat['compared']} conversations"
    if not chat["unreached"]:
        return [f"{said}, which reach all of it"]
    return [f"{said}; {len(chat['unreached'])} outcomes of its conditions are not among them (inspect --json "
            "lists them)"]  # fmt: skip


def _inputs(tree: nodes.Template) -> list[str]:
    asked = {name.name for name in tree.find_all(nodes.Name) if name.ctx == "load"}
    return [name for name in INPUTS if name in asked]


def _thoughts(source: str, tokenizer: Tokenizer) -> list[str]:
    """The first pair of marks that the template or the tokenizer's added tokens have."""
    added = {token.text.decode(errors="replace") for token in tokenizer.source.added}
    for pair in _THOUGHTS:
        if all(mark in added for mark in pair) or pair[1] in source:
            return list(pair)
    return []


def _channels(source: str) -> dict:
    """The key of channels where the template writes both kinds of messages, else nothing."""
    for marks in _CHANNELS:
        if all(of_kind[0] in source for of_kind in marks.values()):
            return {"channels": marks}
    return {}
