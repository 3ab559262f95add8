"""OOD-to-ID translation (Amich and Eshete 2022, arXiv:2202.08944)."""
