"""torchao's opaque weights on our kernels: in eager beside torchao's own unpacked weights,
exported, rewritten to `lowbit::*` and lowered."""

import copy
import os
import subprocess
import sys

import pytest
import torch
from native import ROOT
from torch import Tensor, nn
from torchao.prototype.quantization.embedding.api import EmbeddingQuantizer, TiedEmbeddingQuantizer
from torchao.prototype.tensor_conversion.api import _convert_model_for_aarch64
from torchao.quantization import (
    Int8DynamicActivationIntxWeightConfig,
    IntxUnpackedToInt8Tensor,
    IntxWeightOnlyConfig,
    MappingType,
    PerAxis,
    PerGroup,
    quantize_,
)
from torchao.quantization.quant_primitives import _DTYPE_TO_BIT_WIDTH
from torchao.quantization.quantize_.workflows.intx import intx_unpacked_to_int8_tensor as intx

from exporter.contrib.torchao import aliases
from exporter.contrib.torchao.rewrite import rewrite
from exporter.lowbit import ops
from exporter.lower import to_executorch

BITS = range(1, 9)
MAPPINGS = [MappingType.SYMMETRIC, MappingType.ASYMMETRIC]
GROUPS = [PerGroup(32), PerAxis(0)]
# Every bit width and mapping, with one kind of groups each.
SOME = [(n, m, GROUPS[(n + i) % 2]) for n in BITS for i, m in enumerate(MAPPINGS)]
COLUMNS = {GROUPS[0]: 96, GROUPS[1]: 40}  # a row's own group may have any length
VOCABULARY, WIDTH = 50, 64
TOKENS = torch.tensor([[3, 0, 49, 3, 17]])
ANY = torch.export.Dim("T", max=16)


@pytest.fixture(scope="module", autouse=True)
def _loaded():
    assert aliases.load_aliases()
    torch.manual_seed(0)


def config(bits: int, groups=GROUPS[0], mapping=MAPPINGS[0], packing="opaque_torchao_auto"):
    return Int8DynamicActivationIntxWeightConfig(
        weight_dtype=getattr(torch, f"int{bits}"),
        weight_granularity=groups,
        weight_mapping_type=mapping,
        intx_packing_format=packing,
    )


def quantized(layer: nn.Module, *arguments, **options) -> nn.Module:
    layer = copy.deepcopy(layer)
    quantize_(layer, config(*arguments, **options))
    return layer


def scale_error(weight: IntxUnpackedToInt8Tensor) -> Tensor:
    """By how much packing may move each weight [N, K]: scales are float16 times one power of two
    that brings the largest to 2^13..2^14; below float16's normal range the step is 2^-24."""
    scale = weight.scale.double()
    exponent = torch.frexp(scale.max()).exponent - 14
    moved = torch.maximum(scale * 2.0**-11, torch.ldexp(torch.tensor(2.0**-25), exponent).double())
    repeated, zeros = (
        t.repeat_interleave(weight.block_size[1], 1) for t in (moved, weight.zero_point.double())
    )
    return repeated * (weight.qdata.double() - zeros).abs()


def linear_bound(x: Tensor, weight: IntxUnpackedToInt8Tensor) -> Tensor:
    """Of the difference [T, N] between our kernel and torchao's unpacked layer: both give the same
    int8 activations, so what differs is the scales' rounding, and float32 sums of K terms whose
    parts, before zero points are taken off, are at most 2^9 activation steps times 2^n weight
    steps."""
    x_int8 = intx._apply_int8_act_asym_per_token_quant_dequant(x).double()
    span = x.clamp(min=0).amax(1) - x.clamp(max=0).amin(1)  # 255 steps
    levels = 2 ** _DTYPE_TO_BIT_WIDTH[weight.target_dtype]
    steps = weight.scale.double().sum(1) * weight.block_size[1] * levels
    rounding = (x.shape[1] + 8) * 2.0**-24 * 2 * span.double()[:, None] * steps[None, :]
    return x_int8.abs() @ scale_error(weight).T + rounding


# --- Eager ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("groups", GROUPS, ids=str)
@pytest.mark.parametrize("mapping", MAPPINGS, ids=lambda mapping: mapping.name)
@pytest.mark.parametrize("bits", BITS)
def test_linear_equals_torchaos_unpacked(bits, mapping, groups):
    columns = COLUMNS[groups]
    for bias, shape in ((True, (2, 3)), (False, (1,)), (True, ())):
        layer = nn.Linear(columns, 37, bias=bias)
        x = torch.randn(*shape, columns)
        packed = quantized(layer, bits, groups, mapping)
        plain = quantized(layer, bits, groups, mapping, "unpacked_to_int8")
        assert packed.bias is None
        actual, expected = packed(x), plain(x)
        assert actual.shape == expected.shape
        bound = linear_bound(x.view(-1, columns), plain.weight)
        assert ((actual - expected).view(-1, 37).abs() <= bound).all()


