"""The verbs of `python -m exporter`, a module each.

A module has `SUMMARY`, a line for the list of verbs; `configure(parser)`, which adds its flags; and
`run(options) -> int`, which returns the exit status. None imports torch before `run`.
"""

VERBS = ("export", "models", "generate", "inspect", "verify", "eval", "bench", "pack")
