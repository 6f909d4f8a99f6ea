"""Quantization that looks at what flows through the model: calibration, transforms, GPTQ, fitting."""
