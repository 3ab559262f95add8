"""What to make of the numbers.

curves     robust accuracy over radii
intervals  confidence intervals
linear/    the theory of adversarially trained linear regression with core and spurious features
"""
