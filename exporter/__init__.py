"""Ahead-of-time exporter of language models to ExecuTorch and AOTInductor artifacts."""

__version__ = "0.1.0"
