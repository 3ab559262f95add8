"""Functions and attacks over whole data sets.

```
mapped       a per-example function, batch by batch
scores       scores of detectors: clean, attacked, corrupted, certified, smoothed
detector_search  settings of a detector, chosen on validation images
predictions  of images that are read while they are needed
corruptions  accuracy under every corruption at every severity
corrupted_files  folders of corrupted images: CIFAR-10-C, ImageNet-C and others
runner       cases over examples, each on what is not decided yet: the one runner of all attacks
suite        that on a classifier
suite_state  how far a suite is, and how that is kept
pool         the rows of one case on the device, kept full
ahead        small programs compiled on another thread while the first ones run
score_suite  the runner on the score of an OOD detector, both sides
score_cases  attacks on such a score
score_checks gradient-masking checks for scores
identity     which network a report is about
results      what a suite did to every image; merging
purifier     attacks on a classifier behind a gate and a translator, evaluated by the defence itself
defence_results  what that did to every example
defences     such a classifier as a system under attack
gated_cases  cases against it, by what the adversary knows
inside_sets  accuracy on real perturbations, and under attack inside a learned perturbation set
headline     when a robust accuracy may be printed
translation  what OOD-to-ID translation does: detection beside noise, natural shifts, resubmissions
```
"""

from robustjax.evaluation.mapped import mapped as mapped
