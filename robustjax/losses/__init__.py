"""Training objectives, one file per paper; each returns a `Loss`, (params, state, batch, key) -> (scalar, aux).

standard     plain training, label smoothing
adversarial_loss       the shape of an adversarial loss: attack, then risk
adversarial  Madry's adversarial training, and its half-clean variant
trades       clean risk plus stability of the prediction
mart         attention to misclassified images
fast         one-step training attacks: FGSM-RS and N-FGSM
free         one backward pass for network and perturbation
group_dro    the worst group, plainly and under attack
awp          adversarial weight perturbation, around any of the above
sam          sharpness-aware minimisation, plain and adaptive, around any loss

max_clean_adversarial       the harder of an image and what an attack made of it
stability    random perturbations: trained on alone (augmented), or steady under them
smoothadv    adversarial training of the smoothed classifier
macer        a large certified radius, without attacks
noise_augmentation       several noisy copies of every image in one batch
segmentation a class for every pixel: plain, perturbed, the harder of two
elbo         conditional autoencoders of perturbations, over pairs of views
contrastive  features without labels: NT-Xent, SupCon
pix2pix      a translator against a critic, one step of both
image_pool      earlier translations that the critic is shown again
reconstruction    a translator by itself: denoising autoencoders, guided or not
atop         a translator against attacks that know it, before a frozen classifier
diffusion    predicting the noise that was mixed into images

On data and outliers, over a `Pair`:

id_and_ood    the shape of them: right around data, unsure around outliers
confidences  how sure a prediction is: what is made small around outliers, and what their attacks climb
batchnorm_modes        which BatchNorm statistics an attack sees
oe           clean outliers: OE and CEDA
acet         attacked outliers, clean data
ratio        attacks on both, l2; with clean data beside
aloe         attacks on both, or on data alone (AOE), linf
trades_out   TRADES on data, attacked or stable outliers
atom         one class for outliers (NTOM, ATOM), and the mining of informative ones
sofl         several classes for outliers
rowl         a reject class under targeted attack
good         a certificate of low confidence around outliers
ccu          a network mixed with densities (mixtures: fits them)
"""
