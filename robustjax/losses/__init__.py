"""Training objectives, one file per paper; each returns a `Loss`, (params, state, batch, key) -> (scalar, aux).

```
standard               plain training, label smoothing
adversarial_loss       the shape of an adversarial loss: attack, then risk
adversarial            Madry's adversarial training, and its half-clean variant
trades                 clean risk plus stability of the prediction
mart                   attention to misclassified images
fast                   one-step training attacks: FGSM-RS and N-FGSM
free                   one backward pass for network and perturbation
group_dro              the worst group, plainly and under attack
mixed_images           a loss on pairs of images mixed, with soft labels
logitnorm              the direction of the logits alone, against overconfidence
awp                    adversarial weight perturbation, around any of the above
sam                    sharpness-aware minimisation, plain and adaptive, around any loss
```

```
max_clean_adversarial  the one of larger loss of an image and what an attack made of it
stability              random perturbations: trained on alone (augmented), or with stable predictions
smoothadv              adversarial training of the smoothed classifier
certified              bounds of the worst case in a ball: IBP, CROWN-IBP, SABR
consistency            noisy copies of an image whose predictions agree
smoothmix              less certain on the way to where the smoothed classifier is wrong
macer                  a large certified radius, without attacks
noise_augmentation     several samples of noise for every image in one batch
segmentation           a class for every pixel: plain, perturbed, max of clean and adversarial
elbo                   conditional autoencoders of perturbations, over pairs of images
contrastive            features without labels: NT-Xent, SupCon
pix2pix                a translator against a critic, one step of both
image_pool             earlier translations that the critic is shown again
reconstruction         a translator by itself: denoising autoencoders, guided or not
atop                   a translator against attacks that know it, before a frozen classifier
diffusion              predicting the noise that was mixed into images
```

On ID and OOD images, over a `Pair`:

```
id_and_ood             the shape of them: right around ID images, unsure around OOD images
confidences            how sure a prediction is: what is made small around OOD images, and what their attacks maximise
batchnorm_modes        which BatchNorm statistics an attack sees
oe                     clean OOD images: OE and CEDA
mixoe                  mixtures of ID and OOD images, unsure in proportion
acet                   attacked OOD images, clean ID images
ratio                  attacks on both, l2; with clean data beside
aloe                   attacks on both, or on ID images alone (AOE), linf
trades_out             TRADES on ID images, attacked or stable OOD images
atom                   one class for OOD images (NTOM, ATOM), and the mining of informative ones
sofl                   several classes for OOD images
rowl                   a reject class under targeted attack
good                   a certificate of low confidence around OOD images
ccu                    a network mixed with densities (gaussian_mixture: fits them)
```
"""

from robustjax.losses.acet import acet as acet
from robustjax.losses.adversarial import adversarial as adversarial
from robustjax.losses.adversarial import half_adversarial as half_adversarial
from robustjax.losses.adversarial_loss import AdversarialLoss as AdversarialLoss
from robustjax.losses.aloe import aloe as aloe
from robustjax.losses.aloe import aoe as aoe
from robustjax.losses.atom import atom as atom
from robustjax.losses.atom import ntom as ntom
from robustjax.losses.atop import atop as atop
from robustjax.losses.awp import awp as awp
from robustjax.losses.ccu import ccu as ccu
from robustjax.losses.certified import crown_ibp as crown_ibp
from robustjax.losses.certified import ibp as ibp
from robustjax.losses.certified import sabr as sabr
from robustjax.losses.consistency import consistency as consistency
from robustjax.losses.contrastive import contrastive as contrastive
from robustjax.losses.diffusion import denoising as denoising
from robustjax.losses.elbo import elbo as elbo
from robustjax.losses.fast import fgsm_rs as fgsm_rs
from robustjax.losses.fast import n_fgsm as n_fgsm
from robustjax.losses.free import free as free
from robustjax.losses.good import good as good
from robustjax.losses.group_dro import adversarial_group_dro as adversarial_group_dro
from robustjax.losses.group_dro import group_dro as group_dro
from robustjax.losses.logitnorm import logitnorm as logitnorm
from robustjax.losses.macer import macer as macer
from robustjax.losses.mart import mart as mart
from robustjax.losses.max_clean_adversarial import max_clean_adversarial as max_clean_adversarial
from robustjax.losses.mixed_images import on_mixed_images as on_mixed_images
from robustjax.losses.mixoe import mixoe as mixoe
from robustjax.losses.oe import oe as oe
from robustjax.losses.ratio import half_ratio as half_ratio
from robustjax.losses.ratio import ratio as ratio
from robustjax.losses.reconstruction import restoring as restoring
from robustjax.losses.rowl import rowl as rowl
from robustjax.losses.sam import asam as asam
from robustjax.losses.sam import sam as sam
from robustjax.losses.segmentation import segmentation as segmentation
from robustjax.losses.smoothadv import smoothadv as smoothadv
from robustjax.losses.smoothmix import smoothmix as smoothmix
from robustjax.losses.sofl import sofl as sofl
from robustjax.losses.stability import augmented as augmented
from robustjax.losses.stability import stability as stability
from robustjax.losses.standard import standard as standard
from robustjax.losses.trades import trades as trades
from robustjax.losses.trades_out import trades_acet as trades_acet
from robustjax.losses.trades_out import trades_ceda as trades_ceda
