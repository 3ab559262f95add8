"""Perturbation sets beyond norm balls, searched by the solvers of `attacks` through a decoder.

sets          a ball of parameters with a decoder, and attacks, ascents, solvers and losses sent through it
spatial       rotation, shift, scale and shear
strength      the severity of a corruption as a set, the worst of many corruptions
corruptions/  the nineteen corruptions of CIFAR-10-C at real severities
pairs         views of the same content: noise, warps, lights, corruptions
adversarial_pairs       views made by attacks and natural shifts, for a translator to lead back
tones         natural shifts: darker, brighter, sharper, blurred, of less contrast
relit         scenes under many lights: pairs of lights, joint augmentation with the classes of pixels
learned       sets learned from pairs by a conditional autoencoder; encode, decode, perturb(key, x)
truncated     normal draws within a ball
exported      a learned set as a program of its own: StableHLO by jax.export
quality       whether a learned set holds the real perturbations and little else; its radius
theorems      bounds on both, from the training objective
sampling      pixels between pixels, and beyond the border
"""
