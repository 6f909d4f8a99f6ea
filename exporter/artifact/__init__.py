"""Name the keys of an artifact's metadata, and read any artifact in place, without torch.

Faces: `metadata`, `reader.read_artifact`, `memory`.
"""
