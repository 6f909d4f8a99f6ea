"""llama.cpp's quality figures from its programs' words; the texts they are measured on."""

from __future__ import annotations

import json
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import tiny

from exporter.tokenizer.tokenizer import read_tokenizer
from scripts import calibration_texts, compare_llama_cpp
from scripts.bench import llama_quality, work
from scripts.bench.command_line import exit_status

WINDOWS = 3
KL = {"Q8_0": 0.0037, "Q2_0": 18.729736, "F32": -0.000001}
# Each writes what the real one does, in its words, and its arguments into a line of `calls`.
FAKES = {
    "llama-imatrix": """
        Path(after("-o")).write_bytes(b"matrix")
        """,
    "llama-quantize": """
        if args[0] == "--allow-requantize":
            Path(args[2]).write_text("F32 of " + Path(args[1]).read_text())
        else:
            kind = args[-2]
            Path(args[-3]).write_text(kind.ljust(100 if "--pure" in args else 200))
            print("warning: output.weight - ncols    576 not divisible by 256 (required for type"
                  "    q2_K) -> falling back to    q4_0")
            print("[   1/   2] output.weight      - [   64,  320,   1,   1], type =    f32, ")
            print("====== llama_model_quantize_impl: did not find weights for output.weight")
            print("converting to q4_0 .. size =  108.00 MiB ->   15.19 MiB")
            print(f"[   2/   2] norm.weight - [ {weights - 64 * 320}, 1, 1, 1], type =    f32, "
                  "size =    0.002 MiB")
        """,
    "llama-perplexity": """
        if args == ["--version"]:
            print("version: 0.6.0-dev (build 11434, commit pypi-11434.0.0)")
        elif "--kl-divergence" not in args:
            head = np.array([512, 320, int(after("--chunks"))], "<i4").tobytes()
            Path(after("--kl-divergence-base")).write_bytes(b"_logits_" + head + tokens)
            print("Final estimate: PPL = 33.9113 +/- 1.25000")
        else:
            words = Path(after("-m")).read_bytes()
            name = next((name for name in kl if name.encode() in words[:20]), "F32")
            if name == "F32" and b"GGUF" not in words[:4]:
                sys.exit("error: failed to load model")
            print("Mean PPL(Q)                   :  34.035600 ±   1.260000")
            print("Mean PPL(base)                :  33.911300 ±   1.250000")
            print(f"Mean    KLD: {kl[name]:10.6f} ±   0.000100")
            print("Same top p: 97.500 ± 0.200 %")
        """,
}


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch) -> Path:
    """A folder with a float GGUF, two texts and stand-ins for llama.cpp's programs."""
    tiny.write_gguf(tmp_path / "float.gguf", tiny.make_hf(tmp_path / "hf", "smollm2"))
    (tmp_path / "b.txt").write_text(" ".join(tiny.TEXT * 40) + "\n", encoding="utf-8")
    (tmp_path / "a.txt").write_text("Another text.\n", encoding="utf-8")
    text = (tmp_path / "b.txt").read_text(encoding="utf-8").removesuffix("\n")
    ids = read_tokenizer(tmp_path / "float.gguf").encode(text)[: 512 * WINDOWS]
    weights = llama_quality.parameters(tmp_path / "float.gguf")
    for name, body in FAKES.items():
        script = tmp_path / name
        script.write_text(f"#!{sys.executable}\n" + textwrap.dedent(f"""
            import sys
            from pathlib import Path
            import numpy as np
            args = sys.argv[1:]
            after = lambda flag: args[args.index(flag) + 1]
            with open({str(tmp_path / "calls")!r}, "a") as calls:
                print({name!r}, *args, file=calls)
            kl, weights = {KL!r}, {weights}
            tokens = np.array({ids!r}, "<i4").tobytes()
            """) + textwrap.dedent(body), encoding="utf-8")  # fmt: skip
        script.chmod(0o755)
    monkeypatch.setattr(llama_quality, "LLAMA_BIN", tmp_path)
    monkeypatch.setattr(work, "build_llama_cpp", lambda: None)
    return tmp_path


def compare(folder: Path, types: str, **changed: str) -> int:
    paths = {"model": "float.gguf", "calibrate": "a.txt", "text": "b.txt", **changed}
    arguments = [folder / paths["model"], "--calibrate", folder / paths["calibrate"]]
    arguments += ["--text", folder / paths["text"], "--out", folder / "out.json"]
    arguments += ["--work", folder / "work", "--types", types, "--chunks", WINDOWS]
    return exit_status(compare_llama_cpp.main, [str(word) for word in arguments])


def calls(folder: Path) -> list[str]:
    """The programs called since the last time, without those that ask for the version."""
    file = folder / "calls"
    lines = file.read_text().splitlines()
    file.write_text("")
    return [line.split()[0] for line in lines if "--version" not in line]


