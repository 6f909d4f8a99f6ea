"""Take a chat template over into an artifact, as a tree that the runner evaluates, or say why it cannot be.

Face: `take_over.take_over_template`.
"""
