"""Solvers that climb an objective inside a threat; they know a function, never a network.

objectives  what to gradient_ascent, from a classifier's logits
pgd         projected gradient ascent and its one-step form
steady      the same as a solver
momentum_pgd       ascent with momentum over normalised gradients as a solver, and its monotone form
step_schedule     a number of steps that grows with training
half_batch an ascent for half of a batch
compose     restarts, the worst of several, all targets, attacks from ascents
apgd        Auto-PGD in linf, l2 and l1, and over shrinking balls
frank_wolfe ascent in balls of other norms, such as l1.5
fab         the nearest point beyond a decision boundary, targeted and not
ddn         minimum norms in l2, on spheres whose radius follows the verdict
fmn         minimum norms in linf, l2 and l1, in balls whose radius follows the verdict
deepfool    a quick estimate of minimum norms, from linearised boundaries
carlini_wagner  minimum norms in l2, as a trade with the margin
square      random search that asks for values only
spsa        ascent along gradients estimated from values
transfer    points made on one network, judged by another
adaptive    networks as an adaptive attacker sees them: means over randomness, slopes where there are none
gated_objectives       what to climb against a classifier behind a gate and a translator
autoattack  suites of attacks, as data
masking_checks      gradient-masking checks (flags: each check; masking_measurements: what they measure)
grid        every point of a regular grid, and refinement of what a search found

What those three are made of:

solver      init, advance and finish: a solver that can be driven in segments
starts      random first points
flatten        states laid out as flat rows
minimum_norm     what searches for the nearest point share
gradient_ascent       gradient ascent with step sizes that a rule adapts
adam        the direction of Adam, one age per example
sparse      the rule of l1 APGD
hyperplane  the shortest way to a hyperplane inside a box
bisection   exact thresholds without a sort
square_windows    Square's windows and bumps
masking_measurements      small measurements of a network, each compiled once
flags       where signs of trouble begin, in the answers of a network
attack_comparison    and in how searches compare
"""