@pytest.mark.parametrize("packing", ["opaque_torchao_auto", "opaque_torchao_lowbit"])
def test_bfloat16(packing):
    """torchao converts activations and results, so that only the result's rounding is added."""
    layer = nn.Linear(64, 8, dtype=torch.bfloat16)
    packed = quantized(layer, 4, packing=packing)
    weight = quantized(layer, 4, packing="unpacked_to_int8").weight.to(torch.float32)
    x = torch.randn(3, 64, dtype=torch.bfloat16)
    actual, expected = packed(x), nn.functional.linear(x.float(), weight, layer.bias.float())
    assert actual.dtype == torch.bfloat16
    bound = linear_bound(x.float(), weight) * 1.01 + expected.abs() * 2.0**-8
    assert ((actual - expected).abs() <= bound).all()


def packed_and_plain_embedding(bits: int, mapping, groups) -> tuple[nn.Module, nn.Module]:
    """One quantized table twice: in torchao's packing, and as torchao computes it unpacked."""
    table = nn.Sequential(nn.Embedding(VOCABULARY, WIDTH))
    options = {"weight_dtype": getattr(torch, f"int{bits}"), "granularity": groups}
    packed = EmbeddingQuantizer(**options, mapping_type=mapping)
    plain = EmbeddingQuantizer(**options, mapping_type=mapping, use_fallback=True)
    return packed.quantize(copy.deepcopy(table)), plain.quantize(table)


@pytest.mark.parametrize("groups", [PerGroup(32), PerGroup(16), PerAxis(0)], ids=str)
@pytest.mark.parametrize("mapping", MAPPINGS, ids=lambda mapping: mapping.name)
@pytest.mark.parametrize("bits", BITS)
def test_embedding_equals_torchaos_unpacked(bits, mapping, groups):
    """The integers are packed and the scales are not: no bit differs."""
    packed, plain = packed_and_plain_embedding(bits, mapping, groups)
    for tokens in (TOKENS, TOKENS[0, 1], TOKENS.view(5, 1).int()):
        assert torch.equal(packed(tokens), plain(tokens))


@pytest.mark.parametrize("groups", GROUPS, ids=str)
@pytest.mark.parametrize("mapping", MAPPINGS, ids=lambda mapping: mapping.name)
@pytest.mark.parametrize("bits", BITS)
def test_shared_embedding(bits, mapping, groups):
    model = Decoder(tied=True)
    plain = quantized(model.out, bits, groups, mapping, "unpacked_to_int8").weight
    TiedEmbeddingQuantizer(getattr(torch, f"int{bits}"), groups, mapping).quantize(model)
    rows, expected = model.emb(TOKENS), plain.dequantize()[TOKENS].double()
    assert rows.shape == (1, 5, WIDTH)
    moved = scale_error(plain)[TOKENS] + expected.abs() * 2.0**-23
    assert ((rows - expected).abs() <= moved).all()
    x = torch.randn(3, WIDTH)
    error = (model.out(x) - nn.functional.linear(x, plain)).abs()
    assert (error <= linear_bound(x, plain)).all()


# --- What is refused ------------------------------------------------------------------------------


def packed_weight() -> Tensor:
    return quantized(nn.Linear(64, 20), 4).weight.packed_weights


def run_linear(packed: Tensor, group_size=32, n=20, k=64, bits=4, width=64) -> Tensor:
    operator = getattr(torch.ops.torchao, f"_linear_8bit_act_{bits}bit_weight")
    return operator(torch.zeros(1, width), packed, group_size, n, k)


def test_packed_bytes_are_checked():
    packed = packed_weight()
    assert run_linear(packed).shape == (1, 20)
    for damage in (packed[:-1], packed[:-4], packed[:63], packed[:0], torch.cat([packed, packed])):
        with pytest.raises(RuntimeError, match="packed_weights"):
            run_linear(damage)
    for at in range(0, 56):  # every byte of the header that means something
        damage = packed.clone()
        damage[at] ^= 0x55
        if 28 <= at < 32 and -126 <= damage[28:32].view(torch.int32).item() <= 127:
            continue  # another scale is another weight, as good as this one
        with pytest.raises(RuntimeError, match="packed_weights"):
            run_linear(damage)
    theirs = torch.zeros(512, dtype=torch.int8)
    theirs[:8] = torch.tensor([6712, 1], dtype=torch.int32).view(torch.int8)
    with pytest.raises(RuntimeError, match="packed by the library that uses them"):
        run_linear(theirs)


