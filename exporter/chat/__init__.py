"""Reduce a chat template to what the runner renders, or say why it cannot be.

Face: `reduce.reduce_template`.
"""
