"""Tensors in planned memory: none that live at once overlap, and room is used again."""

import random

import tiny
from native import export

from exporter.artifact.reader import read_artifact
from exporter.lower.memory_plan import Need, lowest_offsets


def overlap(a: tuple[int, Need], b: tuple[int, Need]) -> bool:
    (start, need), (other_start, other) = a, b
    return need.meets(other) and start < other_start + other.size and other_start < start + need.size


def test_what_lives_at_once_lies_apart():
    generator = random.Random(5)
    for _ in range(200):
        needs = {}
        for i in range(generator.randrange(1, 40)):
            first = generator.randrange(50)
            needs[i] = Need(64 * generator.randrange(1, 9), first, first + generator.randrange(12))
        places = [(offset, needs[i]) for i, offset in lowest_offsets(needs).items()]
        assert len(places) == len(needs)
        for i, place in enumerate(places):
            assert not any(overlap(place, other) for other in places[:i])


def test_a_chain_needs_two_places():
    """Each value lives until the next is made of it: as a residual stream does."""
    offsets = lowest_offsets({i: Need(64, i, i + 1) for i in range(30)})
    assert set(offsets.values()) == {0, 64}


def test_layers_take_no_more_than_one_does(tmp_path):
    """Activations of a model of many layers are those of one."""
    planned = []
    for layers in (1, 12):
        folder = tmp_path / str(layers)
        tiny.make_hf(folder, "smollm2", num_hidden_layers=layers)
        export(folder, "--quantize", "q8", "--max-seq-length", 64, "--output-pte", folder / "m.pte")
        planned.append(read_artifact(folder / "m.pte").planned_bytes)
    assert planned[0] == planned[1]
