"""Channel means and standard deviations of data sets in [0, 1], as in `resnet18(**normalisation.CIFAR10)`."""

from typing import TypedDict


class Normalisation(TypedDict):
    """Keyword arguments of every model factory: one number per channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


CIFAR10: Normalisation = {
    "mean": (0.4913997551666284, 0.48215855929893703, 0.4465309133731618),
    "std": (0.24703225141799082, 0.24348516474564, 0.26158783926049628),
}
# Of the 50,000 training images; the published CIFAR-100 models of RATIO and ALOE were trained with CIFAR10 above.
CIFAR100: Normalisation = {"mean": (0.5071, 0.4865, 0.4409), "std": (0.2673, 0.2564, 0.2762)}
SVHN: Normalisation = {"mean": (0.4377, 0.4438, 0.4728), "std": (0.1201, 0.1231, 0.1052)}
GTSRB: Normalisation = {"mean": (0.3337, 0.3064, 0.3171), "std": (0.2672, 0.2564, 0.2629)}
RESTRICTED_IMAGENET: Normalisation = {"mean": (0.4717, 0.4499, 0.3837), "std": (0.2600, 0.2516, 0.2575)}
IMAGENET: Normalisation = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
