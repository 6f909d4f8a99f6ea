"""Check whether an artifact is still its model: the native runner beside eager float32."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from exporter.artifact.contents import Artifact, stored_recipe
from exporter.artifact.metadata import adapter_line, stored_adapters
from exporter.artifact.reader import read_artifact
from exporter.artifact.runner_interface import RunnerModel
from exporter.chat.texts import CONVERSATION, GREEDY_PROMPT, GREEDY_TOKENS, PROMPTS, SYSTEM
from exporter.checkpoint.adapter_source import AdapterSource
from exporter.checkpoint.known_models import MODELS
from exporter.pipeline.model_request import ModelSource
from exporter.pipeline.prepare import Described, describe
from exporter.recipe.schemes import TOKEN_SCALE_SCHEMES
from exporter.util.progress import at_most_once_a_second, note, stage
from exporter.util.text_file import read_text
from exporter.verify.checks import Check, skipped, told, verdict_line
from exporter.verify.limits import GivenLimits, Limits, limits_for, with_sampling_error

if TYPE_CHECKING:
    from exporter.model.decoder import Transformer
    from exporter.verify.logits import ComparedPositions, Greedy, Prompt
    from exporter.verify.trace import PartError
    from exporter.verify.weights import WeightError

PROMPT_WINDOW = 256  # tokens of one prompt read from a file
TRACE_TOKENS = 96
# A scheme's bits where the artifact does not show them.
_SCHEME_BITS = {"linear:a8w4dq": 4, "linear:int4": 4, "linear:int8": 8}
_DTYPE_BITS = {"float32": 32, "float16": 16, "bfloat16": 16, "int8": 8, "int4": 4}

Load = Callable[[Path, int], RunnerModel]  # path, threads: as exporter.runners.native.load_artifact


@dataclass(frozen=True)
class VerifyRequest:
    """What to verify and how."""

    artifact: Path
    checkpoint: str | None = None  # path or model; None: the artifact's model_name
    tokenizer: Path | None = None
    adapters: tuple[AdapterSource, ...] = ()
    prompts: Path | None = None
    positions: int = 384
    threads: int = 0
    trace: bool = False
    limits: GivenLimits = GivenLimits()


@dataclass(frozen=True)
class Subject:
    """What was compared, and on what it ran."""

    artifact: Artifact
    checkpoint: str
    threads: int
    isa: str
    seconds: float


@dataclass(frozen=True)
class Readings:
    """What both models made of the prompts, and what they may differ by; `choices` are the texts of the
    tokens that either prefers somewhere."""

    prompts: "tuple[Prompt, ...]"
    positions: "ComparedPositions"
    choices: Mapping[int, str]
    bits: float
    limits: Limits


@dataclass(frozen=True)
class Continuation:
    """The float model's greedy continuation beside the artifact's, and its text."""

    tokens: "Greedy"
    text: str


@dataclass(frozen=True)
class Verification:
    """The result of a verification; `line` is the verdict."""

    subject: Subject
    readings: Readings
    greedy: Continuation
    weights: "tuple[WeightError, ...]"
    parts: "tuple[PartError, ...]"  # of the trace; none without it
    checks: tuple[Check, ...]
    line: str

    @property
    def good(self) -> bool:
        return not any(check.failed for check in self.checks)


def verify(request: VerifyRequest, load: Load | None = None) -> Verification:
    """Run every check. `load` is exporter.runners.native's load_artifact where it is not given.

    Raises ValueError or OSError with a line that names the value and the remedy when something
    needed cannot be read; what is read and wrong is a failed check.
    """
    start = time.monotonic()
    artifact = read_artifact(request.artifact)
    if request.trace and not artifact.packed():
        raise ValueError(
            f"{artifact.path} cannot be traced: its weights are not packed for the lowbit kernels; "
            "leave --trace out"
        )
    texts = None if request.prompts is None else read_text(request.prompts, "--prompts")
    _check_adapters(request, artifact)
    described = describe(
        ModelSource(checkpoint_of(request, artifact), tokenizer=request.tokenizer, adapters=request.adapters)
    )
    with stage(f"loading {request.artifact}"):
        native = (load or _load)(request.artifact, request.threads)
    with stage("loading torch"):
        from exporter.lowbit.weights import one_torch_thread
    with one_torch_thread():  # beside a neighbour, two take ten times as long as one
        return _verify(request, artifact, described, native, texts, start)


def _verify(
    request: VerifyRequest, artifact: Artifact, described: Described, native: RunnerModel,
    texts: str | None, start: float,
) -> Verification:  # fmt: skip
    import torch

    from exporter.checkpoint.load import load_model
    from exporter.verify.identity import identity_checks
    from exporter.verify.logits import compare_prompts, greedy, logit_checks
    from exporter.verify.weights import check_names

    check_names(artifact, described.checkpoint.config)
    recipe, lowbit = stored_recipe(artifact), bool(artifact.packed())
    with stage("tokenizer, chat template, metadata"):
        identity = list(identity_checks(described, native))
    context = _context(artifact, described)
    prompts = _prompts(described, texts, request.positions, context)
    window = max(*(len(p.ids) for p in prompts), TRACE_TOKENS, GREEDY_TOKENS + PROMPT_WINDOW)
    window = min(window, described.checkpoint.config.context_length)
    with stage("reading the checkpoint's weights"):
        config = described.checkpoint.config.for_context(context)  # the artifact's, not the window's
        model = load_model(replace(described.checkpoint, config=config), torch.float32, window)
    bits = effective_bits(artifact)
    with stage("probabilities beside the float model's"):
        positions = compare_prompts(model, native, prompts, at_most_once_a_second(note))
    limits = _limits(request, artifact, recipe, bits, len(positions.kl))
    logits = list(logit_checks(positions, limits))
    with stage("greedy continuation"):
        start_ids = _with_bos(described, GREEDY_PROMPT)[: max(1, context - GREEDY_TOKENS)]
        steps = min(GREEDY_TOKENS, context - len(start_ids))
        continued = greedy(model, native, start_ids, max(1, steps))
    logits.append(_greedy_told(continued, described))
    errors: Sequence[WeightError] = ()
    weights = [skipped("packed weights", "they are in other kernels' layout")]
    if lowbit:
        with stage("weights beside the checkpoint's"):
            weights, errors = _weights(artifact, model, described)
    parts: Sequence[PartError] = ()
    traced: list[Check] = []
    wanted = request.trace or lowbit and (_moved(artifact) or any(c.failed for c in logits))
    if wanted:
        from exporter.verify.trace import trace, trace_checks

        ids = [i for prompt in prompts for i in prompt.ids][: min(TRACE_TOKENS, window, context)]
        with stage("tracing layer by layer"):
            parts = trace(artifact, model, ids, at_most_once_a_second(note))
        traced = list(trace_checks(parts))
    causes_first = (*weights, *identity, *traced, *logits)
    return Verification(
        subject=Subject(
            artifact, checkpoint_of(request, artifact), native.threads, native.isa, time.monotonic() - start
        ),
        readings=Readings(tuple(prompts), positions, _choices(described, positions), bits, limits),
        greedy=Continuation(continued, described.tokenizer.decode(list(continued.expected))),
        weights=tuple(errors),
        parts=tuple(parts),
        checks=(*identity, *logits, *weights, *traced),
        line=verdict_line(causes_first, _summary(request.artifact, causes_first)),
    )


def checkpoint_of(request: VerifyRequest, artifact: Artifact) -> str:
    """Name the model to compare with. Raises ValueError when the artifact does not name one that is here."""
    if request.checkpoint is not None:
        return request.checkpoint
    name = artifact.model_name or ""
    if name in MODELS or name and Path(name).exists():
        return name
    raise ValueError(
        f"{artifact.path} was exported from {name or 'a model without a name'!s}, which is neither "
        "an alias nor a path here: name its checkpoint with --checkpoint PATH"
    )


def _check_adapters(request: VerifyRequest, artifact: Artifact) -> None:
    """Raise ValueError where the artifact has adapters merged into it and none is given."""
    stored = stored_adapters(artifact.metadata)
    if stored and not request.adapters:
        names = ", ".join(adapter_line(entry) for entry in stored)
        raise ValueError(
            f"{artifact.path} was exported with adapters ({names}): give them with --adapter FOLDER[=SCALE]"
        )


def effective_bits(artifact: Artifact) -> float:
    """Return the bits a weight that decide how much the artifact may differ: the linear layers' mean, or the
    embedding's or the cache's where these have fewer."""
    packed = [t for t in artifact.packed() if t.name != "table"]
    if packed:
        counts = [t.packed.rows * t.packed.columns for t in packed]
        total = sum(t.packed.bits * n for t, n in zip(packed, counts, strict=True))
        bits = min(total / sum(counts), artifact.weight("table").packed.bits)
    else:
        recipe = stored_recipe(artifact)
        known = [_SCHEME_BITS.get(key, options.get("bitwidth", 32) if isinstance(options, dict)
                                  else 32) for key, options in recipe.items()]  # fmt: skip
        bits = min([*known, _DTYPE_BITS.get(artifact.dtype or "", 32)])
    return min(bits, _DTYPE_BITS.get(artifact.cache_dtype or "", 32))


def _load(path: Path, threads: int) -> RunnerModel:
    from exporter.runners.native import load_artifact

    return load_artifact(path, threads)


def _greedy_told(found: "Greedy", described: Described) -> Check:
    steps = len(found.expected)
    if found.first is None:
        return told("greedy continuation", f"all {steps} tokens are the float model's")
    wanted, chosen = (_shown(described, i) for i in (found.expected[found.first], found.actual))
    return told("greedy continuation", f"the first other token is number {found.first + 1} of "
                f"{steps}", f"{chosen!r} instead of {wanted!r}")  # fmt: skip


def _limits(
    request: VerifyRequest, artifact: Artifact, recipe: Mapping, bits: float, positions: int
) -> Limits:
    by_token = artifact.token_scales or any(key in TOKEN_SCALE_SCHEMES for key in recipe)
    return request.limits.instead_of(with_sampling_error(limits_for(bits, by_token), positions))


def _context(artifact: Artifact, described: Described) -> int:
    stored, largest = artifact.context_length, described.checkpoint.config.context_length
    return min(stored, largest) if stored and stored > 0 else largest


def _prompts(
    described: Described, texts: str | None, positions: int, context: int
) -> "list[Prompt]":
    """Return the built-in prompts, each shortened by the same share, or windows of `texts`; all in all at
    most `positions` tokens, but at least one a prompt, by the checkpoint's own tokenizer.

    Raises ValueError for a text without tokens.
    """
    from exporter.verify.logits import Prompt

    if texts is not None:
        ids = _with_bos(described, texts)[:positions]
        size = min(PROMPT_WINDOW, context)
        cut = [ids[i : i + size] for i in range(0, len(ids), size)]
    else:
        whole = [_with_bos(described, text) for text in PROMPTS]
        whole += [ids for ids in [_conversation(described)] if ids]
        share = min(1.0, positions / sum(map(len, whole)))
        cut = [ids[: min(context, max(1, int(share * len(ids))))] for ids in whole]
    if not any(cut):
        raise ValueError("the prompts hold no tokens: give a text with --prompts")
    return [Prompt(tuple(ids), tuple(_shown(described, i) for i in ids)) for ids in cut if ids]


def _shown(described: Described, token: int) -> str:
    """Return a token's text; models can have more rows than the tokenizer has pieces."""
    pieces = described.tokenizer.source.pieces
    if token >= len(pieces):
        return f"<{token}>"
    return pieces[token].decode(errors="replace").replace("\u2581", " ")