@pytest.mark.parametrize(
    "wrong",
    [{"group_size": 64}, {"group_size": 31}, {"group_size": 0}, {"n": 21}, {"k": 32}, {"bits": 5},
     {"width": 32}],
    ids=str,
)  # fmt: skip
def test_calls_are_checked(wrong):
    with pytest.raises(RuntimeError):
        run_linear(packed_weight(), **wrong)


def test_packing_is_checked():
    pack = torch.ops.torchao._pack_8bit_act_4bit_weight
    values, scales = torch.zeros(2, 64, dtype=torch.int8), torch.ones(4)
    zeros = torch.zeros(4, dtype=torch.int8)
    assert pack(values, scales, zeros, 32, torch.ones(2), "universal").dtype == torch.int8
    for arguments, words in {
        (values + 8, scales, None, 32, None, None): "8, which does not fit in 4 bits",
        (values - 9, scales, None, 32, None, None): "-9, which does not fit",
        (values, scales, zeros + 8, 32, None, None): "weight_zeros holds 8",
        (values, scales, zeros.float(), 32, None, None): "weight_zeros must be dense Char",
        (values, scales[:3], None, 32, None, None): "weight_scales must have 4 values, not 3",
        (values, scales * float("nan"), None, 32, None, None): "not finite",
        (values, scales, zeros[:2], 32, None, None): "weight_zeros must have 4 values, not 2",
        (values, scales, None, 32, torch.ones(3), None): "bias must have 2 values, not 3",
        (values, scales, None, 8, None, None): "a multiple of 16",
        (values, scales, None, 48, None, None): "does not divide",
        (values, scales, None, 32, None, "kleidiai"): "opaque_torchao_auto",
    }.items():
        with pytest.raises((RuntimeError, ValueError), match=words):
            pack(*arguments)


def test_indices_are_checked():
    packed = quantized(nn.Linear(64, 20, bias=False), 4).weight.packed_weights
    lookup = torch.ops.torchao._shared_embedding_4bit
    assert lookup(packed, 32, 20, 64, torch.tensor([0, 19])).shape == (2, 64)
    for wrong in (20, -1):
        with pytest.raises(RuntimeError, match="not in 0..19"):
            lookup(packed, 32, 20, 64, torch.tensor([wrong]))


def python(script: str, **environment) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        env={**os.environ, **environment}, cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]


def test_torchaos_own_library_stays():
    script = """
import torch
theirs = torch.library.Library("torchao", "FRAGMENT")
theirs.define("_pack_embedding_3bit(Tensor weight_qvals) -> Tensor")
from exporter.contrib.torchao import aliases
print(aliases.load_aliases(), aliases.is_loaded())
"""
    assert python(script) == "False False"


def test_shapes_where_torchao_registers_none():
    script = """
import torch
from exporter.contrib.torchao import aliases
print(aliases.load_aliases(), end=" ")
with torch.device("meta"):
    x, packed, tokens = torch.empty(3, 64), torch.empty(9), torch.empty(7, dtype=torch.int64)
t = torch.ops.torchao
print(t._linear_8bit_act_1bit_weight(x, packed, 32, 5, 64).shape[1],
      t._embedding_8bit(packed, 9, 64, x, x, tokens).shape[0],
      t._shared_embedding_4bit(packed, 32, 9, 64, tokens).shape[1])
"""
    assert python(script, TORCHAO_FORCE_SKIP_LOADING_SO_FILES="1") == "True 5 7 64"


# --- Programs -------------------------------------------------------------------------------------


class Decoder(nn.Module):
    def __init__(self, tied: bool):
        super().__init__()
        self.emb = nn.Embedding(VOCABULARY, WIDTH)
        self.mid = nn.Linear(WIDTH, WIDTH)
        self.out = nn.Linear(WIDTH, VOCABULARY, bias=False)
        if tied:
            self.out.weight = self.emb.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.out(torch.relu(self.mid(self.emb(tokens))))


def tied_model() -> Decoder:
    """As `TiedEmbeddingQuantizer` leaves it: modules of its own, and a linear layer beside them."""
    model = Decoder(tied=True)
    TiedEmbeddingQuantizer(torch.int4, PerGroup(32)).quantize(model)
    quantize_(model, config(4))
    return model


def exported(model: nn.Module, x: Tensor, dynamic: int = 1) -> torch.export.ExportedProgram:
    return torch.export.export(model, (x,), dynamic_shapes=({dynamic: ANY},))


def operators(program) -> set[str]:
    return {str(n.target) for n in program.graph.nodes if n.op == "call_function"}


def constants(program) -> list[Tensor]:
    return [*program.state_dict.values(), *program.constants.values()]


