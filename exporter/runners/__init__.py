"""Run an artifact by the native core in this process, or a prepared decoder by PyTorch, behind one
interface.

Faces: `native.load_artifact`, `eager.eager_model`.
"""
