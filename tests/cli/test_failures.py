"""What goes wrong is said in one line that names the value and the remedy, with the right status."""

import errno
import json
import os
import subprocess
import sys

import pytest
import tiny
import tokenizer_files
from native import AOTI_RUN, ET_RUN, ROOT, export, run, runner_of

from exporter.cli import main as cli

USAGE, FAILURE = 2, 1


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    tiny.make_hf(folder / "model", "llama3")
    pte, package, library = folder / "a.pte", folder / "a.pt2", folder / "a.so"
    export(
        folder / "model", "--max-seq-length", 64, "--target", "x86-64-v3", "--output-pte", pte,
        "--output-aoti-package", package, "--output-dso", library,
    )  # fmt: skip
    return {"pte": pte, "pt2": package, "so": library}


@pytest.fixture(params=["pte", "pt2", "so"])
def artifact(request, artifacts):
    return artifacts[request.param]


def expect(runner, status, words, *arguments):
    result = run(runner, *arguments)
    line = result.error_line()
    assert result.status == status, line
    for word in words:
        assert word in line, line


@pytest.mark.parametrize("runner", [ET_RUN, AOTI_RUN], ids=lambda path: path.name)
class TestCommandLine:
    def test_no_artifact(self, runner):
        expect(runner, USAGE, ["--help"])

    def test_missing_file(self, runner):
        expect(runner, FAILURE, ["nosuch.pte"], "nosuch.pte", "-i", "x")

    def test_unknown_flag(self, runner):
        expect(runner, USAGE, ["--colour"], "m.pte", "--colour", "red")

    @pytest.mark.parametrize(
        "flags",
        [("-t", "abc"), ("-p", "2"), ("-n", "-1"), ("-n", "1e9999"), ("-s", "x"), ("-m", "talk"),
         ("--logit-bias", "5"), ("--typical-p", "0"), ("--repetition-penalty", "0"),
         ("--tokens", "1,b"), ("--top-k", "-3"), ("--threads", "0"), ("-l", "4"), ("-t",)],
    )  # fmt: skip
    def test_malformed_value(self, runner, flags):
        expect(runner, USAGE, [flags[-1]], "m.pte", *flags)


def test_truncated(artifact, tmp_path):
    whole = artifact.read_bytes()
    cut = tmp_path / artifact.name
    if artifact.suffix == ".so":
        (tmp_path / "a.so.json").write_bytes((artifact.parent / "a.so.json").read_bytes())
    for share in (0.0, 0.001, 0.1, 0.5, 0.9, 0.999):
        cut.write_bytes(whole[: int(len(whole) * share)])
        expect(runner_of(artifact), FAILURE, [str(cut)], cut, "-i", "x", "-n", 2)


def test_random_bytes(artifact, tmp_path):
    path = tmp_path / artifact.name
    path.write_bytes(os.urandom(100_000))
    expect(runner_of(artifact), FAILURE, [str(path)], path, "-i", "x")


def test_wrong_runner(artifacts):
    expect(AOTI_RUN, FAILURE, ["et_run"], artifacts["pte"], "-i", "x")
    expect(ET_RUN, FAILURE, ["aoti_run"], artifacts["pt2"], "-i", "x")
    expect(ET_RUN, FAILURE, ["aoti_run"], artifacts["so"], "-i", "x")


def test_library_without_its_sidecar(artifacts, tmp_path):
    alone = tmp_path / "a.so"
    alone.write_bytes(artifacts["so"].read_bytes())
    expect(AOTI_RUN, FAILURE, ["a.so.json"], alone, "-i", "x")


def test_cpu_without_the_features(artifacts, tmp_path):
    alone = tmp_path / "a.so"
    alone.write_bytes(artifacts["so"].read_bytes())
    sidecar = (artifacts["so"].parent / "a.so.json").read_text()
    (tmp_path / "a.so.json").write_text(sidecar.replace('\\"avx2\\"', '\\"avx9\\"'))
    expect(AOTI_RUN, FAILURE, ["avx9", "--target"], alone, "-i", "x")


def test_newer_schema(artifacts, tmp_path):
    alone = tmp_path / "a.so"
    alone.write_bytes(artifacts["so"].read_bytes())
    sidecar = (artifacts["so"].parent / "a.so.json").read_text()
    (tmp_path / "a.so.json").write_text(
        sidecar.replace('"schema_version": "6"', '"schema_version": "8"')
    )
    expect(AOTI_RUN, FAILURE, ["schema 8"], alone, "-i", "x")


def test_tokenizers(artifact, tmp_path):
    runner = runner_of(artifact)
    expect(runner, FAILURE, ["nosuch"], artifact, "-z", "nosuch.model", "-i", "x")
    damaged = tmp_path / "tokenizer.json"
    damaged.write_text("{")
    expect(runner, FAILURE, [str(damaged)], artifact, "-z", damaged, "-i", "x")
    expect(runner, FAILURE, [str(tmp_path)], artifact, "-z", tmp_path, "-i", "x")


def test_tokenizer_with_more_pieces_than_the_model(artifact, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(tokenizer_files.llama3_json()))
    runner = runner_of(artifact)
    expect(runner, FAILURE, [str(path), "pieces"], artifact, "-z", path, "-i", "x")
    tokenized = run(runner, artifact, "-z", path, "--tokenize", stdin="hello\n")
    assert tokenized.status == 0 and json.loads(tokenized.text)


