"""Solvers that maximise an objective inside a threat; they know a function, never a network.

```
objectives            what to maximise, from a classifier's logits
pgd                   projected gradient ascent and its one-step form
step_schedule         a number of steps that grows with training
half_batch            an ascent for half of a batch
compose               restarts, the worst of several, all targets, attacks from ascents
annealed_pgd          PGD whose steps fall to zero
apgd                  Auto-PGD in linf, l2 and l1, and over shrinking balls
pma                   the margin of probabilities, one term at a time and then together
frank_wolfe           ascent in balls of other norms, such as l1.5
perceptual            balls in the features of a network, such as LPIPS, and ascent inside them
fab                   the nearest point beyond a decision boundary, targeted and not
ddn                   minimum norms in l2, on spheres whose radius follows the outcome
fmn                   minimum norms in linf, l2, l1 and l0, in balls whose radius follows the outcome
sigma_zero            the fewest pixels in l0, by a smooth count of them
vfga                  one pixel after the other, by gradients and draws
deepfool              a quick estimate of minimum norms, from linearised boundaries
super_deepfool        the same in l2 with projections onto the normal, nearer
carlini_wagner        minimum norms in l2, as a trade with the margin
square                random search that asks for values only
sparse_rs             random search for few pixels, a patch or a frame
spsa, nes             ascent along gradients estimated from values
zoo                   Adam on single features, by values
simba                 one coordinate at a time, forth or back, by values
hop_skip_jump         the nearest point by decisions alone: normals of the boundary from probes, linf and l2
boundary_attack       the same by a random walk along the boundary, l2
rays                  the same over vectors of signs, linf
sign_opt              the same by signs of the change of a distance, l2
geoda                 the same by hyperplanes, linf and l2
query_curve           how far a search has come after so many queries
optimality            how near a search for minimum norms comes to the best of all
transfer              points made on one network, evaluated on another
universal             one perturbation for all images, by any search
transferable          points that travel: MI, NI, DI, TI, SI, VMI, ensembles of networks
adaptive              networks as an adaptive attacker sees them: means over randomness, slopes where there are none
gated_objectives      objectives against a classifier behind a gate and a translator
case                  one line of an evaluation: a solver on an objective, how often and at what cost
autoattack            suites of cases, as data
l0_suite              the suite for l0
fast_suite            a suite that is quick where gradients are sound
suites                which of these suits a threat
masking_checks        gradient-masking checks (flags: each check; masking_measurements: what they measure)
grid                  every point of a regular grid, and refinement of what a search found
```

What those three are made of:

```
signed                objectives whose sign says whether an attack has succeeded
solver                init, advance and finish: a solver that can be driven in segments
starts                random first points
flatten               states laid out as flat rows
minimum_norm          what searches for the nearest point share
decision              what searches by decisions alone share: one query per iteration
gradient_ascent       gradient ascent with step sizes that a rule adapts
adam                  the direction of Adam, one age per example
sparse                the rule of l1 APGD
hyperplane            the shortest way to a hyperplane inside a box
bisection             exact thresholds without a sort
square_windows        Square's windows and bumps
sparse_shapes         what Sparse-RS paints
masking_measurements  small measurements of a network, each compiled once
flags                 gradient-masking checks on the answers of a network
attack_comparison     and on how attacks compare
```
"""

from robustjax.attacks.adaptive import averaged as averaged
from robustjax.attacks.adaptive import substituted as substituted
from robustjax.attacks.annealed_pgd import annealed_pgd as annealed_pgd
from robustjax.attacks.apgd import apgd as apgd
from robustjax.attacks.apgd import apgd_shrinking as apgd_shrinking
from robustjax.attacks.boundary_attack import boundary_attack as boundary_attack
from robustjax.attacks.carlini_wagner import carlini_wagner as carlini_wagner
from robustjax.attacks.case import Case as Case
from robustjax.attacks.case import Rows as Rows
from robustjax.attacks.compose import against as against
from robustjax.attacks.compose import over_targets as over_targets
from robustjax.attacks.compose import restarts as restarts
from robustjax.attacks.compose import worst_of as worst_of
from robustjax.attacks.ddn import ddn as ddn
from robustjax.attacks.deepfool import deepfool as deepfool
from robustjax.attacks.fab import boundary as boundary
from robustjax.attacks.fab import fab as fab
from robustjax.attacks.fab import fab_targeted as fab_targeted
from robustjax.attacks.fmn import fmn as fmn
from robustjax.attacks.frank_wolfe import frank_wolfe as frank_wolfe
from robustjax.attacks.geoda import geoda as geoda
from robustjax.attacks.grid import grid as grid
from robustjax.attacks.grid import refined as refined
from robustjax.attacks.half_batch import half_batch as half_batch
from robustjax.attacks.hop_skip_jump import hop_skip_jump as hop_skip_jump
from robustjax.attacks.nes import nes as nes
from robustjax.attacks.perceptual import Perceptual as Perceptual
from robustjax.attacks.perceptual import lpips as lpips
from robustjax.attacks.perceptual import perceptual_pgd as perceptual_pgd
from robustjax.attacks.pgd import fgsm as fgsm
from robustjax.attacks.pgd import monotone as monotone
from robustjax.attacks.pgd import pgd as pgd
from robustjax.attacks.pgd import pgd_solver as pgd_solver
from robustjax.attacks.pma import pma as pma
from robustjax.attacks.query_curve import QueryCurve as QueryCurve
from robustjax.attacks.query_curve import query_curve as query_curve
from robustjax.attacks.rays import rays as rays
from robustjax.attacks.sigma_zero import sigma_zero as sigma_zero
from robustjax.attacks.sign_opt import sign_opt as sign_opt
from robustjax.attacks.signed import signed as signed
from robustjax.attacks.simba import simba as simba
from robustjax.attacks.solver import Solver as Solver
from robustjax.attacks.solver import as_attack as as_attack
from robustjax.attacks.solver import until_found as until_found
from robustjax.attacks.sparse_rs import sparse_rs as sparse_rs
from robustjax.attacks.sparse_rs import sparse_rs_frame as sparse_rs_frame
from robustjax.attacks.sparse_rs import sparse_rs_patch as sparse_rs_patch
from robustjax.attacks.spsa import spsa as spsa
from robustjax.attacks.square import square as square
from robustjax.attacks.step_schedule import first_steps as first_steps
from robustjax.attacks.step_schedule import rising as rising
from robustjax.attacks.super_deepfool import super_deepfool as super_deepfool
from robustjax.attacks.transfer import transferred as transferred
from robustjax.attacks.transferable import at_scales as at_scales
from robustjax.attacks.transferable import diverse as diverse
from robustjax.attacks.transferable import ensemble as ensemble
from robustjax.attacks.transferable import momentum_iterative as momentum_iterative
from robustjax.attacks.transferable import translated as translated
from robustjax.attacks.universal import shared as shared
from robustjax.attacks.universal import universal as universal
from robustjax.attacks.vfga import vfga as vfga
from robustjax.attacks.zoo import zoo as zoo
