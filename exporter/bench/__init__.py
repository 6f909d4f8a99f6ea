"""Measure artifacts and models: speed, memory, and the bandwidth beside them.

Faces: `bench.measure`, `output`; `worker` is the process that measures.
"""
