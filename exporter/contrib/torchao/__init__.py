"""Quantize by torchao's own classes, and run what torchao packed on our kernels.

Faces: `quantize.quantize` for stock graphs; `aliases.load` and `rewrite.rewrite` for its packed operators.
"""
