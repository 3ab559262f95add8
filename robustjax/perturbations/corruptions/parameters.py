"""The parameters of CIFAR-10-C by severity: one row each for severities 0 to 5, one column per parameter.

Rows 1 to 5 are the published ones. Row 0 is ours: the corruption that changes nothing, so that real severities
can be interpolated between rows from 0 on. Lengths are in pixels of 32 x 32 images unless said otherwise.

Reference: Hendrycks and Dietterich 2019, arXiv:1903.12261; the values are those of their script for CIFAR-10-C
  (make_cifar_c.py in github.com/hendrycks/robustness), also used by Chen et al. 2021, arXiv:2006.15207.
"""

import numpy as np


def _rows(*rows: float | tuple[float, ...]) -> np.ndarray:
    return np.asarray(rows, np.float32).reshape(6, -1)


# standard deviation
GAUSSIAN_NOISE = _rows(0, 0.04, 0.06, 0.08, 0.09, 0.10)
# photons that a pixel of 1 receives on average
SHOT_NOISE = _rows(np.inf, 500, 250, 100, 75, 50)
# share of values replaced
IMPULSE_NOISE = _rows(0, 0.01, 0.02, 0.03, 0.05, 0.07)
# standard deviation, relative
SPECKLE_NOISE = _rows(0, 0.06, 0.1, 0.12, 0.16, 0.2)

# standard deviation
GAUSSIAN_BLUR = _rows(0, 0.4, 0.6, 0.7, 0.8, 1)
# radius of the disk, standard deviation of its smoothing
DEFOCUS_BLUR = _rows((0, 0), (0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))
# standard deviation, furthest move, sweeps
GLASS_BLUR = _rows((0, 1, 0), (0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2))
# radius, standard deviation
MOTION_BLUR = _rows((6, 0), (6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))
# end of the series of zoom factors 1, 1.01, 1.02, ...
ZOOM_BLUR = _rows(1.01, 1.06, 1.11, 1.16, 1.21, 1.26)

# mean and standard deviation of the flakes, zoom, threshold, radius and deviation of their fall, weight of
# the image beside its whitened copy; the last column is ours: weight of the flakes
SNOW = _rows(
    (0.1, 0.2, 1, 0.6, 8, 3, 1, 0),
    (0.1, 0.2, 1, 0.6, 8, 3, 0.95, 1),
    (0.1, 0.2, 1, 0.5, 10, 4, 0.9, 1),
    (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9, 1),
    (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85, 1),
    (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8, 1),
)
# weights of the image and of the frost
FROST = _rows((1, 0), (1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))
# weight of the fog, decay of its roughness from one scale to the next
FOG = _rows((0, 3), (0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))
# mean and standard deviation of the liquid, its smoothing, threshold, intensity of water or smoothing of mud,
# mud instead of water; the last column is ours: weight of the drops
SPATTER = _rows(
    (0.62, 0.1, 0.7, 0.7, 0.5, 0, 0),
    (0.62, 0.1, 0.7, 0.7, 0.5, 0, 1),
    (0.65, 0.1, 0.8, 0.7, 0.5, 0, 1),
    (0.65, 0.3, 1, 0.69, 0.5, 0, 1),
    (0.65, 0.1, 0.7, 0.69, 0.6, 1, 1),
    (0.65, 0.1, 0.5, 0.68, 0.6, 1, 1),
)

# added to the value of HSV
BRIGHTNESS = _rows(0, 0.05, 0.1, 0.15, 0.2, 0.3)
# factor on the distance from the mean
CONTRAST = _rows(1, 0.75, 0.5, 0.4, 0.3, 0.15)
# factor and summand of the saturation of HSV
SATURATE = _rows((1, 0), (0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2))
# share of the pixels kept along each side
PIXELATE = _rows(1, 0.95, 0.9, 0.85, 0.75, 0.65)
# quality; the last column is ours: weight of the compressed image
JPEG_COMPRESSION = _rows((100, 0), (80, 1), (65, 1), (58, 1), (50, 1), (40, 1))
# amplitude and smoothing of the displacement, jitter of the affine map: shares of the shorter side
ELASTIC_TRANSFORM = _rows(
    (0, 0, 0), (0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)
)
