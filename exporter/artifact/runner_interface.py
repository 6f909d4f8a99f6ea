"""The interface of a loaded artifact: what the runners' Python modules offer (runner/python/module.cpp).

`runners.native` loads artifacts behind it, `runners.eager` a decoder run by PyTorch. Errors of the runners
are ValueErrors with their one line. Models of one library work one at a time: a call keeps other threads'
calls waiting, and an interrupt ends it between two forwards.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np

# (tokens int64 [T], start_pos, rows int64 [R]) -> logits float32 [R, vocab].
Forward = Callable[["np.ndarray", int, "np.ndarray"], "np.ndarray"]


class RunnerTokenizer(Protocol):
    """An artifact's tokenizer, as the runners have it."""

    @property
    def n_pieces(self) -> int:
        """The number of tokens that have a text."""

    @property
    def bos_id(self) -> int:
        """The token that begins a text; -1: none."""

    @property
    def eos_id(self) -> int:
        """The token that ends a text; -1: none."""

    @property
    def add_bos(self) -> bool:
        """Whether a text begins with bos by default."""

    @property
    def table(self) -> bytes:
        """The canonical table (docs/artifact.md)."""

    def encode(self, text: str | bytes, add_bos: bool = False, parse_special: bool = True) -> list[int]:
        """Return the ids of `text`, a str or UTF-8; with `parse_special` names of special tokens in it are
        those tokens."""

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of `ids` without special tokens; bytes that are not UTF-8 become U+FFFD.

        Raises ValueError for an id outside 0..n_pieces - 1.
        """


class Generated(Protocol):
    """A continuation, and how long it took."""

    @property
    def text(self) -> str:
        """The continuation, without special tokens."""

    @property
    def ids(self) -> list[int]:
        """Its tokens: without a stop token, with those of a stop string."""

    @property
    def reason(self) -> str:
        """Why it ended: `stop_token`, `stop_string`, `steps`, `context` or `interrupted`."""

    @property
    def prompt_tokens(self) -> int:
        """The number of tokens of the prompt."""

    @property
    def prefill_seconds(self) -> float:
        """Seconds that the prompt took."""

    @property
    def decode_forwards(self) -> int:
        """The number of forwards of one token."""

    @property
    def decode_seconds(self) -> float:
        """Seconds that the forwards of one token took."""


class RunnerSession(Protocol):
    """A conversation's tokens, and what the model remembers of them."""

    @property
    def tokens(self) -> list[int]:
        """The tokens that it has read."""

    @property
    def position(self) -> int:
        """The number of its tokens."""

    def rewind(self, position: int) -> None:
        """Forget the tokens from `position` on. Raises ValueError where there are fewer."""

    def fork(self) -> RunnerSession:
        """Return a session of the same tokens; memory is shared until one of both goes on.

        Raises ValueError when the model has none left.
        """

    def save(self) -> bytes:
        """Return all of it, for `RunnerModel.restore_session` of the same model."""

    def drop(self) -> None:
        """Give its place to another one."""


