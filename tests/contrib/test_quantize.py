"""Every scheme on the stock kernels and XNNPACK, through the runners, against eager.

The bound: a native run may differ from eager by rounding, never by a tenth of what quantizing
changed. Dropped scales, wrong zero points or a wrong group size change far more than that.
"""

import json

import numpy as np
import pytest
import tiny
import torch
from native import export, generate, logits, run, runner_of

from exporter.checkpoint.checkpoint import open_checkpoint
from exporter.checkpoint.load import load_model
from exporter.contrib.torchao.quantize import INT4_GROUPSIZES, fitting_groupsize, quantize
from exporter.recipe.recipe import parse_recipe
from exporter.recipe.schemes import AOTI, BACKENDS, EXECUTORCH, LOWBIT, SUPPORT

CONTEXT = 64
TOKENS = list(range(5, 25))
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
MAX_SHARE = 0.1  # of the quantization error

# (backend suffix, delegate, dtype, recipe)
CASES = [
    (".pt2", "stock", "fp32", {"linear:int8": {"groupsize": 0}}),
    (".pt2", "stock", "bf16", {"linear:int4": {"groupsize": 32}}),
    (".pt2", "stock", "fp32", {"linear:a8w4dq": {"groupsize": 32}, "embedding": {"bitwidth": 4}}),
    (".pte", "xnnpack", "fp32", {"linear:a8w4dq": {"groupsize": 32}, "embedding": {"bitwidth": 4}}),
    (".pte", "stock", "fp32", {"embedding": {"bitwidth": 8, "groupsize": 0}}),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    tiny.make_hf(folder, "llama3")
    return folder


def eager_logits(folder, recipe, dtype) -> np.ndarray:
    checkpoint = open_checkpoint(str(folder))
    model = load_model(checkpoint, dtype, CONTEXT)
    quantize(model, recipe, lambda line: None)
    rows = torch.arange(len(TOKENS))
    with torch.no_grad():
        return model.new_session().read(torch.tensor([TOKENS]), 0, rows).float().numpy()


@pytest.mark.parametrize(
    ("suffix", "delegate", "dtype", "parts"), CASES, ids=lambda value: str(value).replace("/", "_")
)
def test_native_equals_eager(suffix, delegate, dtype, parts, folder, tmp_path):
    recipe = parse_recipe(json.dumps(parts))
    quantized = eager_logits(folder, recipe, DTYPES[dtype])
    unquantized = eager_logits(folder, parse_recipe(None), torch.float32)
    artifact = tmp_path / f"q{suffix}"
    flag = "--output-pte" if suffix == ".pte" else "--output-aoti-package"
    export(
        folder, flag, artifact, "--quantize", json.dumps(parts), "--dtype", dtype,
        "--max-seq-length", CONTEXT, "--delegate", delegate,
    )  # fmt: skip
    actual = logits(artifact, TOKENS, tmp_path)
    quantization_error = np.linalg.norm(quantized - unquantized)
    assert quantization_error > 0
    assert np.linalg.norm(actual - quantized) < MAX_SHARE * quantization_error


def test_every_stock_scheme_has_a_case():
    suffixes = {EXECUTORCH: ".pte", AOTI: ".pt2"}
    tested = {(key, suffix) for suffix, _, _, parts in CASES for key in parts}
    expected = {
        (entry.key, suffixes[backend])
        for entry in SUPPORT if entry.key != "none"
        for backend in BACKENDS if set(entry.delegates(backend)) - {LOWBIT}
    }  # fmt: skip
    assert tested == expected


@pytest.mark.parametrize(("suffix", "dtype"), [(".pte", "bf16"), (".pt2", "fp16")])
def test_16_bit_weights(suffix, dtype, folder, tmp_path):
    """A 16-bit artifact is as close to float32 as the eager model of that dtype is.

    Both round the same weights and about as many intermediate values, in another order: their
    errors are of one size, and twice eager's is beyond what the order can explain.
    """
    recipe = parse_recipe(None)
    expected = eager_logits(folder, recipe, torch.float32)
    rounding = np.linalg.norm(eager_logits(folder, recipe, DTYPES[dtype]) - expected)
    artifact = tmp_path / f"h{suffix}"
    flag = "--output-pte" if suffix == ".pte" else "--output-aoti-package"
    export(folder, flag, artifact, "--dtype", dtype, "--max-seq-length", CONTEXT,
           "--delegate", "stock")  # fmt: skip
    actual = logits(artifact, TOKENS, tmp_path)
    assert 0 < np.linalg.norm(actual - expected) < 2 * rounding


@pytest.mark.parametrize(
    ("width", "groupsize", "expected"),
    [(576, 32, 32), (576, 128, 96), (576, 256, 192), (1536, 256, 256), (64, 256, 64)],
)
def test_groupsize_falls_back_to_a_divisor(width, groupsize, expected):
    assert fitting_groupsize(width, groupsize) == expected
    assert width % expected == 0


@pytest.mark.parametrize(("width", "groupsize", "expected"), [(576, 128, 64), (768, 192, 128)])
def test_int4_takes_only_what_its_kernel_packs(width, groupsize, expected):
    assert fitting_groupsize(width, groupsize, INT4_GROUPSIZES) == expected


def test_width_without_groups_is_refused():
    with pytest.raises(ValueError, match="width 100"):
        fitting_groupsize(100, 32)


def test_fallback_is_said_once_with_the_layers(folder):
    model = load_model(open_checkpoint(str(folder)), torch.float32, CONTEXT)
    lines = []
    quantize(model, parse_recipe('{"linear:a8w4dq": {"groupsize": 256}}'), lines.append)
    assert len(lines) == 1
    assert "layers.*.attention.wq (2)" in lines[0] and "256" in lines[0]


@pytest.mark.slow_lowering
def test_smollm2_names_paris_quantized(tmp_path):
    recipe = '{"embedding": {"bitwidth": 4, "groupsize": 32}, "linear:a8w4dq": {"groupsize": 32}}'
    pte, package = tmp_path / "q.pte", tmp_path / "q.pt2"
    export("smollm2", "--quantize", recipe, "--output-pte", pte, "--delegate", "xnnpack")
    export("smollm2", "--quantize", recipe, "--output-aoti-package", package, "--delegate", "stock")
    for artifact in (pte, package):
        text = generate(artifact, "-t", 0, "-n", 12, "-i", "The capital of France is")
        assert "Paris" in text
        assert run(runner_of(artifact), artifact, "-t", 0, "-n", 4, "-i", "Hi").status == 0
