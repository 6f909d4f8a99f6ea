#!/usr/bin/env python3
"""Compares reduced chat templates with the templates themselves, for random ones that look into contents.

    .venv/bin/python scripts/fuzz_templates.py [--templates N] [--conversations N] [--seed N]

A template is refused, or its reduced form must give the template's text on each random conversation
that it does not refuse. Exits 1 where it does not, and shows the template.
"""

import argparse
import random
import sys
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from random_templates import random_conversation, random_template  # noqa: E402

from exporter.chat.differences import is_refused  # noqa: E402
from exporter.chat.format import Cut, Format, Role, Strip, has_system  # noqa: E402
from exporter.chat.reduce import reduce_template  # noqa: E402
from exporter.chat.template import Template  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--templates", type=int, default=1000)
    parser.add_argument("--conversations", type=int, default=400, help="of one template")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    reduced = 0
    for seed in range(options.seed, options.seed + options.templates):
        rng = random.Random(seed)
        template = random_template(rng)
        try:
            reduced += compare(template, rng, options.conversations)
        except AssertionError as error:
            print(f"seed {seed}: {template}\n  {error}", file=sys.stderr)
            return 1
    print(f"{reduced} of {options.templates} templates are reduced, and right; the others are refused")
    return 0


def compare(template: str, rng: random.Random, n_conversations: int) -> bool:
    """Whether the template is reduced. Raises AssertionError where its form then gives another text."""
    chat = reduce_template(template, SimpleNamespace(named_tokens={}, special_tokens={}))
    if not chat["reducible"]:
        return False
    form = format_of(chat)
    refused = [(role, text) for role, texts in chat.get("refused", {}).items() for text in texts]
    whole = Template(template, {})
    for _ in range(n_conversations):
        messages = random_conversation(rng)
        taken = form.placement != "none" or not has_system(messages)
        if taken and not is_refused(messages, refused):
            want, got = whole.render(messages), form.render(messages)
            assert got == want, f"{messages} gives {got!r} instead of {want!r}"
    return True


def format_of(chat: dict) -> Format:
    """The form that the JSON object of a reducible template describes."""
    def role(said: dict) -> Role:
        cut = said["cut"] and Cut(said["cut"]["after"], Strip(**said["cut"]["strip"]))
        return Role(said["prefix"], said["suffix"], Strip(**said["strip"]), cut)

    system = chat["system"]
    placed = system["placement"] != "none"
    return Format(
        chat["begin"], system["placement"], role(system) if placed else Role("", ""), system.get("default"),
        role(chat["user"]), role(chat["assistant"]), chat["generation_prompt"], chat["strip_folded"],
        system.get("blank", "kept"),
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
