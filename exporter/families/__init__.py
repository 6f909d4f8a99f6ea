"""Read the configs that Hugging Face, Meta and GGUF write of each family of models.

Faces: `hf.from_hf`, `gguf.from_gguf`, `meta.from_meta`, each to a `ModelConfig`.
"""
