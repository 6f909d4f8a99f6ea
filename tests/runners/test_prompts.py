"""Prompts as people give them: from files and standard input, in turns, and at a terminal."""

import ctypes
import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
import tiny
from native import AOTI_RUN, ET_RUN, export, run, runner_of
from terminal import BACKSPACE, END, INTERRUPT, LEFT, UP, Terminal

from exporter.cli import main as cli
from exporter.runners.native import load_artifact

TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
CONTEXT = 100_000  # whose end no reply here comes to before it is ended
SHORT, LONG = ("-t", 0, "-n", 4), ("-t", 0, "--ignore-eos")
PROMPT = "Größe, naïve\n\ncafé"


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chat")
    model = folder / "model"
    tiny.make_hf(model, "llama3.1")
    config = {"bos_token": "<s>", "eos_token": "</s>", "chat_template": TEMPLATE}
    tiny.write_json(model / "tokenizer_config.json", config)
    paths = [folder / "a.pte", folder / "a.pt2"]
    export(model, "--max-seq-length", CONTEXT, "--output-pte", paths[0],
           "--output-aoti-package", paths[1])  # fmt: skip
    return paths


@pytest.fixture(params=[0, 1], ids=["pte", "pt2"])
def artifact(request, artifacts):
    return artifacts[request.param]


@pytest.fixture
def pte(artifacts):
    return artifacts[0]


def wait_until_it_catches(process, number):
    """Wait until a handler of the signal is there."""
    status = Path(f"/proc/{process.pid}/status")
    if not status.exists():
        pytest.skip("no /proc that tells which signals a program catches")
    while not int(re.search(r"SigCgt:\s*(\w+)", status.read_text())[1], 16) >> (number - 1) & 1:
        assert process.poll() is None


def saved(path):
    return [(message["role"], message["content"]) for message in json.loads(path.read_text())]


class TestGenerate:
    @pytest.mark.parametrize("form", ["{}", "\ufeff{}", "{}\n", "{}\r\n"])
    def test_file_and_input_are_as_i(self, artifact, tmp_path, form):
        runner, path = runner_of(artifact), tmp_path / "a prompt.txt"
        path.write_bytes(form.format(PROMPT).encode())
        wanted = run(runner, artifact, *SHORT, "-i", PROMPT)
        assert wanted.status == 0 and wanted.text.startswith(PROMPT)
        assert run(runner, artifact, *SHORT, "-f", path) == wanted
        assert run(runner, artifact, *SHORT, stdin=form.format(PROMPT)) == wanted

    def test_no_input_is_no_prompt(self, pte):
        empty = run(ET_RUN, pte, *SHORT)
        begin = run(ET_RUN, pte, *SHORT, "--tokens", 0)
        assert empty == begin and empty.status == 0 and empty.text
        closed = subprocess.run(
            ["sh", "-c", 'exec "$0" "$@" <&-', ET_RUN, pte, *map(str, SHORT)], capture_output=True
        )
        assert (closed.returncode, closed.stdout.decode()) == (0, empty.text)

    def test_input_is_left_alone_where_there_is_a_prompt(self, pte):
        for prompt in (("-i", "x"), ("--tokens", "5")):
            assert run(ET_RUN, pte, *SHORT, *prompt, stdin="y\xff") == run(ET_RUN, pte, *SHORT, *prompt)

    def test_more_than_a_command_line_holds(self, artifact, tmp_path):
        """A megabyte is read whole: the runner counts its tokens and says that they are too many."""
        text = "Once upon a time " * 60_000
        path = tmp_path / "long.txt"
        path.write_text(text)
        runner = runner_of(artifact)
        n_tokens = len(json.loads(run(runner, artifact, "--tokenize", stdin=text).text))
        assert n_tokens > CONTEXT
        for result in (run(runner, artifact, "-f", path), run(runner, artifact, stdin=text)):
            assert result.status == 1 and f"needs {n_tokens} tokens" in result.error_line()

    def test_what_cannot_be_read(self, artifact, tmp_path):
        latin = tmp_path / "latin.txt"
        latin.write_bytes("Größe".encode("latin-1"))
        wide = tmp_path / "wide.txt"
        wide.write_bytes("word".encode("utf-16"))
        for path, word in ((tmp_path / "nosuch", "No such file"), (tmp_path, "directory"),
                           (latin, "UTF-8"), (wide, "UTF-8"), (artifact, "is not")):  # fmt: skip
            result = run(runner_of(artifact), artifact, "-f", path)
            assert result.status == 1 and str(path) in result.error_line() and word in result.errors

    def test_an_at_sign_is_text(self, pte, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "p").write_text("other")
        result = run(ET_RUN, pte, *SHORT, "-i", "@p")
        assert result.text.startswith("@p") and "-f p" in result.errors
        assert run(ET_RUN, pte, *SHORT, "-i", "@q").errors == ""

    def test_an_interrupt_ends_the_wait_for_input(self, artifact):
        """At once, not only after the two seconds; and whatever comes."""
        command = [runner_of(artifact), artifact]
        for text in (b"", b"y\n"):
            with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE) as process:  # fmt: skip
                wait_until_it_catches(process, signal.SIGINT)
                process.stdin.write(text)
                process.stdin.flush()
                process.send_signal(signal.SIGINT)
                assert process.wait(timeout=1.5) == 130  # while the pipe is open
                assert (process.stdout.read(), process.stderr.read()) == (b"", b"")

    @pytest.mark.parametrize("kind", ["zeros", "lines"])
    def test_input_without_an_end(self, pte, kind):
        if kind == "zeros":
            result = run(ET_RUN, pte, "-f", "/dev/zero")
            assert result.status == 1 and "/dev/zero is not text" in result.error_line()
            return
        with subprocess.Popen(["yes"], stdout=subprocess.PIPE) as yes:
            done = subprocess.run([ET_RUN, pte], stdin=yes.stdout, capture_output=True, timeout=60)
            yes.stdout.close()
        assert done.returncode == 1 and not done.stdout
        assert "64 MiB" in done.stderr.decode() and done.stderr.count(b"\n") == 1

    @pytest.mark.parametrize("runner", [ET_RUN, AOTI_RUN], ids=lambda path: path.name)
    def test_near_misses_of_flags(self, runner):
        result = run(runner, "m", "--temprature", 1)
        assert result.status == 2
        assert result.error_line() == (
            f"{runner.name}: unknown flag '--temprature': did you mean --temperature?"
        )


