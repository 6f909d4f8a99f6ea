"""Trace the decoder and lower it to ExecuTorch or AOTInductor, each in its own files.

Faces: `program` for the `ExportedProgram`s, `to_executorch.lower`, `to_aoti.lower`, `targets`.
"""
