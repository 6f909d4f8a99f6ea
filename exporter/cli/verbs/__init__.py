"""The verbs of `python -m exporter`, a module each.

A module has `SUMMARY`, a line for the list of verbs; `configure(parser)`, which adds its flags; and
`run(options) -> int`, which returns the exit status. None imports torch before `run`.
"""

import importlib
from types import ModuleType

VERBS = ("export", "models", "generate", "inspect", "verify", "eval", "bench", "pack", "self-test")


def verb_module(name: str) -> ModuleType:
    """Import the module of a verb."""
    return importlib.import_module(f"exporter.cli.verbs.{name.replace('-', '_')}")
