"""Perturbation sets beyond norm balls, searched by the solvers of `attacks` through a decoder.

sets          a ball of parameters with a decoder, and attacks, ascents and solvers sent through it
spatial       rotation, shift, scale and shear
corruptions/  the nineteen corruptions of CIFAR-10-C at real severities
sampling      pixels between pixels, and beyond the border
"""
