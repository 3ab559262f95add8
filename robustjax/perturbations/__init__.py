"""Perturbation sets beyond norm balls, searched by the solvers of `attacks` through a decoder.

sets         a ball of parameters with a decoder, and attacks, ascents and solvers sent through it
spatial      rotation, shift, scale and shear
sampling     pixels between pixels, and beyond the border
"""