class TestStreams:
    """Standard output and error that are closed, or that nobody reads."""

    def run_with(self, redirection, *arguments):
        command = ["sh", "-c", f'exec "$0" "$@" {redirection}', *map(str, arguments)]
        return subprocess.run(command, capture_output=True, timeout=60)

    def test_a_closed_output_is_no_file(self, artifact, tmp_path):
        file = tmp_path / "l.npy"
        arguments = (runner_of(artifact), artifact, *SHORT, "--tokens", "5,6", "--logits-out")
        for path in (file, "/dev/stdout"):
            done = self.run_with(">&-", *arguments, path)
            assert done.returncode == 1 and done.stderr.count(b"\n") == 1, done
        assert not list(tmp_path.iterdir())
        assert self.run_with("", *arguments, file).returncode == 0
        whole = file.read_bytes()
        file.unlink()
        for redirection in ("2>&-", "<&- 2>&-"):
            assert self.run_with(redirection, *arguments, file, "-v").returncode == 1  # -v cannot be said
            assert not list(tmp_path.iterdir())
            assert self.run_with(redirection, *arguments, file).returncode == 0
            assert file.read_bytes() == whole
            file.unlink()

    def test_output_that_nobody_reads_ends_the_program(self, artifact, tmp_path):
        runner, file = runner_of(artifact), tmp_path / "l.npy"
        for arguments in (["--help"], [artifact, *LONG, "-n", 99, "-i", "x", "--logits-out", file],
                          [artifact, "-m", "chat", *LONG, "-i", "x"]):  # fmt: skip
            reader, writer = os.pipe()
            os.close(reader)
            done = subprocess.run([runner, *map(str, arguments)], stdin=subprocess.DEVNULL,
                                  stdout=writer, stderr=subprocess.PIPE, timeout=60)  # fmt: skip
            os.close(writer)
            assert (done.returncode, done.stderr) == (141, b"")
        assert not list(tmp_path.iterdir())


