"""Perturbation sets beyond norm balls, searched by the solvers of `attacks` through a decoder.

```
sets               a ball of parameters with a decoder, and attacks, ascents, solvers and losses sent through it
spatial            rotation, shift, scale and shear
flow               smooth fields of displacements
recolour           changes of colour, the same for equal colours
patch              a square of free pixels, at a place that is given or drawn
strength           the severity of a corruption as a set, the worst of many corruptions
corruptions/  the nineteen corruptions of CIFAR-10-C at real severities
pairs              pairs of images of the same content: noise, warps, lights, corruptions
adversarial_pairs  pairs made by attacks and natural shifts, for a translator to lead back
tones              natural shifts: darker, brighter, sharper, blurred, of less contrast
relit              scenes under many lights: pairs of lights, joint augmentation with the classes of pixels
learned            sets learned from pairs by a conditional autoencoder; encode, decode, perturb(key, x)
latent_attacks     the evaluation attack on the parameters of a set
truncated          normal draws within a ball
exported           a learned set as a program of its own: StableHLO by jax.export
quality            whether a learned set holds the real perturbations and little else; its radius
theorems           bounds on both, from the training objective
sampling           pixels between pixels, and beyond the border
```
"""

from robustjax.perturbations.exported import exported as exported
from robustjax.perturbations.exported import saved as saved
from robustjax.perturbations.flow import flow as flow
from robustjax.perturbations.learned import encoder as encoder
from robustjax.perturbations.learned import learned as learned
from robustjax.perturbations.learned import noisy as noisy
from robustjax.perturbations.learned import perturbed as perturbed
from robustjax.perturbations.patch import patch as patch
from robustjax.perturbations.quality import conformal_radius as conformal_radius
from robustjax.perturbations.quality import coverage as coverage
from robustjax.perturbations.quality import quality as quality
from robustjax.perturbations.recolour import recolour as recolour
from robustjax.perturbations.relit import relit as relit
from robustjax.perturbations.sets import PerturbationSet as PerturbationSet
from robustjax.perturbations.sets import ascent_through as ascent_through
from robustjax.perturbations.sets import attack_through as attack_through
from robustjax.perturbations.sets import loss_through as loss_through
from robustjax.perturbations.sets import solver_through as solver_through
from robustjax.perturbations.sets import spatial as spatial
from robustjax.perturbations.spatial import warp as warp
from robustjax.perturbations.strength import strength as strength
from robustjax.perturbations.strength import worst_corruption as worst_corruption
