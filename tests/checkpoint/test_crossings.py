"""Where features of checkpoints meet: tensors that are several parameters', adapters, factors on norms, both
formats, and matrices that are read as they are stored."""

import families.test_cohere as cohere
import families.test_gemma as gemma
import families.test_granite as granite
import families.test_phi3 as phi3
import family
import peft_adapter
import pytest
import torch
from family_tests import CONTEXT, LENGTH, MAX_ERROR, TOKENS, far, run

from exporter.checkpoint.adapter_source import AdapterSource
from exporter.checkpoint.checkpoint import open_checkpoint
from exporter.checkpoint.load import load_model
from exporter.checkpoint.streamed import stream_model
from exporter.checkpoint.tensors import open_dequantized
from exporter.lowbit.decoder import LowbitTransformer
from exporter.lowbit.pack import PackOptions
from exporter.recipe.recipe import parse_recipe

FUSED = ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj")
HYBRID = ("self_attn.q_proj", "self_attn.k_proj", "shared_mlp.input_linear", "shared_mlp.output_linear")


@pytest.mark.parametrize("source", ["hf", "m.gguf"])
@pytest.mark.parametrize(
    ("case", "targets"), [(phi3.TestPhi3.case, FUSED), (granite.TestGraniteHybrid.case, HYBRID)]
)
def test_an_adapter_of_tensors_that_are_several_parameters(case, targets, source, tmp_path):
    """It has B's rows for all of them, in Hugging Face's order."""
    made = family.make_hf(tmp_path / "hf", case)
    family.write_gguf(tmp_path / "m.gguf", made, case)
    tensors = peft_adapter.pairs(made, 1, targets=targets)
    peft_adapter.write(tmp_path / "a", tensors)
    made.load_state_dict(peft_adapter.expected(made.state_dict(), tensors))
    with torch.no_grad():
        expected = made(torch.tensor([TOKENS])).logits[0].float().numpy()
    adapter = AdapterSource(str(tmp_path / "a"))
    checkpoint = open_checkpoint(str(tmp_path / source), adapters=[adapter])
    found = run(load_model(checkpoint, torch.float32, CONTEXT), LENGTH)
    assert far(found, expected) < MAX_ERROR
    plain = run(load_model(open_checkpoint(str(tmp_path / source)), torch.float32, CONTEXT), LENGTH)
    assert far(plain, expected) > 10 * MAX_ERROR


@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize(
    ("case", "targets"),
    [
        (phi3.TestPhi3.case, FUSED),  # several parameters a tensor
        (gemma.TestGemma.case, peft_adapter.TARGETS),  # norms' weights that 1 is added to
        (cohere.TestCohere.case, peft_adapter.TARGETS),  # a factor on the last norm's
    ],
)
def test_matrices_as_they_are_stored_are_packed_alike(case, targets, adapted, tmp_path):
    made = family.make_hf(tmp_path / "m", case)
    made.to(torch.bfloat16).save_pretrained(tmp_path / "m")
    peft_adapter.write(tmp_path / "a", peft_adapter.pairs(made, 1, targets=targets))
    adapters = [AdapterSource(str(tmp_path / "a"))] if adapted else []
    checkpoint, packed = open_checkpoint(str(tmp_path / "m"), adapters=adapters), []
    for as_stored in (False, True):
        model = stream_model(checkpoint, CONTEXT, as_stored)
        options = PackOptions(parse_recipe("q4"), torch.float32)
        packed.append(LowbitTransformer(model, options, "float16", lambda line: None).state_dict())
    assert packed[0].keys() == packed[1].keys()
    assert all(torch.equal(packed[0][name], packed[1][name]) for name in packed[0])


def test_some_rows_of_a_quantized_matrix_do_not_hold_all():
    class Matrix:
        def floats(self):
            return torch.arange(64.0).view(8, 8).numpy()

    read = open_dequantized({"fused.weight": Matrix()}, None)
    for dtype in (torch.float32, None, torch.bfloat16):
        part = read("fused.weight", dtype, slice(2, 5))
        assert part.untyped_storage().nbytes() == part.nbytes and part[0, 0] == 16
