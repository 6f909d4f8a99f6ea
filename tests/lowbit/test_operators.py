"""`torch.ops.lowbit`, made from `kernels/bindings/operators.txt`: what tracing, AOTInductor and callers see.

The kernels themselves are tested in C++ (`tests/cpp/kernels_*`); here new arguments are held against
PyTorch's own functions in double precision, through the binding.
"""

import re
import subprocess
import sys

import pytest
import tiny
import torch
from native import ROOT, export, run, runner_of
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional

from exporter.lowbit import ops
from exporter.lowbit.decoder import score_scale
from exporter.lowbit.state import NO_ROPE, LayerLayout, State, StateLayout
from exporter.model.config import AttentionSpec
from exporter.model.rotation import Rotation
from exporter.runners.native import load_artifact

HEADS, KV_HEADS, WIDTH, TOKENS, CONTEXT = 6, 2, 24, 5, 48


@pytest.fixture(scope="module", autouse=True)
def _loaded():
    ops.load()


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(1)


def test_the_version_is_known_before_an_operator_is_used():
    """As an export of stock operators asks for it."""
    words = "from exporter.lowbit import ops; print(ops.interface_version())"
    done = subprocess.run([sys.executable, "-c", words], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == str(ops.interface_version()), done.stderr


def lowbit(name: str):
    return getattr(torch.ops.lowbit, name).default


THETA, PAIRS = 100.0, WIDTH // 4


class Forward:
    """A forward of TOKENS tokens at position 0 of a layer, and what `attention` is given in it. It is begun
    anew for each call: a layer runs once a forward."""

    def __init__(self, seed: int = 0, rotates: bool = True, **changes: object):
        generator = torch.Generator().manual_seed(seed)

        def random(*sizes: int) -> torch.Tensor:
            return torch.randn(*sizes, generator=generator)

        frequencies = tuple((THETA ** (-torch.arange(PAIRS) / PAIRS)).tolist())
        layer = LayerLayout(KV_HEADS, WIDTH, 0 if rotates else NO_ROPE)
        self.state = State(StateLayout((layer,), (Rotation(frequencies),)), CONTEXT, "float32")
        self.rotates, self.frequencies = rotates, torch.tensor(frequencies)
        session = self.state.open()
        self.segments = torch.tensor([[session, TOKENS]])
        self.arguments = {
            "qkv": random(TOKENS, (2 * HEADS + 2 * KV_HEADS) * WIDTH),
            "segments": self.segments, "state": self.state.tensor,
            "q_norm": random(WIDTH), "k_norm": random(KV_HEADS * WIDTH), "sinks": random(HEADS),
            "layer": 0, "heads": HEADS, "kv_heads": KV_HEADS, "head_dim": WIDTH, "window": 3,
            "interleaved": True, "gated": True, "norm_eps": 1e-6, "scale": 0.3, "softcap": 2.5,
        } | changes  # fmt: skip

    def attention(self, **out: torch.Tensor) -> torch.Tensor:
        operator = torch.ops.lowbit.attention.out if out else lowbit("attention")
        torch.ops.lowbit.begin_forward(self.state.handle, self.segments)
        try:
            return operator(**self.arguments, **out)
        finally:
            torch.ops.lowbit.abandon_forward(self.state.handle)


def samples() -> dict[str, dict[str, object]]:
    """Arguments of each operator of the table."""
    x, gate_up = torch.randn(3, 40), torch.randn(3, 80)
    floats = lowbit("pack_float")(torch.randn(17, 40), torch.float32)
    integers = lowbit("pack_integer")(
        torch.randint(0, 16, (17, 40), dtype=torch.uint8), torch.rand(17, 2), None, 4, 32, "none", False
    )
    linear = {"x": x, "weight": integers, "bias": torch.randn(17), "out_features": 17}
    gate = {"gate_up": gate_up, "limit": 7.0}
    routes = lowbit("route")(torch.randn(2, 3), 2, True)  # of 2 tokens to 2 of 3 experts of 16 features
    several = lowbit("pack_integer")(
        torch.randint(0, 16, (48, 40), dtype=torch.uint8), torch.rand(48, 2), None, 4, 32, "none", False
    )
    experts = {"x": torch.randn(4, 40), "weight": several, "bias": torch.randn(48), "routes": routes,
               "experts": 3, "out_features": 16}  # fmt: skip
    return {
        "linear_a8wx": linear | {"token_scales": False},
        "linear_wx": linear | {"bias": None},
        "linear_fp": linear | {"weight": floats},
        "embedding": {"weight": floats, "tokens": torch.tensor([[3, 16]]), "width": 40, "scale": 2.0},
        "rms_norm": {"x": x, "weight": torch.randn(40), "eps": 1e-5},
        "layer_norm": {"x": x, "weight": torch.randn(40), "bias": torch.randn(40), "eps": 1e-5},
        "silu": {"x": x}, "gelu": {"x": x}, "gelu_tanh": {"x": x}, "relu2": {"x": x},
        "xielu": {"x": x, "alpha_p": 0.8, "alpha_n": 1.1, "beta": 0.5, "eps": -1e-6},
        "silu_mul": gate, "gelu_mul": gate, "gelu_tanh_mul": gate, "relu2_mul": gate,
        "quick_gelu_mul": gate | {"offset": 1.0},
        "route": {"logits": torch.randn(4, 6), "chosen": 2, "renormalize": False},
        "dispatch": {"x": torch.randn(2, 40), "routes": routes, "experts": 3, "chosen": 2},
        "experts_a8wx": experts | {"token_scales": False},
        "experts_wx": experts | {"bias": None},
        "experts_fp": experts | {"weight": lowbit("pack_float")(torch.randn(48, 40), torch.float32)},
        "combine": {"x": torch.randn(4, 7), "routes": routes, "experts": 3},
        "add": {"a": x, "b": x + 1},
        "softcap": {"x": x, "cap": 2.5},
        "select_rows": {"x": x, "rows": torch.tensor([2, 0, 0, 1])},
        "attention": Forward().arguments,
    }  # fmt: skip


def test_every_operator_has_a_sample():
    assert samples().keys() == ops.table().keys()


@pytest.mark.parametrize("name", sorted(
    set(re.findall(r"^(\w+)\(", (ROOT / "kernels/bindings/operators.txt").read_text(), re.M))
    - {"attention"}
))  # fmt: skip
def test_schema_tracing_and_out_form(name):
    arguments = samples()[name]
    torch.library.opcheck(
        lowbit(name), (), arguments,
        test_utils=("test_schema", "test_faketensor", "test_aot_dispatch_dynamic"),
    )  # fmt: skip
    expected = lowbit(name)(**arguments)
    out = torch.empty_like(expected)
    assert getattr(torch.ops.lowbit, name).out(**arguments, out=out) is out
    assert torch.equal(out, expected)
    with pytest.raises(RuntimeError, match=f"lowbit::{name}: out has shape"):
        getattr(torch.ops.lowbit, name).out(**arguments, out=torch.empty(1, 1))


def test_attention_once_in_a_forward():
    """What `opcheck` would call again and again outside one."""
    forward = Forward()
    expected = forward.attention()
    assert torch.equal(forward.attention(), expected)
    out = torch.empty_like(expected)
    assert forward.attention(out=out) is out and torch.equal(out, expected)
    with pytest.raises(RuntimeError, match="lowbit::attention: out has shape"):
        forward.attention(out=torch.empty(1, 1))
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert lowbit("attention")(**forward.arguments).shape == expected.shape
    schema = str(lowbit("attention")._schema)
    assert "Tensor(a!) state" in schema and schema.count("!") == 1


def test_handles_that_are_no_states():
    forward = Forward()
    others = [0, -1, 2**63 - 1, forward.state.handle + 1, forward.state.handle - (1 << 56)]
    for handle in others:
        forward.arguments["state"] = torch.tensor([handle])
        with pytest.raises(RuntimeError, match=f"^lowbit::attention: there is no state {handle}: "):
            forward.attention()
    dropped = Forward()
    handle = dropped.state.handle
    del dropped
    forward.arguments["state"] = torch.tensor([handle])
    with pytest.raises(RuntimeError, match="that state was dropped"):
        forward.attention()


def test_a_state_of_another_library(tmp_path):
    """PyTorch's operators and a runner's module in one process: each has a table of its own."""
    tiny.make_hf(tmp_path / "m", "llama3")
    export(tmp_path / "m", "--max-seq-length", 32, "--output-aoti-package", tmp_path / "m.pt2")
    native = load_artifact(tmp_path / "m.pt2")
    package = torch._inductor.aoti_load_package(str(tmp_path / "m.pt2"))
    of_runner = (2 << 56) + (1 << 16)  # the AOTInductor runner's first state
    inputs = (torch.tensor([[1, 2]]), torch.tensor([[1, 2]]), torch.tensor([0]), torch.tensor([of_runner]))
    with pytest.raises(RuntimeError):
        package(*inputs)
    with pytest.raises(RuntimeError, match="of the AOTInductor runner, and a state is of the library that"):
        torch.ops.lowbit.end_forward(of_runner)
    assert native.forward([1, 2], 0, [0]).shape[0] == 1


@pytest.mark.parametrize(
    ("name", "changes", "size"),
    [
        ("linear_fp", {"out_features": -5}, "3 x -5;"),
        ("linear_a8wx", {"out_features": 2**31}, f"3 x {2**31};"),
        ("embedding", {"width": -(2**63)}, f"2 x {-(2**63)};"),
        ("attention", {"heads": 2**62}, f"{TOKENS} x what no number holds;"),
    ],
)
def test_results_of_no_size(name, changes, size):
    with pytest.raises(RuntimeError, match=f"^lowbit::{name}: a result of {re.escape(size)}"):
        lowbit(name)(**samples()[name] | changes)


def test_c_declarations():
    (declaration,) = ops.c_shims()[lowbit("linear_a8wx")]
    assert declaration == (
        "AOTITorchError aoti_torch_cpu_linear_a8wx(AtenTensorHandle x, AtenTensorHandle weight, "
        "AtenTensorHandle* bias, int64_t out_features, int32_t token_scales, AtenTensorHandle* ret0)"
    )


@pytest.mark.parametrize(
    ("name", "gate"),
    [
        ("silu_mul", functional.silu),
        ("gelu_mul", functional.gelu),
        ("gelu_tanh_mul", lambda x: functional.gelu(x, approximate="tanh")),
        ("relu2_mul", lambda x: functional.relu(x) ** 2),
    ],
)
@pytest.mark.parametrize("limit", [0.0, 1.5])
def test_gates(name, gate, limit):
    gate_up = torch.randn(50, 2 * 300) * 3
    gates, up = gate_up.double().chunk(2, dim=-1)
    if limit:
        gates, up = gates.clamp(max=limit), up.clamp(-limit, limit)
    result = lowbit(name)(gate_up, limit).double()  # kernels_elementwise_test.cpp has the bounds
    assert torch.allclose(result, gate(gates) * up, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("name", ["silu", "gelu", "gelu_tanh", "relu2"])
def test_activations_without_a_gate(name):
    x = torch.randn(50, 300) * 3
    pairs = torch.cat([x, torch.ones_like(x)], -1)
    assert torch.equal(lowbit(name)(x), lowbit(f"{name}_mul")(pairs, 0.0))


@pytest.mark.parametrize("bias", [None, torch.linspace(-1, 1, 300)])
def test_layer_norm(bias):
    x, weight = torch.randn(50, 300) * 3 + 1, torch.randn(300)
    wide = None if bias is None else bias.double()
    expected = functional.layer_norm(x.double(), (300,), weight.double(), wide, 1e-5)
    found = lowbit("layer_norm")(x, weight, bias, 1e-5).double()
    assert torch.allclose(found, expected, rtol=1e-6, atol=1e-5)
def test_softcap():
    x = torch.randn(50, 300) * 60
    found = lowbit("softcap")(x, 30.0).double()
    assert torch.allclose(found, 30 * torch.tanh(x.double() / 30), rtol=1e-6, atol=0)


def reference(forward: Forward) -> torch.Tensor:
    """What `attention` is to compute, in double precision, of a prompt from position 0 on."""
    a = forward.arguments
    h, k, d = a["heads"], a["kv_heads"], a["head_dim"]
    parts = a["qkv"].double().split([h * d, k * d, k * d, h * d if a["gated"] else 0], dim=-1)
    q, keys, values, gate = parts
    tokens = q.shape[0]

    def heads(x: torch.Tensor, weight: torch.Tensor | None, n: int) -> torch.Tensor:
        if weight is not None:
            x = x.view(tokens, -1, len(weight))
            x = functional.rms_norm(x, (len(weight),), weight.double(), a["norm_eps"])
        return rotated(x.reshape(tokens, n, d))

    def rotated(x: torch.Tensor) -> torch.Tensor:
        if not forward.rotates:
            return x
        half = PAIRS
        angles = torch.outer(torch.arange(tokens).double(), forward.frequencies.double())[:, None]
        cos, sin = angles.cos(), angles.sin()
        one, other = (
            (x[..., 0 : 2 * half : 2], x[..., 1 : 2 * half : 2]) if a["interleaved"]
            else (x[..., :half], x[..., half : 2 * half])
        )  # fmt: skip
        turned = [one * cos - other * sin, other * cos + one * sin]
        pairs = torch.stack(turned, -1).flatten(-2) if a["interleaved"] else torch.cat(turned, -1)
        return torch.cat([pairs, x[..., 2 * half :]], -1)

    q, keys = heads(q, a["q_norm"], h), heads(keys, a["k_norm"], k)
    keys, values = (x.reshape(tokens, k, d).repeat_interleave(h // k, dim=1) for x in (keys, values))
    scores = torch.einsum("qhd,khd->hqk", q, keys) * a["scale"]
    if a["softcap"]:
        scores = a["softcap"] * torch.tanh(scores / a["softcap"])
    back = torch.arange(tokens)[:, None] - torch.arange(tokens)
    hidden = (back < 0) | ((back >= a["window"]) if a["window"] else torch.tensor(False))
    scores = scores.masked_fill(hidden, -torch.inf)
    if a["sinks"] is not None:
        sinks = a["sinks"].double()[:, None, None].expand(h, tokens, 1)
        weights = torch.cat([scores, sinks], -1).softmax(-1)[..., :-1]
    else:
        weights = scores.softmax(-1)
    out = torch.einsum("hqk,khd->qhd", weights, values).reshape(tokens, h * d)
    return out * gate.sigmoid() if a["gated"] else out


@pytest.mark.parametrize("changes", [
    {}, {"q_norm": None, "sinks": None}, {"rotates": False}, {"interleaved": False},
    {"softcap": 0.0, "window": 0},
    {"k_norm": torch.linspace(0.1, 1, WIDTH), "q_norm": torch.linspace(1, 0.1, HEADS * WIDTH)},
])  # fmt: skip
def test_attention(changes):
    forward = Forward(1, **changes)
    assert torch.allclose(forward.attention().double(), reference(forward), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("version", ["1", "99"])
def test_artifacts_of_other_operators_are_refused(version, tmp_path, monkeypatch):
    folder, pte, package = tmp_path / "tiny", tmp_path / "m.pte", tmp_path / "m.pt2"
    tiny.make_hf(folder, "llama3")
    monkeypatch.setattr(ops, "interface_version", lambda: version)
    export(folder, "--max-seq-length", 32, "--output-pte", pte, "--output-aoti-package", package)
    for path in (pte, package):
        result = run(runner_of(path), path, "-i", "Hi", "-n", 2)
        assert result.status == 1
        line = result.error_line()
        assert f"operators of version {version}" in line and "export the model again" in line


def test_the_usual_scale():
    scales = {d: score_scale(AttentionSpec(1, 1, d, None)) for d in range(1, 513)}
    assert scales[64] == 0.125
    assert all(abs(scale * d**0.5 - 1) < 2e-7 for d, scale in scales.items())
    assert score_scale(AttentionSpec(1, 1, 64, None, scale=0.25)) == 0.25
