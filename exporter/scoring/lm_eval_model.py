"""Show lm-eval a model of `runners.native` or `runners.eager`, so that its tasks run on the artifact itself.
Needs the package `lm_eval`; nothing else here imports it.
"""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.tasks import TaskManager
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window, make_table

from exporter.artifact.runner_interface import RunLimits, RunnerModel
from exporter.util.progress import note, stage

DEFAULT_NEW_TOKENS = 256  # of a task that does not say; lm-eval's own default


@dataclass(frozen=True)
class TaskResults:
    """The results of tasks: `figures`, task to metric to value; `table`, the same as Markdown."""

    figures: dict[str, dict[str, object]]
    table: str


def run_tasks(
    model: RunnerModel, tasks: Sequence[str], limit: int | None, include_path: Path | None
) -> TaskResults:
    """Run lm-eval's `tasks`, the first `limit` questions of each.

    Raises ValueError for tasks that are not known, here or in the folder `include_path`.
    """
    if include_path is not None and not include_path.is_dir():
        raise ValueError(f"--include-path {include_path}: no such folder; give one with task YAMLs")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with stage("reading lm-eval's tasks"):
        manager = TaskManager(include_path=None if include_path is None else str(include_path))
    for name in tasks:
        if not manager.match_tasks([name]):
            raise ValueError(
                f"--tasks: lm-eval has no task {name!r}; `lm-eval ls tasks` lists its own, "
                "--include-path FOLDER adds yours"
            )
    results = simple_evaluate(
        model=RunnerLM(model), tasks=list(tasks), limit=limit, task_manager=manager,
        log_samples=False, bootstrap_iters=1000,
    )  # fmt: skip
    return TaskResults(results["results"], make_table(results))