def _choices(described: Described, positions: "ComparedPositions") -> dict[int, str]:
    found = {int(i) for i in (*positions.expected, *positions.actual)}
    return {i: _shown(described, i) for i in sorted(found)}


def _with_bos(described: Described, text: str) -> list[int]:
    tokenizer = described.tokenizer
    first = [tokenizer.bos_id] if tokenizer.add_bos and tokenizer.bos_id is not None else []
    return first + tokenizer.encode(text)


def _conversation(described: Described) -> list[int]:
    """Encode chat turns in the template's own form; nothing where it cannot render them."""
    import jinja2

    from exporter.chat.template import Template

    tokenizer = described.tokenizer
    if tokenizer.chat_template is None:
        return []
    turns = [{"role": role, "content": text} for role, text in (("system", SYSTEM), *CONVERSATION)]
    for messages in (turns, turns[1:]):
        try:
            template = Template(tokenizer.chat_template, tokenizer.named_tokens)
            return tokenizer.encode(template.render(messages))
        except jinja2.TemplateError:
            continue
    return []


def _moved(artifact: Artifact) -> bool:
    from exporter.verify.weights import transformed

    return transformed(artifact) is not None


def _weights(
    artifact: Artifact, model: "Transformer", described: Described
) -> "tuple[list[Check], Sequence[WeightError]]":
    from exporter.lowbit import ops
    from exporter.verify.weights import constant_checks, transformed, weight_checks, weight_errors

    ops.load()
    config, state = described.checkpoint.config, model.state_dict()
    method = transformed(artifact)
    checks = list(constant_checks(artifact, state, config, method is not None))
    if method is not None:
        why = f"the method {method} stores rescaled or rotated weights; the trace compares blocks"
        return [*checks, skipped("packed weights", why)], ()
    errors = weight_errors(artifact, state, config)
    return [*checks, *weight_checks(errors)], errors


def _summary(path: Path, checks: Sequence[Check]) -> str:
    def said() -> Iterator[str]:
        for check in checks:
            if check.name in ("mean KL", "top-1 agreement"):
                yield f"{check.name} {check.measured} ({check.threshold})"
        yield f"{sum(c.verdict == 'pass' for c in checks)} checks passed"
        left = sum(c.verdict == "skip" for c in checks)
        if left:
            yield f"{left} skipped"

    return f"{path.name}: {', '.join(said())}"
