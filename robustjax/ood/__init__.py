"""Telling outliers from data, and being attacked there. Larger scores mean data, everywhere.

metrics         AUROC, AUPR, both FPRs, detection error: exact, ties included
conformal       thresholds with finite-sample guarantees
protocols       a detector beside itself under attack
compat          the metrics as the code of ALOE, ATOM and OpenOOD computes them
"""