class RunnerLM(TemplateLM):
    """A model that scores and generates with a runner's forwards, one request at a time.

    What a request has in common with the beginning of the one before is not run again: the
    answers of a multiple-choice question share their question's forwards.
    """

    def __init__(self, model: RunnerModel):
        super().__init__()
        self.model = model
        limits = RunLimits.of(model)
        self.context, self._chunk, self._rows = limits.context_length, limits.max_chunk, limits.max_rows
        self._cached: list[int] = []

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text, or begins one where there is none."""
        tokenizer = self.model.tokenizer
        found = next((i for i in (tokenizer.eos_id, tokenizer.bos_id) if i >= 0), None)
        if found is None:
            raise ValueError("the tokenizer has neither eos nor bos, which lm-eval needs")
        return found

    @property
    def prefix_token_id(self) -> int:
        bos_id = self.model.tokenizer.bos_id
        return bos_id if bos_id >= 0 else self.eot_token_id

    @property
    def max_length(self) -> int:
        return self.context

    @property
    def tokenizer_name(self) -> str:
        """Part of the key of lm-eval's cache of prompts."""
        return self.model.metadata["model_name"]

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: object
    ) -> list[int]:
        tokenizer = self.model.tokenizer
        if add_special_tokens is not None:
            return list(tokenizer.encode(string, add_bos=add_special_tokens and tokenizer.add_bos))
        ids = list(tokenizer.encode(string, add_bos=tokenizer.add_bos))
        # A text that begins with bos by name, as chat templates' do, gets no second one.
        return ids[1:] if ids[:2] == [tokenizer.bos_id] * 2 else ids

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """Return the log-probability in nats of whole texts, in disjoint windows of the context."""
        return [
            self._text(text)
            for text in _counted([request.args[0] for request in requests], disable_tqdm)
        ]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Generate texts that end before a stop string, at a stop token or after `max_gen_toks`."""
        return [
            self._generate(*arguments)
            for arguments in _counted([request.args for request in requests], disable_tqdm)
        ]

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]],
        disable_tqdm: bool = False, **kwargs: object,
    ) -> list[tuple[float, bool]]:  # fmt: skip
        """Return the log-probability in nats of each continuation, and whether greedy search would give
        it."""
        # Like contexts follow each other, so that they are run once.
        order = sorted(range(len(requests)), key=lambda i: (requests[i][1], requests[i][2]))
        results: list[tuple[float, bool]] = [(0.0, True)] * len(requests)
        for index in _counted(order, disable_tqdm):
            _, context, continuation = requests[index]
            results[index] = self._score(context, continuation)
        return results

    def _score(self, context: list[int], continuation: list[int]) -> tuple[float, bool]:
        if not continuation:
            return 0.0, True
        # The last token is not read; of a long context the end is kept.
        tokens = (context + continuation)[-(self.context + 1) :]
        if len(continuation) > self.context:
            raise ValueError(
                f"a continuation of {len(continuation)} tokens is longer than the context of "
                f"{self.context}: give a larger --max-seq-length"
            )
        targets = np.array(continuation)
        total, greedy, done = 0.0, True, 0
        for logits in self._logits(tokens[:-1], len(targets)):
            part = targets[done : done + len(logits)]
            done += len(logits)
            wide = logits.astype(np.float64)
            most = wide.max(axis=1)
            log_sum = most + np.log(np.exp(wide - most[:, None]).sum(axis=1))
            total += float((wide[np.arange(len(part)), part] - log_sum).sum())
            greedy = greedy and bool((wide.argmax(axis=1) == part).all())
        return total, greedy

    def _logits(self, tokens: list[int], wanted: int) -> Iterator[np.ndarray]:
        """Yield float32 logits [R, V] of the last `wanted` positions of `tokens`, in order, by blocks."""
        first = len(tokens) - wanted
        start = min(_common(self._cached, tokens), first)
        self._cached = list(tokens)
        while start < first:
            end = min(start + self._chunk, first)
            self.model.forward(tokens[start:end], start, [end - start - 1])
            start = end
        while start < len(tokens):
            end = min(start + self._rows, len(tokens))
            yield self.model.forward(tokens[start:end], start, list(range(end - start)))
            start = end

    def _text(self, text: str) -> float:
        ids = self.tok_encode(text, add_special_tokens=False)
        windows = get_rolling_token_windows(ids, self.prefix_token_id, self.context, 1)
        return sum(self._score(*make_disjoint_window(window))[0] for window in windows)

    def _generate(self, prompt: str, options: dict) -> str:
        """Generate a text, greedily, or sampled where the task asks for it."""
        until = options.get("until") or []
        stops = [stop for stop in ([until] if isinstance(until, str) else until) if stop]
        steps = int(options.get("max_gen_toks", DEFAULT_NEW_TOKENS))
        temperature = float(options.get("temperature") or 0.0)
        if not options.get("do_sample", temperature > 0):
            temperature = 0.0
        if steps >= self.context:
            raise ValueError(
                f"the task generates {steps} tokens and the context is {self.context}: give "
                "a larger --max-seq-length"
            )
        ids = self.tok_encode(prompt)[-(self.context - steps) :]
        random, made = np.random.default_rng(0), []
        ends = set(self._stop_ids())
        while len(made) < steps:
            (logits,) = self._logits(ids + made, 1)
            token = _choose(logits[0], temperature, random)
            if token in ends:
                break
            made.append(token)
            text = self.model.tokenizer.decode(made)
            if any(stop in text for stop in stops):
                break
        return _before(self.model.tokenizer.decode(made), stops)

    def _stop_ids(self) -> list[int]:
        return json.loads(self.model.metadata["stop_ids"])


def _counted(items: Sequence, quiet: bool) -> Iterator:
    for index, item in enumerate(items):
        if not quiet and index and index % max(1, len(items) // 10) == 0:
            note(f"  lm-eval: {index} of {len(items)} requests")
        yield item


def _common(left: Sequence[int], right: Sequence[int]) -> int:
    """Count the tokens that both begin with."""
    count = 0
    for one, other in zip(left, right, strict=False):
        if one != other:
            break
        count += 1
    return count


def _choose(logits: np.ndarray, temperature: float, random: np.random.Generator) -> int:
    if temperature <= 0:
        return int(logits.argmax())
    return int((logits / temperature + random.gumbel(size=logits.shape)).argmax())


def _before(text: str, stops: Sequence[str]) -> str:
    found = [at for stop in stops if (at := text.find(stop)) >= 0]
    return text[: min(found)] if found else text
