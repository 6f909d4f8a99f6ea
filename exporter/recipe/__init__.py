"""Read quantization recipes and say which backend can run them, without torch.

Faces: `recipe.Recipe` and `check_supported`, `schemes`, `methods.parse_method`; the ready
files are in `recipes/`.
"""
