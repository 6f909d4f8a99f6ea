"""Continue a prompt, by an artifact or by a model that is not exported yet: the verb `generate`."""

import argparse
import math
import sys
from collections.abc import Callable
from contextlib import nullcontext
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from exporter.artifact.runner_interface import RunLimits
from exporter.cli.command_line import UsageError, positive, seed
from exporter.cli.open_model import add_runnable_options, is_artifact, open_model
from exporter.model.generation_settings import MOST_BIAS, NUMBERS, NumberSetting
from exporter.recipe.schemes import LOWBIT
from exporter.util.progress import note, stage
from exporter.util.text_file import read_text

if TYPE_CHECKING:
    from exporter.artifact.runner_interface import Generated, RunnerModel

SUMMARY = "write text after a prompt, by an ARTIFACT or by a MODEL before its export"
MOST_SESSIONS = 1024  # of a state
SAMPLING = (*(setting.name for setting in NUMBERS), "logit_bias", "stop_strings", "seed")


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("model", metavar="ARTIFACT|MODEL",
        help="a .pte, .pt2 or .so file, or what the exporter takes as MODEL")  # fmt: skip
    add("--prompt", required=True, metavar="TEXT", help="what to continue, or to answer")
    add("--chat", action="store_true", help="the prompt is a user's turn, in the model's chat template")
    add("--system", metavar="TEXT", help="the system message, with --chat")
    add("--think", choices=("on", "off"),
        help="let a model think that can do without, or not, with --chat (default: as its template "
             "has it)")  # fmt: skip
    add("--tools", type=Path, metavar="FILE",
        help="a JSON list of the tools that the model may call, with --chat")  # fmt: skip
    add("--date", type=_day, metavar="2024-07-26",
        help="the day that the model is told, with --chat (default: the clock's)")  # fmt: skip
    add("--max-new-tokens", type=positive, metavar="N",
        help="most tokens to generate (default: to a stop token or the context's end)")  # fmt: skip
    add("--num-samples", type=positive, default=1, metavar="N", help="continuations to write")
    add("--threads", type=positive, metavar="N",
        help="default: OMP_NUM_THREADS, else one for each core")  # fmt: skip
    add("--stats", action="store_true", help="what ran and how fast, on stderr")
    _add_sampling_options(parser)
    add_runnable_options(parser)


def _add_sampling_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "sampling", "Defaults: what the model recommends; where it is silent temperature 0.8, top-p 0.9."
    )
    add = group.add_argument
    for setting in NUMBERS:
        add(f"--{setting.name.replace('_', '-')}", type=_number(setting), metavar=setting.letter,
            help=setting.help)  # fmt: skip
    add("--seed", type=seed, metavar="N",
        help="of the first sample; each further one has the next (default: random)")  # fmt: skip
    add("--logit-bias", action="extend", type=_biases, metavar="ID=B,...",
        help="add B to the logit of token ID, -inf: never choose it; several times")  # fmt: skip
    add("--stop", action="append", dest="stop_strings", metavar="TEXT",
        help="end before this text, several times; '' alone: none of the model's")  # fmt: skip


def _day(text: str) -> str:
    """Check a day, "2024-07-26", for argparse."""
    try:
        if date.fromisoformat(text).isoformat() == text:
            return text
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text!r} is not a day such as 2024-07-26")


def run(options: argparse.Namespace) -> int:
    for flag in ("system", "think", "tools", "date"):
        if getattr(options, flag) is not None and not options.chat:
            raise UsageError(f"--{flag} goes with --chat: a text that is continued has no chat template")
    if options.compile_prefill and not options.compile:
        raise UsageError("--compile-prefill goes with --compile; add it")
    sessions = _sessions(options)
    model = open_model(options, sessions)
    ids = _prompt(model, options)
    _check_biases(model, options)
    (_samples_together if sessions > 1 else _samples_in_turn)(model, ids, options)
    if options.stats:
        from exporter.runners.native import peak_rss_bytes

        ran = "PyTorch" if model.backend == "python" else f"{model.backend}, {model.isa}"
        note(f"  {ran}, {model.threads} threads, peak memory {peak_rss_bytes() / 1e6:.0f} MB")
    return 0