class RunnerModel(Protocol):
    """An artifact, or a decoder run by PyTorch, that is ready to run."""

    @property
    def metadata(self) -> Mapping[str, str]:
        """Every key of docs/artifact.md as it was written, but the tokenizer's table."""

    @property
    def threads(self) -> int:
        """The number of threads of the native code; 0 where only metadata was read."""

    @property
    def context_length(self) -> int:
        """Most tokens of a session, as it was loaded."""

    @property
    def isa(self) -> str:
        """The instruction set of the kernels; "" where only metadata was read."""

    @property
    def backend(self) -> str:
        """`executorch`, `aoti` or `python`."""

    @property
    def tokenizer(self) -> RunnerTokenizer:
        """The artifact's tokenizer."""

    def chat_prompt(
        self,
        messages: Sequence[tuple[str, str] | Mapping[str, object]],
        add_generation_prompt: bool = True,
        date: str = "",
        **variables: object,
    ) -> list[int]:
        """Return the ids of a conversation by the model's own template.

        Args:
            messages: (role, text) or objects as chat templates take them, with "tool_calls" and the like.
            add_generation_prompt: end with what makes the model answer.
            date: the day that the template is told, 2024-07-26; "": this machine's clock's.
            variables: what else templates know: tools, documents, enable_thinking, ...

        Raises ValueError when the model has no chat template, or it refuses the conversation.
        """

    def chat_turn(
        self,
        messages: Sequence[tuple[str, str] | Mapping[str, object]],
        think: bool | None = None,
        date: str = "",
        tools: str | None = None,
        tools_path: str = "",
    ) -> list[int]:
        """Return the ids of a conversation by the model's own template, and of what makes the model answer,
        told what a person wishes as the runners' chats are told.

        Args:
            messages: as `chat_prompt` takes them.
            think: with thoughts or without; None: as the template has it.
            date: the day that the template is told, 2024-07-26; "": this machine's clock's.
            tools: a JSON list of objects, as text.
            tools_path: the file that held it, for errors.

        Raises ValueError, with the runners' flag, for what the template does not take.
        """

    def forward(self, tokens: Sequence[int], start_pos: int, rows: Sequence[int]) -> np.ndarray:
        """Run one chunk and return logits float32 [len(rows), vocab] of its positions `rows`.

        `tokens`, 1 to max_chunk ids, stand at the positions from `start_pos` on, which is at most where the
        last call ended; `rows` are 1 to max_rows indices of them. Raises ValueError for anything else.
        """

    def score(
        self, tokens: Sequence[int], first: int, progress: Callable[[int, int], None] | None = None
    ) -> np.ndarray:
        """Return the log-probability in nats of each token from `first` on, given those before it: float32
        [len(tokens) - first].

        `first` is at least 1. progress(done, of) is called before each chunk. Raises ValueError when the
        tokens do not fit context or vocabulary, or logits are not finite.
        """

    def generate(
        self,
        prompt_ids: Sequence[int],
        steps: int = 0,
        seed: int | None = None,
        stop_ids: Sequence[int] | None = None,
        on_text: Callable[[str], None] | None = None,
        on_token: Callable[[int], None] | None = None,
        **sampling: object,
    ) -> Generated:
        """Continue `prompt_ids` from an empty context.

        Args:
            steps: most tokens to generate; 0: to the context's end.
            seed: of the sampler; None: a random one.
            stop_ids: tokens that end the text; None: the artifact's.
            on_text: gets whole characters as they come.
            on_token: gets each token.
            sampling: the settings of `model.generation_settings.NUMBERS`, logit_bias {id or (id, ...): bias},
                bad_words_ids, begin_suppress_tokens, stop_strings; the model's own where None or absent.

        Raises ValueError when the prompt does not fit context or vocabulary or a setting is out of range,
        TypeError for an unknown setting.
        """

    def generate_samples(
        self,
        prompt_ids: Sequence[int],
        num_samples: int,
        steps: int = 0,
        seed: int | None = None,
        stop_ids: Sequence[int] | None = None,
        on_text: Callable[[str], None] | None = None,
        on_token: Callable[[int], None] | None = None,
        **sampling: object,
    ) -> list[Generated]:
        """Continue `prompt_ids` in `num_samples` ways as `generate` does, the first by `seed`, each further
        one by the next. They are decoded together, in as many sessions; each is what it would be alone.

        on_text and on_token hear of the first. Raises ValueError when the model has too few sessions.
        """

    def open_session(self) -> RunnerSession:
        """Return a new session of those that the model was loaded for. One of them is the model's own from
        the first call of `forward`, `score`, `generate` or a timing on.

        Raises ValueError when none is left.
        """

    def restore_session(self, saved: bytes) -> RunnerSession:
        """Return the session that `RunnerSession.save` gave.

        Raises ValueError where it is damaged, or of another model or cache type.
        """

    def forward_together(
        self, turns: Sequence[tuple[RunnerSession, Sequence[int]]], last_only: bool = False
    ) -> list[np.ndarray]:
        """Run one forward of several sessions, each with the tokens that it reads next; return the logits of
        each, float32 [tokens, vocab], or [1, vocab] after its last: to the bit what it would be alone.

        Raises ValueError for a session that is there twice, and for more than a forward takes.
        """

    def time_prefill(self, n_tokens: int, depth: int = 0) -> float:
        """Return the seconds that a prompt of `n_tokens` takes after `depth` others, which are not timed."""

    def time_decode(self, n_tokens: int, depth: int = 0) -> float:
        """Return the seconds that `n_tokens` forwards of one token take after a prompt of `depth`."""


@dataclass(frozen=True)
class RunLimits:
    """How much a loaded model takes."""

    context_length: int
    vocab_size: int
    max_chunk: int  # tokens of one forward
    max_rows: int  # positions whose logits one forward gives

    @classmethod
    def of(cls, model: RunnerModel) -> RunLimits:
        """Read the limits of `model`."""
        said = model.metadata
        vocabulary, chunk, rows = (int(said[key]) for key in ("vocab_size", "max_chunk", "max_rows"))
        chunk = min(chunk, model.context_length)
        return cls(model.context_length, vocabulary, chunk, min(chunk, rows))


class RunnerSampler(Protocol):
    """Logits processors and filters without a model, of one seed and settings.

    In its methods `tokens` came before, the first `prompt` of them given, the others chosen; `logits` are
    float32 [vocab].
    """

    def processed(self, logits: np.ndarray, tokens: Sequence[int], prompt: int) -> np.ndarray:
        """Return the logits float32 [vocab] after biases, penalties and limits."""

    def probabilities(self, logits: np.ndarray, tokens: Sequence[int], prompt: int) -> dict[int, float]:
        """Return the tokens that may be chosen, and the probability of each."""

    def sample(self, logits: np.ndarray, tokens: Sequence[int], prompt: int) -> int:
        """Choose a token."""


class RunnerModule(Protocol):
    """A runner's Python module: one of `_et` and `_aoti`, which have the same functions."""

    def load_model(
        self, path: bytes | str | Path, threads: int, metadata_only: bool, context_length: int | None,
        cache_dtype: str | None, sessions: int,
    ) -> RunnerModel:  # fmt: skip
        """Load an artifact of the module's backend; see `runners.native.load_artifact`."""

    def make_python_model(self, metadata: dict[str, str], forward: Forward, threads: int) -> RunnerModel:
        """Make a model of a Python callable; see `runners.native.make_python_model`."""

    def Sampler(self, seed: int, **settings: object) -> RunnerSampler:
        """Make a sampler; see `runners.native.make_sampler`."""

    def sampling_numbers(self) -> list[tuple[object, ...]]:
        """Return the settings that are numbers; see `runners.native.sampling_numbers`."""

    def read_bandwidth(self, threads: int, seconds: float) -> float:
        """Return the bytes a second that `threads` threads read from memory."""

    def peak_rss_bytes(self) -> int:
        """Return the largest resident memory of this process so far, in bytes."""
