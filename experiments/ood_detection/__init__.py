"""ALOE (Chen et al. 2020, arXiv:2003.09711) and OOD detection under attack."""
