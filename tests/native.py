"""Calls the built runners and the exporter the way a user does."""

import json
import subprocess
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from exporter.cli import main as cli

ROOT = Path(__file__).parent.parent
ET_RUN, AOTI_RUN = ROOT / "cmake-out" / "et_run", ROOT / "cmake-out" / "aoti_run"
TORCH_RUN = ROOT / "cmake-out" / "tests" / "aoti_run_torch"  # aoti_run on libtorch
METADATA = "model/data/aotinductor/model/model_metadata.json"


@dataclass(frozen=True)
class Result:
    status: int
    text: str
    errors: str

    def error_line(self) -> str:
        """The one line on stderr of a failed run; anything else there fails the test."""
        lines = self.errors.splitlines()
        assert len(lines) == 1, self.errors
        assert not self.text, f"a failed run wrote to stdout: {self.text!r}"
        return lines[0]


def run(runner: Path, *arguments: object, stdin: str = "", timeout: float = 300) -> Result:
    assert runner.is_file(), f"{runner} is not built; run scripts/test.sh"
    done = subprocess.run(
        [runner, *map(str, arguments)], input=stdin.encode(), capture_output=True, timeout=timeout
    )
    return Result(done.returncode, done.stdout.decode(), done.stderr.decode())


def runner_of(artifact: Path) -> Path:
    """The runner that a user would take; libtorch's where the artifact asks for it."""
    if artifact.suffix == ".pte":
        return ET_RUN
    return AOTI_RUN if aoti_metadata(artifact)["runtime"] == "lean" else TORCH_RUN


def aoti_metadata(artifact: Path) -> dict[str, str]:
    """The metadata of a .pt2 or .so."""
    if artifact.suffix == ".so":
        return json.loads(artifact.with_name(artifact.name + ".json").read_text())
    with zipfile.ZipFile(artifact) as archive:
        return json.loads(archive.read(METADATA))


def generate(artifact: Path, *arguments: object, stdin: str = "") -> str:
    """The text of a run that must succeed."""
    result = run(runner_of(artifact), artifact, *arguments, stdin=stdin)
    assert result.status == 0, result.errors
    return result.text


def logits(artifact: Path, tokens: list[int], folder: Path, *arguments: object) -> np.ndarray:
    """`--logits-out` of a prompt of token ids: float32 [positions, vocabulary]."""
    path = folder / f"{artifact.name}.npy"
    ids = ",".join(map(str, tokens))
    generate(artifact, "--tokens", ids, "--logits-out", path, *arguments)
    return np.load(path)


def stats(artifact: Path, *arguments: object) -> dict:
    result = run(runner_of(artifact), artifact, *arguments, "--stats", "--json")
    assert result.status == 0, result.errors
    return json.loads(result.errors)


def export(*arguments: object) -> None:
    """`python -m exporter ...` in this process; torch is imported once for all tests."""
    assert cli.main([str(argument) for argument in arguments]) == 0
