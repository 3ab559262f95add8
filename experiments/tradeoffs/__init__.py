"""Explicit tradeoffs of adversarial and natural robustness (Moayeri et al. 2022, arXiv:2209.07592)."""