class TestPipedChat:
    def test_a_turn_of_several_lines(self, artifact, tmp_path):
        path = tmp_path / "c.json"
        for lines in ('a\\\nb\n', '"""\na\nb\n"""\n'):  # fmt: skip
            result = run(runner_of(artifact), artifact, "-m", "chat", *SHORT, stdin=f"{lines}/save {path}\n")
            assert result.status == 0
            assert saved(path)[0] == ("user", "a\nb") and len(saved(path)) == 2

    def test_the_first_turn_from_a_file(self, artifact, tmp_path):
        path, prompt = tmp_path / "c.json", tmp_path / "p.txt"
        prompt.write_text("/exit\nis a command\n")
        result = run(runner_of(artifact), artifact, "-m", "chat", *SHORT, "-f", prompt,
                     stdin=f"next\n/save {path}\n")  # fmt: skip
        assert result.status == 0
        assert [text for role, text in saved(path) if role == "user"] == ["/exit\nis a command", "next"]

    def test_a_turn_too_long_is_said_and_survived(self, artifact):
        words = "word " * 60_000
        long = run(runner_of(artifact), artifact, "-m", "chat", *SHORT, stdin=f"{words}\nhi\n")
        short = run(runner_of(artifact), artifact, "-m", "chat", *SHORT, stdin="hi\n")
        assert (long.status, short.status) == (1, 0)
        assert long.text == short.text and short.text.strip()
        line, = long.errors.splitlines()  # fmt: skip
        assert "the turn needs " in line and f"{CONTEXT} are left of {CONTEXT}" in line

    def test_a_conversation_goes_on_where_it_was_saved(self, artifact, tmp_path):
        path = tmp_path / "c.json"
        runner = runner_of(artifact)
        whole = run(runner, artifact, "-m", "chat", *SHORT, stdin="one\ntwo\n")
        begun = run(runner, artifact, "-m", "chat", *SHORT, stdin=f"one\n/save {path}\n")
        resumed = run(runner, artifact, "-m", "chat", *SHORT, stdin=f"/load {path}\ntwo\n")
        assert begun.text + resumed.text == whole.text
        path.write_text(path.read_text()[:-9])
        damaged = run(runner, artifact, "-m", "chat", *SHORT, stdin=f"/load {path}\none\n")
        assert damaged.status == 1 and damaged.text == begun.text
        assert len(damaged.errors.splitlines()) == 1 and str(path) in damaged.errors

    def test_an_interrupt_ends_the_reply(self, artifact, tmp_path):
        path, written = tmp_path / "c.json", tmp_path / "written"
        command = list(map(str, [runner_of(artifact), artifact, "-m", "chat", *LONG]))
        with open(written, "wb") as output, subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.PIPE, text=True, bufsize=1
        ) as process:  # fmt: skip
            for turn, n_messages in (("one", 2), ("two", 4)):
                before = written.stat().st_size
                process.stdin.write(f"{turn}\n")
                while written.stat().st_size == before:
                    assert process.poll() is None
                process.send_signal(signal.SIGINT)
                process.stdin.write(f"/save {path}\n")
                assert f"saved {n_messages} messages" in process.stderr.readline()
        assert process.returncode == 130
        roles, texts = zip(*saved(path), strict=True)
        assert roles == ("user", "assistant") * 2 and texts[::2] == ("one", "two")
        assert written.read_bytes().decode() == texts[1] + "\n" + texts[3] + "\n"

def has_libedit() -> bool:
    for name in ("libedit.so.2", "libedit.so.0", "libedit.3.dylib"):
        try:
            return bool(ctypes.CDLL(name))
        except OSError:
            continue
    return False


class TestTerminal:
    def test_an_interrupt_ends_the_reply_and_then_the_chat(self, artifact, tmp_path):
        path = tmp_path / "c.json"
        with Terminal(runner_of(artifact), artifact, "-m", "chat", *LONG) as terminal:
            terminal.wait_for("> ")
            terminal.type("hello\n")
            terminal.wait_for_reply()
            terminal.type(INTERRUPT)
            terminal.type(f"/save {path}\n")
            terminal.wait_for("saved 2 messages")
            terminal.wait_for("> ")
            terminal.press_at_prompt(INTERRUPT)
            assert terminal.end() == 130
        (_, turn), (_, reply) = saved(path)
        assert turn == "hello" and reply

    def test_the_end_of_the_input_ends_the_chat(self, pte):
        with Terminal(ET_RUN, pte, "-m", "chat", *LONG) as terminal:
            terminal.wait_for("> ")
            terminal.type("hello\n")
            terminal.wait_for_reply()
            terminal.type(INTERRUPT)
            terminal.wait_for("\r\n> ")
            terminal.press_at_prompt(END)
            assert terminal.end() == 0

    def test_without_a_prompt_text_comes_at_once(self, pte):
        with Terminal(ET_RUN, pte, *SHORT) as terminal:
            assert terminal.end() == 0

    @pytest.mark.parametrize("term", ["xterm", "dumb"])
    def test_lines_are_edited_and_called_back(self, pte, tmp_path, term):
        """Where the terminal allows and the system has libedit; as they are typed otherwise."""
        path = tmp_path / "c.json"
        with Terminal(ET_RUN, pte, "-m", "chat", *SHORT, term=term) as terminal:
            for line in (f"fur{LEFT}ü{BACKSPACE}lo\n", f"{UP}wer\n", f"/save {path}\n"):
                terminal.wait_for("> ")
                terminal.type(line)
            terminal.wait_for("saved 4 messages")
            terminal.wait_for("> ")
            terminal.press_at_prompt(END)
            assert terminal.end() == 0
        turns = [text for role, text in saved(path) if role == "user"]
        if term == "xterm" and has_libedit():
            assert turns == ["fulor", "fulorwer"]
        else:
            assert turns[0].startswith("fur\x1b[D") and turns[1] == f"{UP}wer"

    def test_a_block_is_asked_for_line_by_line(self, pte, tmp_path):
        path = tmp_path / "c.json"
        with Terminal(ET_RUN, pte, "-m", "chat", *SHORT) as terminal:
            for prompt, line in (("> ", '"""'), (". ", "a"), (". ", "b"), (". ", '"""')):
                terminal.wait_for(prompt)
                terminal.type(line + "\n")
            terminal.wait_for("> ")
            terminal.type(f"/save {path}\n")
            terminal.wait_for("saved 2 messages")
            terminal.wait_for("> ")
            terminal.type("/exit\n")
            assert terminal.end() == 0
        assert saved(path)[0] == ("user", "a\nb")


