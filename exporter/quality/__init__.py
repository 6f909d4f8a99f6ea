"""Quantize by what flows through the model: calibration, transforms, GPTQ, fitting to a budget.

Faces: `calibrated.apply_method`, `calibration.calibration_of`, `sensitivity.sensitivities`, `fit.fit`.
"""