def test_from_words_to_json_and_table(fakes: Path, capsys):
    assert compare(fakes, "Q8_0,Q2_0:pure,F32") == 0
    results = json.loads((fakes / "out.json").read_text(encoding="utf-8"))
    weights = llama_quality.parameters(fakes / "float.gguf")
    assert results["float"] | {"file_bytes": 0} == {
        "file_bytes": 0, "parameters": weights, "ppl": 33.9113, "ppl_error": 1.25,
    }  # fmt: skip
    row = results["types"]["Q8_0"]
    assert row["kl"] == 0.0037 and row["top1"] == 0.975 and row["ppl"] == 34.0356
    assert row["file_bytes"] == 200 and row["bits_a_weight"] == pytest.approx(1600 / weights)
    assert row["weights_by_type"] == {"F32": weights - 64 * 320, "Q4_0": 64 * 320}
    assert row["tensors_fallen_back"] == {"Q4_0": 1} and not row["dequantized"]
    # Measured as float32, counted as the file that it came from.
    row = results["types"]["Q2_0:pure"]
    assert row["kl"] == 18.729736 and row["dequantized"] and row["file_bytes"] == 100
    table = capsys.readouterr().out.splitlines()
    assert table[0] == "float: ppl 33.9113"
    assert [line.split(" ")[1] for line in table[4:]] == ["Q2_0:pure", "Q8_0", "F32"]
    assert not list((fakes / "work").glob("Q*"))
    assert str(fakes) not in (fakes / "out.json").read_text(encoding="utf-8")


def test_the_scored_windows_are_recorded(fakes: Path):
    assert compare(fakes, "F32") == 0
    windows = json.loads((fakes / "out.json").read_text(encoding="utf-8"))["windows"]
    assert (windows["count"], windows["length"]) == (WINDOWS, 512)
    assert (windows["first_scored"], windows["scored"]) == (257, 255)
    assert windows["as_ours"] and not windows["add_bos"]
    assert np.array(windows["tokens"]).shape == (WINDOWS, 512)


def test_an_interrupted_run_goes_on(fakes: Path):
    assert compare(fakes, "Q8_0") == 0
    assert calls(fakes) == ["llama-imatrix", "llama-perplexity", "llama-quantize",
                            "llama-perplexity"]  # fmt: skip
    assert compare(fakes, "Q8_0,F32") == 0
    assert calls(fakes) == ["llama-perplexity"]
    (fakes / "b.txt").write_text(" ".join(tiny.TEXT * 41), encoding="utf-8")
    assert compare(fakes, "F32") == 0  # another text: all anew
    assert calls(fakes) == ["llama-imatrix", "llama-perplexity", "llama-perplexity"]
    assert list(json.loads((fakes / "out.json").read_text(encoding="utf-8"))["types"]) == ["F32"]


@pytest.mark.parametrize(
    ("changed", "status", "named"),
    [
        ({"model": "absent.gguf"}, 1, "absent.gguf does not exist"),
        ({"calibrate": "b.txt"}, 2, "--calibrate and --text are both"),
    ],
)
def test_refusals_are_one_line(changed, status, named, fakes: Path, capsys):
    assert compare(fakes, "Q8_0", **changed) == status
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ") and named in error and "\n" not in error


def test_a_failing_program_is_named(fakes: Path, capsys):
    script = fakes / "llama-quantize"
    script.write_text("#!/bin/sh\necho loading; echo 'error: unknown type Q8_0'; echo bye; exit 3\n")
    assert compare(fakes, "Q8_0") == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == "error: llama-quantize ended with status 3: error: unknown type Q8_0"


def test_jargon_prose_drops_tables_and_lists():
    contents = "".join(f"   Heading {i}\n\n" for i in range(9))
    text = f"""                   The File

   ┌───┬────┐
   │ a │ b  │
   └───┴────┘

   Table of Contents

{contents}   A first line of prose
   that goes on.

   :word: n.

        a verse
        of two lines
"""
    assert calibration_texts.jargon_prose(text) == (
        "A first line of prose that goes on.\n\n:word: n.\n\n     a verse\n     of two lines\n"
    )


def test_page_text_is_what_a_reader_sees():
    html = """<html><head><title>T</title><style>p {}</style></head><body>
      <div id="banner">Download</div><ul class="docnav top"><li>Prev</li></ul>
      <h2>1. On <em>files</em></h2><p>Two  words,<br/>a &amp; b.<script>x()</script></p>
      <pre>$ ls
  a  b</pre><div class="toc"><a href="one.html#x">One</a></div><ul><li>item</li></ul>
      </body></html>"""
    assert calibration_texts.page_text(html) == (
        "1. On files\n\nTwo words, a & b.\n\n$ ls\n  a  b\n\nitem"
    )


def test_pages_come_in_the_order_of_the_contents(tmp_path: Path):
    links = ["two.html", "index.html", "one.html#a", "two.html#b", "http://x.org/three.html"]
    (tmp_path / "index.html").write_text("".join(f'<a href="{link}">.</a>' for link in links))
    assert [path.name for path in calibration_texts.pages_in_order(tmp_path)] == (
        ["two.html", "one.html"]
    )


def test_pages_follow_one_another_whatever_their_bytes(tmp_path: Path):
    (tmp_path / "a.html").write_bytes(b"<p>caf\xe9 one</p>")
    (tmp_path / "b.html").write_text("<p>two</p>")
    pages = [tmp_path / "a.html", tmp_path / "b.html"]
    with pytest.raises(UnicodeDecodeError):
        calibration_texts.text_of(pages)
    assert calibration_texts.text_of(pages, "replace") == "caf\N{REPLACEMENT CHARACTER} one\n\ntwo\n"


def test_apts_own_words_are_passed_on(tmp_path: Path, monkeypatch, capsys):
    apt = tmp_path / "apt-get"
    apt.write_text("#!/bin/sh\necho 'W: slow' >&2; echo 'E: no package found' >&2; exit 100\n")
    (tmp_path / "dpkg-deb").write_text("#!/bin/sh\n")
    for program in (apt, tmp_path / "dpkg-deb"):
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert exit_status(calibration_texts.main, [str(tmp_path / "texts")]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == "error: apt-get download failed: E: no package found"
