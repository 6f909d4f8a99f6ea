#!/usr/bin/env python3
"""Writes a copy of a model whose weights lie on no quantization grid: the same function exactly.

    .venv/bin/python scripts/rotate_checkpoint.py MODEL FOLDER [--seed N] [--gguf FILE]

The residual stream is turned by a random orthogonal matrix, in float64; scripts/bench/rotation.py
says how. FOLDER is a Hugging Face folder of float32 weights with the original's tokenizer, FILE the
same for llama.cpp. Both are read back, and refused where their logits differ from the original's.
A tied output becomes a matrix of its own: the copy has more parameters.
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import asdict
from pathlib import Path

if not __package__:  # run as a file, not imported: make the repository's packages known
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from exporter.util.files import check_writable, written_whole  # noqa: E402
from scripts.bench.command_line import Parser, UsageError, exit_status, note  # noqa: E402

LARGEST_KL = 1e-6  # nats; what float32's rounding makes is a thousand times smaller
FEWEST_POSITIONS = 64
# Fields of a config that a format may spell in another way; the logits tell whether they are right.
ROUNDED = {"family", "norm_eps", "rope_theta", "rope_scaling"}
PROMPT = (
    "The lighthouse stood on a narrow spit of rock, three miles from the nearest village, and "
    "for forty years the same family had kept its lamp. In winter the supply boat came once a "
    "month, if the sea allowed it; in summer there were visitors, who climbed the 132 steps, "
    "admired the view and asked whether it was not lonely. The keeper's daughter, who was "
    "eleven, kept a list of the ships that passed. She wrote down their names, their flags and "
    "the hour, and on Sundays she compared her list with the newspaper's. Nobody had asked her "
    "to do this, but years later the harbour office wrote to say that hers was the only "
    "complete record of that coast."
)


def main(arguments: list[str]) -> int:
    options = _parser().parse_args(arguments)
    if options.gguf is not None:
        if options.gguf.suffix != ".gguf":
            raise UsageError(f"--gguf {options.gguf} does not end in .gguf; see --help")
        check_writable(options.gguf)
    if options.folder.exists():
        raise FileExistsError(f"{options.folder} exists: delete it or choose another FOLDER")
    # Imported here: torch takes seconds, and a wrong command line should not.
    from exporter.checkpoint.checkpoint import open_checkpoint
    from exporter.tokenizer.tokenizer import read_tokenizer
    from scripts.bench.rotation import RotatedWeights, logits, prompt_ids, random_orthogonal

    source = open_checkpoint(options.model)
    if source.tokenizer_path is None:
        raise ValueError(f"{options.model} has no tokenizer beside it: give a whole checkpoint")
    ids = prompt_ids(PROMPT, read_tokenizer(source.tokenizer_path).encode, source.config)
    if len(ids) < FEWEST_POSITIONS:
        raise ValueError(f"{options.model} has a context of {source.config.context_length} tokens: "
                         f"the check needs {FEWEST_POSITIONS}")  # fmt: skip
    note("the original's logits")
    expected = logits(source, ids)
    rotated = RotatedWeights(source, random_orthogonal(source.config.dim, options.seed))
    _write(rotated, expected, ids, options)
    _report_size(source.config, rotated.config)
    return 0


def _write(rotated, expected, ids: list[int], options: argparse.Namespace) -> None:
    """Writes the folder and the GGUF file; neither is there when one of them is not right."""
    from scripts.bench.random_folder import folder_written_whole
    from scripts.bench.write_gguf import write_gguf

    with folder_written_whole(options.folder) as part:
        _fill(part, rotated)
        _check(part, expected, ids, rotated.config, options.folder)
        if options.gguf is not None:
            with written_whole(options.gguf) as gguf:
                note(f"writing {options.gguf.name}")
                write_gguf(str(part), gguf, "fp32", note, rotated.source.tokenizer_path)
                _check(gguf, expected, ids, rotated.config, options.gguf)
    note(f"wrote {options.folder}")
    if options.gguf is not None:
        note(f"wrote {options.gguf} ({options.gguf.stat().st_size} bytes)")


def _fill(folder: Path, rotated) -> None:
    from exporter.checkpoint.weights import Weights
    from exporter.families.llama import FAMILY
    from exporter.model.matrices import parameter_shapes
    from scripts.bench.copied_tokenizer import copy_tokenizer
    from scripts.bench.random_folder import FLOAT_TYPES, hf_config, write_json, write_weights

    float32 = FLOAT_TYPES["fp32"]
    tokenizer = copy_tokenizer(rotated.source, folder)
    named: dict[str, object] = {
        "bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id,
    }  # fmt: skip
    if rotated.config.family == "mistral":
        named |= {"architectures": ["MistralForCausalLM"], "model_type": "mistral",
                  "sliding_window": rotated.config.layers[0].attention.window}  # fmt: skip
    write_json(folder / "config.json", {**hf_config(rotated.config, float32), **named})
    names = Weights((), {}, lambda: None, FAMILY.hf.names)
    canonical = {names.stored_name(name): name for name in parameter_shapes(rotated.config)}
    write_weights(
        folder, rotated.config, float32, lambda name, shape: rotated.rows(canonical[name]), note
    )


def _check(path: Path, expected, ids: list[int], config, shown: Path) -> None:
    """Raises ValueError unless what was written computes what the original does."""
    from exporter.checkpoint.checkpoint import open_checkpoint
    from scripts.bench.rotation import difference, logits

    checkpoint = open_checkpoint(str(path))
    for field in sorted(asdict(config).keys() - ROUNDED):
        wanted, read = getattr(config, field), getattr(checkpoint.config, field)
        if read != wanted:
            raise ValueError(
                f"{shown}: {field} is {wanted!r} and comes back from this format as {read!r}: "
                "leave out --gguf, or rotate another checkpoint"
            )
    found = difference(expected, logits(checkpoint, ids))
    if not found.kl <= LARGEST_KL:
        raise ValueError(
            f"{shown}: mean KL to the original is {found.kl:.3g} nats, more than {LARGEST_KL}: it "
            "is not the same function; please report it"
        )
    note(
        f"{shown.name}: over {found.positions} positions the logits differ by at most "
        f"{found.largest:.3g}, mean KL {found.kl:.3g} nats"
    )


def _report_size(before, after) -> None:
    from exporter.model.matrices import parameter_shapes

    counts = [sum(map(math.prod, parameter_shapes(config).values())) for config in (before, after)]
    untied = ", the output being untied" if before.tied_embeddings else ""
    print(f"parameters: {counts[0]} in the original, {counts[1]} in the copy{untied}")


def _parser() -> Parser:
    parser = Parser(prog="rotate_checkpoint.py", description=__doc__)
    add = parser.add_argument
    add("model", metavar="MODEL", help="alias, folder or file that the exporter reads")
    add("folder", metavar="FOLDER", type=Path, help="the folder to make")
    add("--gguf", type=Path, metavar="FILE", help="also write a float32 GGUF file")
    add("--seed", type=int, default=0, metavar="N", help="of the rotation; default: 0")
    return parser


if __name__ == "__main__":
    sys.exit(exit_status(main, sys.argv[1:]))
