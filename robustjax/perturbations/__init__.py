"""Perturbation sets beyond norm balls, searched by the solvers of `attacks` through a decoder.

sets          a ball of parameters with a decoder, and attacks, ascents and solvers sent through it
spatial       rotation, shift, scale and shear
strength      the severity of a corruption as a set, the worst of many corruptions
corruptions/  the nineteen corruptions of CIFAR-10-C at real severities
sampling      pixels between pixels, and beyond the border
"""
