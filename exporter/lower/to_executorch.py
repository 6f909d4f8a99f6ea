"""Lower an `ExportedProgram` to a `.pte`, with ExecuTorch 1.5.1.

A model on the project's own operators has nothing to delegate and nothing to decompose. With the
delegate `stock`, unquantized models run on ExecuTorch's optimized CPU kernels: lowering to XNNPACK would
store the weights of a second layout and takes minutes. Dynamically quantized linear layers have no other
kernel than XNNPACK's, so those go to it. Quantized embeddings become
`quantized_decomposed::embedding_*`.
"""

import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.export import ExportedProgram

from exporter.artifact.metadata import TOKENIZER_KEY, Metadata
from exporter.lower.graph_check import check_lowbit_only
from exporter.lower.memory_plan import plan_memory
from exporter.recipe.schemes import LOWBIT, XNNPACK
from exporter.util.files import written_whole

CONSTANT_ALIGNMENT = 64  # bytes: a cache line, and a register of AVX-512


def lower(program: ExportedProgram, metadata: Metadata, path: Path) -> None:
    """Write `program` and its metadata to the `.pte` at `path`, whole or not at all.

    For the delegate `lowbit` of the metadata the program is in functional form.

    Raises RuntimeError when a program for the delegate `lowbit` holds other operators than ours.
    """
    from executorch.exir import ExecutorchBackendConfig

    lowbit = metadata.delegate == LOWBIT
    quantized_embedding = metadata.recipe.embedding is not None and not lowbit
    methods = _constant_methods(metadata)
    taken: dict[str, Tensor] = {}
    if lowbit:
        from exporter.lower.pte_constants import take_constants, write

        taken = take_constants(program)
        edge = _undelegated(program, methods)
    else:
        edge = _to_edge(program, methods, metadata.delegate == XNNPACK)
    config = ExecutorchBackendConfig(
        passes=_passes(quantized_embedding),
        memory_planning_pass=_planner(taken),
        run_reinplace_pass=True,  # the caches' index_put writes in place instead of copying
        do_quant_fusion_and_const_prop=quantized_embedding,
        extract_delegate_segments=True,
        constant_tensor_alignment=CONSTANT_ALIGNMENT,
    )
    executorch_program = edge.to_executorch(config)
    if lowbit:
        check_lowbit_only(executorch_program.exported_program().graph_module)
    with written_whole(path) as part, part.open("wb") as file:
        if lowbit:
            write(executorch_program.executorch_program, taken, config, file)
        else:
            executorch_program.write_to_file(file)


def _undelegated(program: ExportedProgram, methods: Mapping[str, object]):
    """Make what `to_edge` gives, without its passes, each of which traces the whole graph again: they
    decompose, convert and tag PyTorch's operators, of which there are none."""
    from executorch.exir import EdgeCompileConfig, EdgeProgramManager

    return EdgeProgramManager(
        {"forward": program},
        constant_methods=methods,
        compile_config=EdgeCompileConfig(_check_ir_validity=False, _skip_dim_order=True),
    )


def _to_edge(program: ExportedProgram, methods: Mapping[str, object], xnnpack: bool):
    from executorch.exir import EdgeCompileConfig, to_edge, to_edge_transform_and_lower

    # The verifier re-runs the graph five times over; the stages themselves are what is tested.
    config = EdgeCompileConfig(
        _check_ir_validity=False,
        _skip_dim_order=True,
        preserve_ops=[torch.ops.aten.linear.default],
    )
    if not xnnpack:
        return to_edge(program, constant_methods=methods, compile_config=config)

    from executorch.backends.xnnpack.partition.config.xnnpack_config import ConfigPrecisionType
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner

    logging.getLogger("executorch").setLevel(logging.ERROR)
    partitioner = XnnpackPartitioner(
        config_precisions=ConfigPrecisionType.DYNAMIC_QUANT, per_op_mode=True
    )
    return to_edge_transform_and_lower(
        program,
        partitioner=[partitioner],
        constant_methods=methods,
        compile_config=EdgeCompileConfig(_check_ir_validity=False, _skip_dim_order=True),
    )


def _passes(quantized_embedding: bool) -> list:
    if not quantized_embedding:
        return []
    from executorch.exir.passes.quant_fusion_pass import QuantFusionPass

    return [QuantFusionPass()]


def _planner(taken: Mapping[str, Tensor]):
    """Make the pass that plans memory. It is the last that sees the program's signature, and so it also names
    the constants in the file, as the program calls them, and gives those in `taken` the lengths of their
    hashes."""
    from executorch.exir.memory_planning import MemoryPlanningAlgorithmSuite
    from executorch.exir.passes import MemoryPlanningPass
    from executorch.exir.schema import ExtraTensorInfo, TensorDataLocation

    class NamingPlanner(MemoryPlanningPass):
        def run(self, graph_module, graph_signature=None):
            names = {**graph_signature.inputs_to_parameters, **graph_signature.inputs_to_buffers}
            changed = set(graph_signature.buffers_to_mutate.values())
            for node in graph_module.graph.find_nodes(op="placeholder"):
                name = names.get(node.target)
                if name is not None and name not in changed:
                    location = TensorDataLocation.SEGMENT
                    node.meta["spec"].extra_tensor_info = ExtraTensorInfo(0, name, location)
            planned = super().run(graph_module, graph_signature)
            if taken:
                from exporter.lower.pte_constants import shrink_specs

                shrink_specs(planned.graph_module, names, taken)
            return planned

    return NamingPlanner(memory_planning_algo=MemoryPlanningAlgorithmSuite([plan_memory]))


def _constant_methods(metadata: Metadata) -> dict[str, object]:
    """Return a method for each key, which returns its string; the tokenizer's returns uint8 [bytes]."""
    methods: dict[str, object] = {k: v for k, v in metadata.to_strings().items() if k != TOKENIZER_KEY}
    methods[TOKENIZER_KEY] = torch.frombuffer(bytearray(metadata.text.table), dtype=torch.uint8)
    return methods