def _number(setting: NumberSetting) -> Callable[[str], float]:
    """Make a type of a setting's numbers, for argparse."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not setting.allows(value):
            raise argparse.ArgumentTypeError(f"{text!r} is not {setting.wanted()}")
        return value

    return parse


def _biases(text: str) -> list[tuple[int, float]]:
    """Parse token ids and biases, "5=-1.5,7=-inf", for argparse."""
    try:
        pairs = [item.split("=") for item in text.split(",")]
        biases = [(int(token), float(bias)) for token, bias in pairs]
    except ValueError:
        biases = []
    wrong = [b for token, b in biases if token < 0 or not (abs(b) <= MOST_BIAS or b == -math.inf)]
    if wrong or not biases:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not token ids and what is added to their logits, such as 5=-1.5,7=-inf"
        )
    return biases


def _prompt(model: "RunnerModel", options: argparse.Namespace) -> list[int]:
    ids, context = _encoded(model, options), RunLimits.of(model).context_length
    if len(ids) > context:
        raise ValueError(
            f"the prompt has {len(ids)} tokens, the context of {options.model} holds {context}; "
            "shorten it, or use a larger --max-seq-length"
        )
    return ids


def _check_biases(model: "RunnerModel", options: argparse.Namespace) -> None:
    """Raise ValueError for a token that there is not, before anything is written."""
    last = RunLimits.of(model).vocab_size - 1
    for token, _ in options.logit_bias or []:
        if token > last:
            raise ValueError(
                f"--logit-bias: token id {token} is outside the vocabulary; give ids from 0 to {last}"
            )


def _encoded(model: "RunnerModel", options: argparse.Namespace) -> list[int]:
    if options.chat:
        system = [] if options.system is None else [("system", options.system)]
        think = None if options.think is None else options.think == "on"
        tools = None if options.tools is None else read_text(options.tools, "--tools")
        return model.chat_turn(
            [*system, ("user", options.prompt)], think, options.date or "", tools, str(options.tools or "")
        )
    tokenizer = model.tokenizer
    ids = tokenizer.encode(options.prompt, tokenizer.add_bos)
    if not ids and tokenizer.bos_id >= 0:
        return [tokenizer.bos_id]
    if not ids:
        raise UsageError("--prompt is empty and this model has no token to begin a text with")
    return ids


def _sessions(options: argparse.Namespace) -> int:
    """Return how many samples are decoded at once: all, by an artifact on our kernels; by PyTorch, and with a
    cache in the graph, one."""
    if options.num_samples > MOST_SESSIONS:
        raise UsageError(f"--num-samples {options.num_samples}: at most {MOST_SESSIONS} at once; give fewer")
    if options.num_samples == 1 or not is_artifact(options.model):
        return 1
    from exporter.runners.native import load_artifact

    delegate = load_artifact(options.model, metadata_only=True).metadata.get("delegate")
    return options.num_samples if delegate == LOWBIT else 1


def _sampling(options: argparse.Namespace) -> dict[str, object]:
    chosen = {name: getattr(options, name) for name in SAMPLING}
    if chosen["logit_bias"] is not None:
        chosen["logit_bias"] = dict(chosen["logit_bias"])
    return chosen


def _begin(index: int, options: argparse.Namespace) -> None:
    if options.num_samples > 1:
        note(f"sample {index + 1} of {options.num_samples}")
    if not options.chat:
        _write(options.prompt)


def _samples_together(model: "RunnerModel", ids: list[int], options: argparse.Namespace) -> None:
    """Decode all samples at once. The first is written as it comes, the others when all have ended."""
    _begin(0, options)
    results = model.generate_samples(
        ids, options.num_samples, options.max_new_tokens or 0, on_text=_write, **_sampling(options)
    )
    for index, result in enumerate(results):
        if index > 0:
            _begin(index, options)
            _write(result.text)
        _write("\n")
        note(_speed(result))


def _samples_in_turn(model: "RunnerModel", ids: list[int], options: argparse.Namespace) -> None:
    """Decode one sample after the other."""
    for index in range(options.num_samples):
        chosen = _sampling(options)
        if chosen["seed"] is not None:
            chosen["seed"] += index
        _begin(index, options)
        compiling = options.compile and index == 0
        with stage("compiling, and generating the first sample") if compiling else nullcontext():
            result = model.generate(ids, options.max_new_tokens or 0, on_text=_write, **chosen)
            _write("\n")
        if options.stats or options.num_samples > 1:
            note(_speed(result) + (" (with the compilation)" if compiling else ""))


def _speed(result: "Generated") -> str:
    def rate(count: int, seconds: float) -> str:
        return f"{count / seconds:.1f}/s" if count and seconds else "-"

    return (
        f"  prompt {result.prompt_tokens} tokens at "
        f"{rate(result.prompt_tokens, result.prefill_seconds)}, generated {len(result.ids)} at "
        f"{rate(result.decode_forwards, result.decode_seconds)}, ended by {result.reason}"
    )


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
