"""Read matrices that a checkpoint holds quantized, as the floats that they stand for; without torch.

Face: `methods.find_method`, from config.json's `quantization_config`.
"""
