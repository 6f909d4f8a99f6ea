"""Read the configs of each source strictly, each field once, for the families.

Faces: `registry`; `family.Family`; `hf.HFConfig`, `gguf.GGUFConfig`, `meta.MetaConfig`.
"""
