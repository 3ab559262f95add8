"""Detection of out-of-distribution (OOD) images, and attacks on it. Larger scores mean in-distribution (ID) everywhere.

```
scores              a network and a form of its logits or features make a score; reading inner activations
detectors           a detector: a score, and what it is fitted to
logit_scores        MSP, maximum logit, energy, entropy, GEN: as published, and without saturation
reject_scores       SOFL, ROWL, NTOM and ATOM with their reject classes, CCU with its densities
gaussian_scores     Mahalanobis, relative and not
ssd                 SSD: normalised features, clusters with their own covariance, a few known OOD images
temperature         the maximum softmax probability at a fitted temperature
kl_matching         the divergence from the typical prediction of the nearest class
openmax             logits lowered by how extreme their distance from the class mean is
feature_scores      nearest neighbours, ViM and its residual
guided_scores       neighbours weighed by what the network says: NNGuide, Relation
prototype_scores    one vector for each class: SHE, prototypes on the sphere
head_scores         features and the last layer: fDBD, NCI, GradNorm, DICE
shaping             ReAct, VRA, ASH, SCALE and T2FNorm in front of the last layer
adascale            SCALE with a percentile of its own for each image
dropout             the mean prediction of thinned networks
rankfeat            feature maps without their strongest rank-one part
gram                correlations of feature maps outside the range of training
ross                the median of a score over noisy copies, raised where they agree
post_processors     detectors by their settings
odin                ODIN, and its gradient step in front of any score
blend               one score of several
score_attacks       attacks on a score: ID images lowered, OOD images raised, the worst of several, over radii
worst_confidence    the highest confidence around OOD images: the best of five searches, and over radii
surrogates          what published attacks maximise instead of the score
corruption_attacks  the worst of all corruptions, and a search around what they leave
uint8_grid          PGD in whole levels of 8-bit images
presets             the attacks of ALOE, ATOM and ATD, and a strong one
purify              a diffusion as a translator: noise in, noise out
metrics             AUROC, AUPR, both FPRs, detection error: exact, ties included
conformal           thresholds with finite-sample guarantees
gates               what to do below a threshold: route, reject; per input, or (for comparison) per batch
translate           a classifier behind a gate and a translator back to the data; accuracy by route
controls            noise of the size of an attack, and what a detector says of it
protocols           a detector beside itself under attack
compat              the metrics as the code of ALOE, ATOM and OpenOOD computes them
```
"""

from robustjax.ood.blend import blend as blend
from robustjax.ood.detectors import Detector as Detector
from robustjax.ood.feature_scores import knn as knn
from robustjax.ood.feature_scores import vim as vim
from robustjax.ood.gates import Gate as Gate
from robustjax.ood.gates import gated as gated
from robustjax.ood.gaussian_scores import mahalanobis as mahalanobis
from robustjax.ood.gaussian_scores import relative_mahalanobis as relative_mahalanobis
from robustjax.ood.odin import odin as odin
from robustjax.ood.purify import purify as purify
from robustjax.ood.score_attacks import ScoreAttack as ScoreAttack
from robustjax.ood.score_attacks import lowered as lowered
from robustjax.ood.score_attacks import raised as raised
from robustjax.ood.scores import Score as Score
from robustjax.ood.scores import scored as scored
from robustjax.ood.ssd import few_shot as few_shot
from robustjax.ood.ssd import ssd as ssd
from robustjax.ood.uint8_grid import uint8_pgd as uint8_pgd
from robustjax.ood.worst_confidence import confidence_over_radii as confidence_over_radii
from robustjax.ood.worst_confidence import worst_confidence as worst_confidence
