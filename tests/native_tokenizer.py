"""The C++ tokenizer, through the programs that are built in cmake-out."""

import json
import subprocess
from pathlib import Path

import pytest

BUILD = Path(__file__).parent.parent / "cmake-out"


def program(name: str) -> Path:
    """A built program; the test fails with the remedy where there is none."""
    path = BUILD / name
    if not path.exists():
        pytest.fail(f"{path} is not built: run scripts/build_native.sh et")
    return path


def ask(path: Path, requests: list[dict], chat: dict | None = None) -> list:
    """tokenizer_tool's answers (tests/cpp/text/tokenizer_tool.cpp) for a raw file or a table."""
    command = [program("tests/tokenizer_tool"), path]
    command += [json.dumps(chat)] if chat else []
    lines = "".join(json.dumps(request) + "\n" for request in requests)
    done = subprocess.run(command, input=lines.encode(), capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return [json.loads(line) for line in done.stdout.split(b"\n") if line]


def ask_error(path: Path) -> str:
    """What tokenizer_tool says of a file that it must refuse."""
    done = subprocess.run([program("tests/tokenizer_tool"), path], input=b"", capture_output=True)
    assert done.returncode == 1, done
    return done.stderr.decode()
