"""README's commands do what it says; the demo's own script is run by CI's fresh clone."""

import shlex
import subprocess

import pytest
from readme import commands

from exporter import cli

EXPORTS = [line for line in commands() if line.startswith("python -m exporter")]
RUNS = [line for line in commands() if "./cmake-out/" in line]


def test_every_command_is_covered():
    assert EXPORTS and RUNS
    assert [line for line in commands() if line not in EXPORTS + RUNS] == [
        "source .venv/bin/activate"
    ]


@pytest.mark.parametrize("command", EXPORTS)
def test_exports_are_accepted(command):
    """Flags, recipe and outputs are read; the exports themselves are other tests' work."""
    options = cli._parser().parse_args(shlex.split(command)[3:])
    assert cli._request(options).outputs.paths()


@pytest.mark.parametrize("command", RUNS)
def test_runs_write_sensible_text(command, artifacts):
    folder = artifacts[0].parent
    done = subprocess.run(
        command, shell=True, cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0 and done.stderr == ""
    expected = {"France": "Paris", "Once upon a time": "Once upon a time"}
    assert next(word for key, word in expected.items() if key in command) in done.stdout
