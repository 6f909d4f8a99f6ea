"""Quantize by torchao's own classes, and run what torchao packed on our kernels.

Faces: `quantize.quantize` for stock graphs; for torchao's packed operators `aliases.load_aliases` and
`rewrite.rewrite`.
"""
