"""What to make of the numbers.

```
curves             robust accuracy over radii
detection          OOD detection over networks and OOD sets, clean and at worst
confidence_curves  the probabilities of the true and the likeliest other class under attack, over radii
calibration        calibration error, reliability diagrams, temperature
counterfactual     visual counterfactuals over radii, and their quality
frechet            the Frechet distance of two sets of images by their features
intervals          confidence intervals: exact binomial, bootstrap
noise              on the object or on the rest of an image
sensitivity        relative foreground sensitivity: which noise hurts more
groups             accuracy by class and by group, worst group
backgrounds        what a change of background does: gap, flips, coarse classes, effective robustness
saliency           whether what matters to the answer lies on the object
on_scenes          one network on sets of scenes: predictions, hits under noise, activations
linear_head        linear heads on frozen activations
last_layer         deep feature reweighting: refit the last layer on balanced groups
reliance           all of this for networks of several seeds on paired scenes
corruption_error   accuracy, mCE and relative mCE on corrupted images
measures           the numbers made of that, by name, and differences with intervals
linear/      the theory of adversarially trained linear regression with core and spurious features
```
"""
