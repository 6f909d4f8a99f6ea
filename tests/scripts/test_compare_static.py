"""`scripts/compare_static.py`: what it times and how it says it, with programs that answer at once."""

import sys
from pathlib import Path

import pytest

from scripts import compare_static
from scripts.bench.command_line import exit_status
from scripts.compare_static import Contender, first_token_seconds

SLOW = "import sys, time; sys.stdout.write('abc'); sys.stdout.flush(); time.sleep({}); print(' d'); {}"


def contender(name: str, code: str) -> Contender:
    return Contender(name, (sys.executable, "-c", code), "abc", 2_000_000, 80_000_000)


def test_the_first_token_is_what_follows_the_prompt():
    assert first_token_seconds(contender("a, x", SLOW.format(0.3, "time.sleep(0)"))) > 0.3
    wait = SLOW.format(0, "sys.stdout.flush(); time.sleep(1)")
    assert first_token_seconds(contender("a, x", wait)) < 0.9


@pytest.mark.parametrize("code", [SLOW.format(0, "sys.exit(3)"), "print('abc')"])
def test_a_program_that_fails_or_says_nothing(code):
    with pytest.raises(ValueError, match=r"^a, x ended with status [03] and said b'abc"):
        first_token_seconds(contender("a, x", code))


def test_the_table():
    programs = [contender("ours, x", ""), contender("llama-simple, x", "")]
    text = compare_static.table(programs, {"ours, x": [0.3, 0.1, 0.2], "llama-simple, x": [0.4] * 3}, 3)
    assert "| ours, x | 2.00 | 82.0 | 0.200 (0.100-0.300) | - |" in text
    assert text.endswith("| llama-simple, x | 2.00 | 82.0 | 0.400 (0.400-0.400) | 0.50 |")


def test_refusals_are_one_line(tmp_path: Path, capsys):
    for words, status, name in (([], 2, "MODEL.pt2"), (["a.pt2", "b.gguf"], 1, "a.pt2 does not exist")):
        assert exit_status(compare_static.main, [str(tmp_path / word) for word in words]) == status
        out, errors = capsys.readouterr()
        assert not out and len(errors.splitlines()) == 1 and name in errors