@pytest.mark.parametrize("bits, mapping, groups", SOME)
def test_rewritten_linear(bits, mapping, groups):
    columns = COLUMNS[groups]
    layer = quantized(nn.Linear(columns, 37), bits, groups, mapping)
    program = exported(layer, torch.randn(2, 3, columns))
    assert f"torchao._linear_8bit_act_{bits}bit_weight.default" in operators(program)
    before = str(program)
    result = rewrite(program)
    assert str(program) == before
    assert not any("torchao" in name for name in operators(result))
    assert sorted(str(c.dtype) for c in constants(result)) == ["torch.float32", "torch.uint8"]
    x = torch.randn(2, 7, columns)
    assert torch.equal(result.module()(x), layer(x))


def test_rewritten_output_and_strides(tmp_path):
    """A program whose output is the operator's own, with activations that are not dense; saved and
    loaded."""

    class Transposed(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = quantized(nn.Linear(32, 5), 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x.t())

    model, x = Transposed(), torch.randn(32, 3)
    torch.export.save(rewrite(exported(model, x)), tmp_path / "m.pt2")
    result = torch.export.load(tmp_path / "m.pt2")
    assert torch.equal(result.module()(x), model(x))


@pytest.mark.parametrize("bits, mapping, groups", SOME)
def test_rewritten_embedding(bits, mapping, groups):
    """Its scales become float16, so that its rows are those of the packed table."""
    model, plain = packed_and_plain_embedding(bits, mapping, groups)
    tokens = TOKENS.int() if bits == 4 else TOKENS
    result = rewrite(exported(model, tokens))
    assert not any("torchao" in name for name in operators(result))
    [table] = constants(result)
    rows = result.module()(tokens)
    assert torch.equal(rows, torch.ops.lowbit.unpack(table)[TOKENS])
    weight, expected = plain[0].embedding.weight, plain(TOKENS)
    moved = scale_error(weight)[TOKENS] + expected.abs() * 2.0**-23
    assert ((rows - expected).abs() <= moved).all()


def test_shared_table_is_one_constant():
    converted = Decoder(tied=True)
    quantize_(converted, config(4, packing="unpacked_to_int8"))
    weight_only = IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=PerGroup(32))
    quantize_(converted, weight_only, lambda module, name: isinstance(module, nn.Embedding))
    _convert_model_for_aarch64(converted)
    for model in (tied_model(), converted):
        result = rewrite(exported(model, TOKENS))
        assert not any("torchao" in name for name in operators(result))
        assert sorted(str(c.dtype) for c in constants(result)) == [
            "torch.float32", "torch.uint8", "torch.uint8",
        ]  # fmt: skip
        assert torch.equal(result.module()(TOKENS[:, :3]), model(TOKENS[:, :3]))


def test_what_cannot_be_rewritten(monkeypatch):
    class Packing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.ops.torchao._pack_embedding_4bit(x)

    class Given(nn.Module):
        def forward(self, packed: Tensor, x: Tensor) -> Tensor:
            return torch.ops.torchao._linear_8bit_act_4bit_weight(x, packed, 32, 20, 64)

    with pytest.raises(ValueError, match="pack the weights before"):
        rewrite(torch.export.export(Packing(), (torch.zeros(2, 64, dtype=torch.int8),)))
    with pytest.raises(ValueError, match="must be a constant"):
        rewrite(torch.export.export(Given(), (packed_weight(), torch.zeros(1, 64))))
    narrow = nn.Sequential(nn.Embedding(VOCABULARY, WIDTH))
    EmbeddingQuantizer(torch.int4, PerGroup(8)).quantize(narrow)
    with pytest.raises(ValueError, match="groups of 8"):
        rewrite(exported(narrow, TOKENS))
    monkeypatch.setattr("exporter.contrib.torchao.rewrite.is_loaded", lambda: False)
    with pytest.raises(ValueError, match="torchao's own library"):
        rewrite(exported(tied_model(), TOKENS))


def test_lowers_to_executorch():
    from executorch.exir import ExecutorchBackendConfig

    program = rewrite(exported(tied_model(), TOKENS))
    edge = to_executorch._to_edge(program, {}, xnnpack=False)
    lowered = edge.to_executorch(ExecutorchBackendConfig(run_reinplace_pass=True))
    plan = lowered.executorch_program.execution_plan[0]
    names = {operator.name for operator in plan.operators}
    assert {"lowbit::linear_a8wx", "lowbit::embedding"} <= names
    assert not any("torchao" in name for name in names)


def test_lowers_to_aoti(tmp_path):
    model = tied_model()
    with torch.no_grad():
        package = torch._inductor.aoti_compile_and_package(
            rewrite(exported(model, TOKENS)),
            package_path=str(tmp_path / "m.pt2"),
            inductor_configs={"aot_inductor.custom_ops_to_c_shims": ops.c_shims()},
        )
        compiled = torch._inductor.aoti_load_package(package)
        for length in (1, 5, 9):
            tokens = torch.randint(0, VOCABULARY, (1, length))
            assert torch.equal(compiled(tokens), model(tokens))
