"""ImageNet without the classes that show what CIFAR-10's show, as OOD images beside CIFAR-10."""

import numpy as np
from jaxtyping import Int

# First and last of ImageNet's 1000 classes, both inside, by the class of CIFAR-10 that they look like.
LIKE_CIFAR10: dict[str, tuple[tuple[int, int], ...]] = {
    "airplane": ((404, 405), (895, 895)),  # airliner and airship, warplane
    "automobile": (
        *((407, 407), (436, 436), (468, 468), (511, 511), (573, 573), (575, 575)),
        *((609, 609), (627, 627), (656, 656), (661, 661), (751, 751), (817, 817)),
    ),
    "bird": ((7, 24), (80, 100), (127, 146)),
    "cat": ((281, 293),),  # and large cats
    "deer": ((351, 353),),  # antelopes
    "dog": ((151, 280),),  # and wolves, wild dogs, hyena and foxes
    "frog": ((30, 32),),
    "horse": ((339, 340), (603, 603)),  # sorrel and zebra, horse cart
    "ship": (
        *((403, 403), (472, 472), (484, 484), (510, 510), (554, 554), (576, 576), (625, 625)),
        *((628, 628), (724, 724), (780, 780), (814, 814), (833, 833), (871, 871), (913, 914)),
    ),
    "truck": (
        *((408, 408), (555, 555), (569, 569), (586, 586), (654, 654), (675, 675), (717, 717), (734, 734)),
        *((757, 757), (779, 779), (803, 803), (847, 847), (864, 864), (866, 867), (874, 874)),
    ),
}


def minus(label: Int[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
    """Say 0 for classes unlike CIFAR-10's, -1 for those to leave out.

    Reference: "ImageNet-" of Augustin, Meinke and Hein 2020, arXiv:2003.09461, whose list of classes is not published;
      this one errs on the side of leaving out.
    """
    kept = np.zeros(1000, np.int32)
    for ranges in LIKE_CIFAR10.values():
        for first, last in ranges:
            kept[first : last + 1] = -1
    return kept[label]