def test_what_the_chat_template_is_told(tmp_path, capsys):
    """Tools, thoughts and a day reach the prompt, in the runner's chat and in `generate --chat`; each in vain
    is an error in words."""
    told = "{{ tools | tojson if tools }}{{ 'T' if enable_thinking }}"
    told += "{{ 'future' if strftime_now('%Y') == '2031' }}" + TEMPLATE
    models = {}
    for name, template in (("told", told), ("plain", TEMPLATE)):
        tiny.make_hf(tmp_path / name, "llama3.1")
        config = {"bos_token": "<s>", "eos_token": "</s>", "chat_template": template}
        tiny.write_json(tmp_path / name / "tokenizer_config.json", config)
        models[name] = tmp_path / f"{name}.pte"
        export(tmp_path / name, "--max-seq-length", 256, "--output-pte", models[name])
    tools = tmp_path / "tools.json"
    tools.write_text('[{"name": "f"}]\n')

    def prompt_tokens(model: str, *flags: object) -> int:
        chat = (ET_RUN, models[model], "-m", "chat", *SHORT, "--stats", "--json", *flags)
        return json.loads(run(*chat, stdin="x\n").errors.splitlines()[-1])["prompt_tokens"]

    def told_by_generate(*flags: object) -> int:
        words = ["generate", models["told"], "--chat", "--prompt", "x", "--max-new-tokens", 1, "--stats"]
        assert cli.main([str(word) for word in (*words, *flags)]) == 0
        return int(re.search(r"prompt (\d+) tokens", capsys.readouterr().err)[1])

    bare = prompt_tokens("told")
    assert prompt_tokens("told", "--think", "off") == bare < prompt_tokens("told", "--think", "on")
    assert prompt_tokens("told", "--tools", tools) > bare
    assert prompt_tokens("told", "--date", "2030-12-31") == bare
    assert prompt_tokens("told", "--date", "2031-01-01") > bare
    for flags in ((), ("--think", "on"), ("--think", "off"), ("--tools", tools), ("--date", "2031-01-01")):
        assert told_by_generate(*flags) == prompt_tokens("told", *flags)
    for flags, words in (
        (("--think", "on"), "no switch for thoughts"), (("--tools", tools), "takes no tools"),
        (("--date", "2031-01-01"), "asks for no date"),
    ):  # fmt: skip
        result = run(ET_RUN, models["plain"], "-m", "chat", *flags, stdin="x\n")
        assert result.status == 1 and words in result.error_line()
        assert cli.main(["generate", str(models["plain"]), "--chat", "--prompt", "x", *map(str, flags)]) == 1
        assert words in capsys.readouterr().err
    result = run(ET_RUN, models["told"], "-m", "chat", "--tools", tmp_path / "none", stdin="x\n")
    assert result.status == 1 and "the file of tools" in result.error_line()
    told_by_python = load_artifact(str(models["told"])).chat_turn
    with_tools = told_by_python([("user", "x")], tools=tools.read_text())
    assert with_tools == told_by_python([("user", "x")], tools=tools.read_text(), tools_path="t.json")
    assert len(with_tools) > len(told_by_python([("user", "x")])) == bare
    for text in ("", "{}", "3"):
        with pytest.raises(ValueError, match="^the text given holds no tools: "):
            told_by_python([("user", "x")], tools=text)
    for text in ("{}", "[", "3", "[3]"):
        tools.write_text(text)
        result = run(ET_RUN, models["told"], "-m", "chat", "--tools", tools, stdin="x\n")
        assert result.status == 1 and f"{tools} holds no tools: " in result.error_line()
        words = ["generate", models["told"], "--chat", "--prompt", "x", "--tools", tools]
        assert cli.main([str(word) for word in words]) == 1
        assert f"{tools} holds no tools: " in capsys.readouterr().err
