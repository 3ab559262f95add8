"""From names to factories, one table per family; library code never looks a name up.

```
names          from a name to an entry of a table, or to `module:name`
models         classifiers, and the normalisation of each data set
known_checkpoints  RobustBench's model zoo: network, constants and published accuracy of each entry
corruption_baselines  networks whose errors those of others are divided by on corrupted images
losses         training losses of classifiers
attacks        attacks on classifiers, and suites of them
augmentations  chains of augmentations
ood_losses     training methods on in- and out-of-distribution images, and the score of each
scores         OOD detectors: how to fit and how to build each score
score_attacks  attacks on those scores
openood        OpenOOD's benchmarks: lists of images, near and far sets, preprocessing
ood_sets   OOD images: data sets, noise, changed in-distribution images, photographs, and mixtures of them
learned_sets   pairs of images and autoencoders that perturbation sets are learned from
translators    OOD-to-ID translators: the network of each, and what it does to images
```
"""
