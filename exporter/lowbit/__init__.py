"""Quantize and pack weights for the project's own operators, and run the decoder on them.

Faces: `decoder.LowbitTransformer`, `weights.quantize_linear`, `ops.load`.
"""
