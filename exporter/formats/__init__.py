"""Read files as they lie, without torch: which tensors GGUF, safetensors and PyTorch's files hold, and the
headers of packed weights.

Faces: `gguf_file.read_gguf`, `safetensors_file`, `torch_file`, `packed_header.read_matrix`.
"""
