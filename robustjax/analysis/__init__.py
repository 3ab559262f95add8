"""What to make of the numbers.

intervals  confidence intervals
"""
