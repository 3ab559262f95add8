"""Telling outliers from data, and being attacked there. Larger scores mean data, everywhere.

scores           a network and a form of its logits or features make a score; reading inner activations
logit_scores     MSP, maximum logit, energy, entropy, GEN: as published, and without saturation
reject_scores    SOFL, ROWL, NTOM and ATOM with their reject classes, CCU with its densities
gaussian_scores  Mahalanobis, relative and not
ssd              SSD: normalised features, clusters with their own covariance, a few known outliers
feature_scores   nearest neighbours, ViM
shaping          ReAct, ASH and SCALE in front of the last layer
odin           ODIN, and the step of its kind in front of any score
blend            one score of several
score_attacks           attacks on a score: data down, outliers up, the worst of several, over radii
worst_confidence how sure a network can be made around outliers: four searches, and over radii
surrogates       what published attacks climb instead
corruption_attacks        the worst of all corruptions, and a search around what they leave
uint8_grid          ascent in whole levels of 8-bit images
presets          the attacks of ALOE, ATOM and ATD, and a strong one
purify           a diffusion as a translator: noise in, noise out
metrics          AUROC, AUPR, both FPRs, detection error: exact, ties included
conformal        thresholds with finite-sample guarantees
gates            what to do below a threshold: route, reject; per input, or (for comparison) per batch
translate        a classifier behind a gate and a translator back to the data; accuracy by route
controls         noise of the size of an attack, and what a detector says of it
protocols        a detector beside itself under attack
compat           the metrics as the code of ALOE, ATOM and OpenOOD computes them
"""
