"""Answer what other projects call flags, verbs and quantizations: taken as ours, or answered with ours.

Sources: torchchat's cli/main.py; ExecuTorch's `export_llama` and torchao's `quantize_` for kinds of
quantization, llama.cpp's `llama-quantize` and transformers' configurations for more of them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# Flags that are taken, where a verb has the one they stand for.
SAME_FLAGS = {
    "--checkpoint-path": "--checkpoint", "--checkpoint-dir": "--checkpoint", "--gguf-path": "--checkpoint",
    "--tokenizer-path": "--tokenizer",
}  # fmt: skip

_CHATS = "`./cmake-out/et_run FILE.pte -m chat` chats in the terminal"
_TO_RUN = "names an artifact: to write one, {}; to run one, give its path in MODEL's place (generate, eval)"
FLAG_ANSWERS = {
    "--pte-path": _TO_RUN.format("--output-pte PATH"),
    "--dso-path": _TO_RUN.format("--output-dso PATH"),
    "--aoti-package-path": _TO_RUN.format("--output-aoti-package PATH"),
    "--snapshot-path": "is not read here: give a checkpoint, or a .pte, .pt2 or .so",
    "--output-snapshot-path": "is not written here: --output-pte, --output-aoti-package or --output-dso",
    "--params-path": "is not needed: params.json is read beside the weights; --checkpoint FOLDER with both",
    "--params-table": "is not needed: params.json beside the weights says it; --checkpoint FOLDER with both",
    "--dcp-dir": "is not read here: --checkpoint FOLDER with safetensors or consolidated.*.pth",
    "--hf-token": "is not taken, where others see it: run `hf auth login`, or set HF_TOKEN",
    "--model-directory": "is not taken: set HF_HOME to the folder for downloads",
    "--dynamic-shapes": "is not needed: every export takes prompts of any length; leave it out",
    "--is-chat-model": "is not needed: the checkpoint's template says it; leave it out",
    "--attention-backend": "is not taken: --delegate says whose kernels run",
    "--sequential-prefill": "is not taken: leave it out",
    "--image-prompts": "is not taken: models here read text only",
    "--gui": "is not taken: " + _CHATS,
    "--draft-checkpoint-path": "is not taken: this version does not speculate",
    "--speculate-k": "is not taken: this version does not speculate",
}  # fmt: skip

_CACHE = "downloads are the Hugging Face cache's: "
VERB_ANSWERS = {
    "chat": "`./cmake-out/et_run FILE.pte -m chat` chats with an exported model; the verb generate with "
            "--chat answers once",
    "server": "this version has no server: " + _CHATS,
    "serve": "this version has no server: " + _CHATS,
    "browser": "this version has no page: " + _CHATS,
    "download": "a model is downloaded when it is exported; alone: `hf download ORG/NAME`",
    "list": "the verb models lists the aliases; " + _CACHE + "`hf cache ls`",
    "where": _CACHE + "`hf cache ls` lists them, `hf download ORG/NAME` prints a model's folder",
    "remove": _CACHE + "`hf cache rm model/ORG/NAME`",
    "quantize": "an export's flag does it: python -m exporter MODEL --output-pte --quantize q4",
    "convert": "MODEL is read as it is: python -m exporter MODEL --output-pte",
    "run": "`./cmake-out/et_run FILE.pte -i TEXT` runs an exported model; or the verb generate",
    "tokenizer": "this version has no such verb: `./cmake-out/et_run FILE.pte --tokenize` tokenizes",
}  # fmt: skip


NOT_QUANTIZED = "{}"


@dataclass(frozen=True)
class Quantization:
    """Names of a kind of quantization that others use, and what `--quantize` takes for it."""

    names: str  # for people
    pattern: str  # of the whole name, in any case
    serves: str  # \1 stands for the first group of `pattern`

    def answer(self, name: str) -> str | None:
        """Return what serves for `name`; None where it is not of this kind."""
        found = re.fullmatch(self.pattern, name, re.IGNORECASE)
        return None if found is None else found.expand(self.serves)


def _with_method(method: str) -> str:
    return f'{{"linear:a8wx": {{"bitwidth": 4, "groupsize": 32, "method": "{method}"}}}}'


QUANTIZATIONS = (
    Quantization("llama.cpp's Q4_K_M, Q8_0, IQ3_XS, ...", r"i?q([2-68])_\w+", r"q\1"),
    Quantization("llama.cpp's TQ1_0, TQ2_0; bitnet, b1.58", r"tq[12]_0|bitnet|b1\.58", "ternary"),
    Quantization("llama.cpp's Q1_0, Q1_0_g128", r"q1_0(?:_g128)?", "q1"),
    Quantization("8da4w, 8da4w-gptq, int8_dynamic_activation_int4_weight",
                 r"(?:torchao:)?8da4w(?:-\w+)?|int8_?dynamic_?activation_?int4_?weight(?:config)?",
                 '{"linear:a8w4dq": {"groupsize": 128}}'),
    Quantization("4w, int4, int4wo-128, w4a16",
                 r"(?:torchao:)?4w|w4(?:a16)?|int4(?:wo(?:-\d+)?|_?weight_?only(?:config)?)?",
                 '{"linear:int4": {"groupsize": 128}}'),
    Quantization("8w, int8, int8wo, w8a16",
                 r"(?:torchao:)?8w|w8(?:a16)?|int8(?:wo|_?weight_?only(?:config)?)?",
                 '{"linear:int8": {"groupsize": 0}}'),
    Quantization("8da8w, int8dq, w8a8, fp8, float8wo, load_in_8bit",
                 r"8da8w|int8dq|w8a8|int8_?dynamic_?activation_?int8_?weight(?:config)?|fp8\w*|float8\w*"
                 r"|(?:load_in_)?8-?bits?", "q8"),
    Quantization("nf4, fp4, mxfp4, load_in_4bit", r"(?:nf|fp|mxfp|nvfp)4|(?:load_in_)?4-?bits?", "q4"),
    Quantization("2bit, 3-bit, 6bits", r"([2356])-?bits?", r"q\1"),
    Quantization("gptq, awq, hqq, smoothquant", r"(?:\w+-)?(gptq|awq|hqq|smoothquant)",
                 _with_method(r"\1")),
    Quantization("f16, bf16, f32, none", r"b?f(?:16|32)|none|no", NOT_QUANTIZED),
)  # fmt: skip


def quantization_answer(name: str) -> str | None:
    """Return what `--quantize` takes for what others call `name`; None where no table row fits."""
    return next((found for row in QUANTIZATIONS if (found := row.answer(name)) is not None), None)


def quantization_table() -> str:
    """Return the table as Markdown, with \\1 written as N."""
    rows = ["| elsewhere | `--quantize` |", "|---|---|"]
    for row in QUANTIZATIONS:
        serves = row.serves.replace(r"\1", "METHOD" if "method" in row.serves else "N")
        said = f"`{serves}`" if serves != NOT_QUANTIZED else "none, but `--dtype fp32`, `bf16` or `fp16`"
        rows.append(f"| {row.names} | {said} |")
    return "\n".join(rows)
