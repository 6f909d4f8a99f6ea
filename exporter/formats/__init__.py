"""Read files as they lie, without torch: which tensors GGUF, safetensors and PyTorch's files hold, and the
headers of packed weights.

Faces: `gguf_split.read_whole_gguf`, `safetensors_file`, `torch_file`, `adapter.read_adapter`, `prequantized`,
`packed_header.read_matrix`.
"""