def test_prompts(artifact):
    runner = runner_of(artifact)
    expect(runner, FAILURE, ["999999"], artifact, "--tokens", "1,999999")
    expect(runner, FAILURE, ["64"], artifact, "--tokens", ",".join(["5"] * 65))
    expect(runner, FAILURE, ["64"], artifact, "-i", "word " * 500)


def test_logits_to_an_unwritable_folder(artifact, tmp_path):
    target = tmp_path / "nosuch" / "l.npy"
    expect(runner_of(artifact), FAILURE, [str(target)], artifact, "--tokens", "1,2",
           "--logits-out", target)  # fmt: skip


def test_full_disk_for_text(artifact):
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [runner_of(artifact), artifact, "-t", "0", "-n", "4", "--ignore-eos", "--tokens", "5,6"],
            stdout=full, stderr=subprocess.PIPE, timeout=60,
        )  # fmt: skip
    assert done.returncode == FAILURE and len(done.stderr.splitlines()) == 1


def test_chat_without_a_template(artifact):
    expect(runner_of(artifact), FAILURE, ["chat"], artifact, "-m", "chat", "-i", "x")


class TestExporter:
    def call(self, *arguments, **options):
        return subprocess.run(
            [sys.executable, "-m", "exporter", *map(str, arguments)], cwd=ROOT,
            capture_output=True, text=True, timeout=120, **options,
        )  # fmt: skip

    def expect(self, status, words, *arguments):
        done = self.call(*arguments)
        line = done.stderr.splitlines()[-1]
        assert done.returncode == status and line.startswith("error: "), done.stderr
        assert "Traceback" not in done.stderr
        for word in words:
            assert word in line, line

    @pytest.mark.parametrize(
        ("words", "arguments"),
        [
            (["MODEL"], []),
            (["--output-pte"], ["smollm2"]),
            (["--nosuch"], ["smollm2", "--nosuch"]),
            (["0"], ["smollm2", "--output-pte", "--max-seq-length", "0"]),
            (["int3"], ["smollm2", "--output-pte", "--dtype", "int3"]),
            (["z80"], ["smollm2", "--output-aoti-package", "--target", "z80"]),
            (["cuda"], ["smollm2", "--output-pte", "--device", "cuda"]),
            (["int9"], ["smollm2", "--output-pte", "--quantize", '{"linear:int9": {}}']),
            (["qnnpack"], ["smollm2", "--output-pte", "--delegate", "qnnpack"]),
            (["int8"], ["smollm2", "--output-pte", "--delegate", "stock", "--cache-dtype", "int8"]),
            (["same"], ["smollm2", "--output-pte", "same", "--output-dso", "same"]),
            (["pack"], ["pack", "a.pte"]),
        ],
    )
    def test_usage(self, words, arguments):
        self.expect(USAGE, words, *arguments)
        assert len(self.call(*arguments).stderr.splitlines()) == 1

    @pytest.mark.parametrize(
        ("words", "arguments"),
        [
            (["nosuchmodel", "models"], ["nosuchmodel", "--output-pte", "{tmp}/a.pte"]),
            (["smollm2"], ["smolm2", "--output-pte", "{tmp}/a.pte"]),
            (["nosuch"], ["smollm2", "--output-pte", "{tmp}/nosuch/a.pte"]),
            (["aoti"], ["smollm2", "--output-pte", "{tmp}/a.pte", "--delegate", "stock",
                        "--quantize", '{{"linear:int8": {{"groupsize": 0}}}}']),
            (["99999"], ["smollm2", "--output-pte", "{tmp}/a.pte", "--max-seq-length", "99999"]),
        ],
    )  # fmt: skip
    def test_failure(self, words, arguments, tmp_path):
        self.expect(FAILURE, words, *[text.format(tmp=tmp_path) for text in arguments])
        assert not list(tmp_path.iterdir())

    def test_full_disk(self, artifacts, tmp_path, monkeypatch, capsys):
        """Syncing fails as on a full disk: one error line, and the file that was there stays."""
        path = tmp_path / "a.pte"
        path.write_text("the old one")

        def full(descriptor):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        model = artifacts["pte"].parent / "model"
        arguments = [str(model), "--max-seq-length", "64", "--output-pte", str(path)]
        assert cli.main(arguments) == FAILURE
        errors = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
        assert len(errors) == 1 and "disk is full" in errors[0] and str(path) in errors[0]
        assert path.read_text() == "the old one"
        assert [file.name for file in tmp_path.iterdir()] == ["a.pte"]

    def test_interrupted(self, artifacts, tmp_path):
        """A terminated export ends with one line and leaves nothing."""
        model = artifacts["pte"].parent / "model"
        process = subprocess.Popen(
            [sys.executable, "-m", "exporter", model, "--output-pte", tmp_path / "a.pte"],
            cwd=ROOT, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        for line in process.stderr:
            if line.startswith("torch.export"):
                break
        process.terminate()
        rest = process.stderr.read()
        assert process.wait() == 130 and rest.splitlines()[-1].startswith("interrupted")
        assert "Traceback" not in rest and not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", [("inspect", None), ("--help",)])
def test_a_reader_of_stdout_that_has_enough(words, artifacts):
    command = [sys.executable, "-m", "exporter", *(word or artifacts["pte"] for word in words)]
    environment = {name: x for name, x in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141


def test_a_pipe_broken_elsewhere_is_an_error(monkeypatch, capfd):
    def broken(arguments):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr(cli, "_dispatch", broken)
    assert cli.main(["models"]) == FAILURE
    assert "Broken pipe" in capfd.readouterr().err
