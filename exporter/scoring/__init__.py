"""Score texts: perplexity, divergence from the float model, lm-eval's tasks.

Faces: `perplexity.perplexity`, `divergence.divergence`, `lm_eval_model`.
"""
