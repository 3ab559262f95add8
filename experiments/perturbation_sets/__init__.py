"""Learned perturbation sets (Wong and Kolter 2020, arXiv:2007.08450)."""
