"""Randomised smoothing: the class of most votes under noise, in pixels or in latents, with a certificate.

```
noise           samples of an image under noise: in its pixels, or in the parameters of a perturbation set
radii           from the probability of a class to a radius: Gaussian noise in l2, uniform and Laplace in l1; l2 to linf
denoised        a denoiser before any classifier, such as one step of a diffusion
normal_samples  many normal numbers at once, cheaply on a CPU too
votes           how often each class wins among samples, counted on the device, or shared among several
certify         certify: a label with a radius that holds with probability 1 - alpha; predict: a label
sequential      certify up to a wanted radius, with as few samples as it takes
anytime         certify until the radius is known well enough, looking as often as one likes
segmenters      certificates for every pixel, jointly
ensembles       several networks as one classifier
latent_attack   an attack on a classifier smoothed in the parameters of a set
median          a score smoothed by the median, with bounds on it in an l2 ball
curves          certified accuracy over radii, average certified radius
```

Bounds are computed on the host, in float64 (`robustjax.binomial`): in float32 they would promise radii that do
not hold.
"""

from robustjax.smoothing.anytime import certify_within as certify_within
from robustjax.smoothing.certify import Certificate as Certificate
from robustjax.smoothing.certify import certify as certify
from robustjax.smoothing.certify import predict as predict
from robustjax.smoothing.curves import average_radius as average_radius
from robustjax.smoothing.curves import certified_accuracy as certified_accuracy
from robustjax.smoothing.denoised import denoised as denoised
from robustjax.smoothing.denoised import one_step as one_step
from robustjax.smoothing.median import median as median
from robustjax.smoothing.noise import in_parameters as in_parameters
from robustjax.smoothing.noise import in_pixels as in_pixels
from robustjax.smoothing.noise import laplace_in_pixels as laplace_in_pixels
from robustjax.smoothing.noise import uniform_in_pixels as uniform_in_pixels
from robustjax.smoothing.segmenters import certify_pixels as certify_pixels
from robustjax.smoothing.sequential import certify_up_to as certify_up_to
from robustjax.smoothing.votes import votes as votes
