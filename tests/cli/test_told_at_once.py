"""What cannot be is said before torch is loaded, within half a second of the first line."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import family
import gguf
import peft_adapter
import pytest
import tiny
import torch
import transformers
from checkpoint_files import finish
from native import ROOT

SECONDS = 0.5
# Runs every command line in one process and tells what torch had to do with it. The time is the process's
# own: others' work on the machine does not count.
WATCH = """
import io, json, sys, time
from exporter.cli import main as cli
told = []
for words in json.load(sys.stdin):
    class Watched(io.StringIO):
        first = None
        def write(self, text):
            self.first = self.first or time.process_time()
            return super().write(text)
    real, sys.stderr = sys.stderr, Watched()
    status = cli.main(words)
    seconds = time.process_time() - sys.stderr.first
    loaded = sorted({"torch", "transformers"} & set(sys.modules))
    told.append([status, sys.stderr.getvalue(), seconds, loaded])
    sys.stderr = real
json.dump(told, sys.stdout)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Checkpoints under names that say what is wrong with them."""
    folder = tmp_path_factory.mktemp("told")
    model = tiny.make_hf(folder / "good", "llama3")
    (folder / "empty").mkdir()
    for name in ("other", "bare"):
        shutil.copytree(folder / "good", folder / name)
    config = tiny.read_json(folder / "good" / "config.json")
    tiny.write_json(folder / "other" / "config.json", config | {"architectures": ["OtherForCausalLM"]})
    (folder / "bare" / "tokenizer.json").unlink()
    tiny.write_meta(folder / "meta", model)
    peft_adapter.write(folder / "dora", peft_adapter.pairs(model, 1), use_dora=True)
    peft_adapter.write(folder / "lora", peft_adapter.pairs(model, 1), base_model_name_or_path="org/base")
    torch.save({"w": torch.ones(2)}, folder / "odd.pt")
    gemma = family.Case(
        transformers.Gemma3ForCausalLM, gguf.MODEL_ARCH.GEMMA3, {"num_hidden_layers": 2}, lambda *_: None
    )
    family.make_hf(folder / "gemma", gemma)
    writer = gguf.GGUFWriter(folder / "other.gguf", "mamba")
    writer.add_tensor("token_embd.weight", torch.ones(4, 4).numpy())
    finish(writer)
    return folder


CASES = {
    "an unknown alias": (1, "did you mean llama3.1?", ["lama3.1", "--output-pte"]),
    "a missing folder": (1, "did you mean good?", ["{}/goood", "--output-pte"]),
    "a missing checkpoint": (1, "nosuch does not exist", ["x", "--checkpoint", "nosuch", "--output-pte"]),
    "an empty folder": (1, "it is empty", ["{}/empty", "--output-pte"]),
    "an unsupported architecture": (1, "OtherForCausalLM", ["{}/other", "--output-aoti-package"]),
    "another in a GGUF file": (1, "'mamba' is not supported", ["{}/other.gguf", "--output-pte"]),
    "a method that the layers forbid": (1, "attention_out_norm",
        ["{}/gemma", "--output-pte", "--quantize",
         '{{"linear:a8wx": {{"bitwidth": 4, "method": "rotate+gptq"}}}}']),
    "a file without its config": (1, "params.json is missing", ["{}/odd.pt", "--output-pte"]),
    "an unwritable output": (1, "no such folder", ["{}/good", "--output-pte", "{}/nosuch/a.pte"]),
    "a wrong recipe": (2, "linear:int8",
                       ["{}/good", "--output-pte", "--quantize", '{{"linear:int7": {{}}}}']),
    "a recipe's missing file": (2, "no such file", ["{}/good", "--output-pte", "--quantize", "my.json"]),
    "a missing tokenizer": (1, "has no tokenizer beside it", ["{}/bare", "--output-pte"]),
    "one of Meta's": (1, "has no tokenizer beside it", ["{}/meta", "--output-pte"]),
    "a tokenizer that is not there": (1, "no.json does not exist",
                                      ["{}/bare", "--output-pte", "--tokenizer", "no.json"]),
    "a scheme that a backend lacks": (1, "does not run on executorch",
        ["{}/good", "--output-pte", "--delegate", "xnnpack", "--quantize", "q4"]),
    "a precision that a delegate lacks": (1, "computes in fp32", ["{}/good", "--output-pte", "--delegate",
        "xnnpack", "--quantize", "mobile", "--dtype", "fp16"]),
    "targets that a library lacks": (1, "one target", ["{}/good", "--output-dso", "--target",
        "x86-64,x86-64-v3"]),
    "a context that is too long": (1, "outside 1..256",
                                   ["{}/good", "--output-pte", "--max-seq-length", "257"]),
    "an adapter as the model": (1, "org/base --adapter", ["{}/lora", "--output-pte"]),
    "another kind of adapter": (1, "'use_dora'", ["{}/good", "--adapter", "{}/dora", "--output-pte"]),
    "an adapter that is not there": (1, "is no folder", ["{}/good", "--adapter", "{}/x", "--output-pte"]),
    "an adapter's scale": (2, "is no scale", ["{}/good", "--adapter", "{}/lora=zero", "--output-pte"]),
    "eval's missing model": (1, "neither an alias", ["eval", "nosuch", "--text", "{}/good/config.json"]),
    "eval's missing reference": (1, "neither an alias",
        ["eval", "{}/good", "--text", "{}/good/config.json", "--reference", "nosuch"]),
    "generate's missing tokenizer": (1, "no tokenizer", ["generate", "{}/bare", "--prompt", "x"]),
    "verify's missing artifact": (1, "no.pte does not exist", ["verify", "no.pte"]),
    "bench's missing artifact": (1, "no.pte does not exist", ["bench", "no.pte"]),
}  # fmt: skip


@pytest.fixture(scope="module")
def told(folder) -> dict[str, list]:
    calls = [[word.format(folder) for word in words] for _, _, words in CASES.values()]
    done = subprocess.run(
        [sys.executable, "-c", WATCH], input=json.dumps(calls), capture_output=True, text=True,
        cwd=ROOT, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return dict(zip(CASES, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("case", CASES)
def test_what_cannot_be_is_told_at_once(told, case):
    status, text, seconds, loaded = told[case]
    expected, said, _ = CASES[case]
    assert status == expected and said in text.splitlines()[-1], text
    assert text.splitlines()[-1].startswith("error: ") and "loading torch" not in text
    assert loaded == [], f"{loaded} were loaded"
    assert seconds < SECONDS
