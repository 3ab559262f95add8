"""Training objectives, one file per paper; each returns a `Loss`, (params, state, batch, key) -> (scalar, aux).

standard     plain training, label smoothing
minmax       the shape of an adversarial loss: attack, then risk
adversarial  Madry's adversarial training, and its half-clean variant
trades       clean risk plus stability of the prediction
mart         attention to misclassified images
fast         one-step training attacks: FGSM-RS and N-FGSM
free         one backward pass for network and perturbation
group_dro    the worst group, plainly and under attack
awp          adversarial weight perturbation, around any of the above
"""
