"""Define the flag that names adapters."""

import argparse

from exporter.checkpoint.adapter_source import AdapterSource, parse_adapter


def add_adapter_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--adapter", action="append", default=[], type=_adapter, metavar="FOLDER[=SCALE]",
        help="a LoRA adapter in PEFT's format that is merged into the weights, times SCALE (default: 1); "
             "more than once: all of them",
    )  # fmt: skip


def _adapter(text: str) -> AdapterSource:
    try:
        return parse_adapter(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
