"""Solvers that climb an objective inside a threat; they know a function, never a network.

objectives  what to climb, from a classifier's logits
pgd         projected gradient ascent and its one-step form
compose     restarts, the worst of several, all targets, attacks from ascents
"""
