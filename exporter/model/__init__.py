"""Describe a decoder and compute it in float.

Faces: `config.ModelConfig`, the value that every later stage reads; `decoder.Transformer`.
"""
