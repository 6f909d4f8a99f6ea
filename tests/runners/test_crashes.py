"""What ends a program from outside or by its name: signals, an odd variable, file names that are no UTF-8."""

import os
import resource
import signal
import subprocess
import sys

import pytest
import tiny
from native import ET_RUN, ROOT, export

NAME = b"gr\xfc\xdfe"  # ISO 8859-1


@pytest.fixture(scope="module")
def pte(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    tiny.make_hf(folder / "m", "llama2")
    export(folder / "m", "--output-pte", folder / "a.pte", "--max-seq-length", 64)
    return folder / "a.pte"


def no_core():
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


@pytest.mark.parametrize(
    ("number", "name"),
    [(signal.SIGSEGV, "segmentation fault (SIGSEGV)"), (signal.SIGBUS, "bus error (SIGBUS)"),
     (signal.SIGILL, "illegal instruction (SIGILL)"), (signal.SIGFPE, "arithmetic error (SIGFPE)")],
)  # fmt: skip
def test_a_signal_is_named_and_its_status_kept(number, name, pte):
    with subprocess.Popen(
        [ET_RUN, pte, "--tokenize"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, preexec_fn=no_core,
    ) as process:  # fmt: skip
        process.stdin.write(b"hello\n")
        process.stdin.flush()
        assert process.stdout.readline().startswith(b"[")  # it reads its next line now
        process.send_signal(number)
        line = process.stderr.read().decode()
    assert process.returncode == -number
    assert line == f"et_run: {name} while running {pte}; another program sent the signal\n"


@pytest.mark.parametrize("value", ["0", "-4", "many", "3.5"])
def test_an_odd_number_of_threads_is_ignored_with_a_word(value, pte):
    environment = {**os.environ, "OMP_NUM_THREADS": value}
    done = subprocess.run(
        [ET_RUN, pte, "-i", "hi", "-n", "1"], capture_output=True, text=True, env=environment,
    )  # fmt: skip
    assert done.returncode == 0 and done.stdout.startswith("hi")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"et_run: OMP_NUM_THREADS '{value}' is not a whole number from 1 up")


class TestNamesThatAreNoText:
    def test_an_artifact_is_opened(self, pte, tmp_path):
        path = os.fsencode(tmp_path) + b"/" + NAME + b".pte"
        with open(path, "wb") as file:
            file.write(pte.read_bytes())
        done = subprocess.run([ET_RUN, path, "-i", "hi", "-n", "1", "-t", "0"], capture_output=True)
        assert done.returncode == 0 and not done.stderr
        verb = subprocess.run(
            [sys.executable, "-m", "exporter", "generate", path, "--prompt", "hi",
             "--max-new-tokens", "1", "--temperature", "0"],
            cwd=ROOT, capture_output=True,
        )  # fmt: skip
        assert verb.returncode == 0 and verb.stdout.strip() == done.stdout.strip(), verb.stderr

    def test_a_missing_one_is_named(self, tmp_path):
        path = os.fsencode(tmp_path) + b"/" + NAME + b"\n.pte"
        done = subprocess.run([ET_RUN, path, "-i", "hi"], capture_output=True, text=True)
        (line,) = done.stderr.splitlines()  # valid UTF-8, and one line
        assert done.returncode == 1 and r"gr\xfc\xdfe .pte" in line

    def test_a_checkpoint_is_refused_by_name(self, pte, tmp_path):
        path = os.fsencode(tmp_path) + b"/" + NAME
        os.symlink(pte.parent / "m", path)
        done = subprocess.run(
            [sys.executable, "-m", "exporter", path, "--output-pte", tmp_path / "a.pte"], cwd=ROOT,
            capture_output=True, text=True,
        )  # fmt: skip
        line = done.stderr.splitlines()[-1]
        assert done.returncode == 1 and line.startswith("error: "), done.stderr
        assert r"gr\xfc\xdfe" in line and "not UTF-8" in line and "rename" in line
        assert "damaged" not in done.stderr
