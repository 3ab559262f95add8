"""Functions and attacks over whole data sets.

mapped       a per-example function, batch by batch
suite        several attacks in turn on whatever the ones before left standing
course       where a suite stands, and how that is kept
pool         the rows of one attack on the device, kept full
verdicts     what a suite did to every example; merging
purifier     attacks on a classifier behind a gate and a translator, judged by the defence itself
assessments  what that did to every example
defences     such a classifier as compiled programs
attempts     what to try there, by what the adversary knows
inside_sets  accuracy on real perturbations, and under attack inside a learned perturbation set
headline     when a robust accuracy may be printed
"""

from robustjax.evaluation.mapped import mapped as mapped
