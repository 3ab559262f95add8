"""robustjax: robustness research in JAX, as pure functions.

Everything is an objective (Array[b ...] -> Array[b], to be maximised) over a perturbation set (a ball and a
box), and solvers that know nothing else. The house, floor by floor; imports go down only:

7  experiments/   scripts: a folder per topic
6  catalog/       from names to factories: models, losses, detectors, outlier sets
5  runtime/       the impure edge: devices, checkpoints, records, figures, reports
4  training       TrainState, start, step            optimizers   the field's optimisers and schedules
   staged_training  whole epochs as one compiled loop, exact to resume
   evaluation/    functions and suites of attacks over a data set
   analysis/      what to make of the numbers
3  losses/        training objectives, one file per paper
   perturbations/ rotations, shifts, corruptions: sets searched through a decoder
   ood/           detectors of outliers, their metrics, and attacks on their scores
   smoothing/     certificates by noise, in pixels or in the parameters of a set
   bounds/        certificates by intervals: how sure a network can be made over a threat
2  attacks/       solvers: they know a threat and a function, never a network
1  threats        norm balls with a box
   models/        networks behind `types.Model`
   data/          data sets, streams, augmentation, outliers
0  types  numerics  logit  logistic_regression
"""

__version__ = "0.1.0"
