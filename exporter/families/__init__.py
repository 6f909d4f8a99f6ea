"""Say what is particular to each family of models: a file a family, found by its name.

Each file has a `FAMILY`: how a Hugging Face, GGUF or Meta config becomes a `ModelConfig`, and what each
source calls the tensors. `sources/` has what they share. docs/families.md shows how to add one.

Faces: `sources.registry.hf_family`, `gguf_family`, `meta_family`.
"""
