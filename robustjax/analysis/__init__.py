"""What to make of the numbers.

curves     robust accuracy over radii
intervals  confidence intervals
"""
