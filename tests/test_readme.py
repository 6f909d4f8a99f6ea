"""README's commands do what it says; the demo's own script is run by CI's fresh clone."""

import shlex
import subprocess

import pytest
from native import ROOT
from readme import commands

from exporter.cli import main as cli
from exporter.cli.command_line import Parser
from exporter.cli.verbs import VERBS, export, verb_module

CALLS = [line for line in commands() if line.startswith("python -m exporter")]
VERB_CALLS = [line for line in CALLS if line.split()[3] in VERBS]
EXPORTS = [line for line in CALLS if line not in VERB_CALLS]
QUICK = [line for line in VERB_CALLS if line.split()[3] in ("inspect", "bench")]
RUNS = [line for line in commands() if "./cmake-out/" in line]


def test_every_command_is_covered():
    assert EXPORTS and VERB_CALLS and QUICK and RUNS
    assert [line for line in commands() if line not in CALLS + RUNS] == [
        "source .venv/bin/activate"
    ]


@pytest.mark.parametrize("command", EXPORTS)
def test_exports_are_accepted(command):
    """Flags, recipe and outputs are read; the exports themselves are other tests' work."""
    parser = Parser()
    export.configure(parser)
    options = parser.parse_args(shlex.split(command)[3:])
    assert export.request(options).outputs.paths()


@pytest.mark.parametrize("command", VERB_CALLS)
def test_verbs_take_their_flags(command):
    name, *arguments = shlex.split(command)[3:]
    parser = Parser()
    verb_module(name).configure(parser)
    assert vars(parser.parse_args(arguments))


@pytest.mark.parametrize("command", QUICK)
def test_quick_verbs_run(command, artifacts, monkeypatch, capsys):
    """On the unquantized model under the name of the README's."""
    folder = artifacts[0].parent
    if not (folder / "q.pte").exists():
        (folder / "q.pte").symlink_to("a.pte")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    assert cli.main(shlex.split(command)[3:]) == 0
    assert "smollm2" in capsys.readouterr().out


@pytest.mark.parametrize("command", RUNS)
def test_runs_write_sensible_text(command, artifacts):
    folder = artifacts[0].parent
    done = subprocess.run(
        command, shell=True, cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0 and done.stderr == ""
    expected = {"France": "Paris", "Once upon a time": "Once upon a time"}
    assert next(word for key, word in expected.items() if key in command) in done.stdout
