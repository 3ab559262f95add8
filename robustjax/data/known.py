"""What is known of public data sets: classes, counts and checksums that raw files must agree with."""

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Known:
    """Facts on one data set.

    `sha256` holds, per split, the digests of the uint8 images (n, h, w, c) and of the labels as bytes, in
    official order; None where a digest is not known. `only` tells the files of the set from others in the
    same folder, by name.
    """

    version: str = "1.0.0"  # TFDS's where TFDS knows the set and the features agree
    classes: tuple[str, ...] = ()  # empty: the files say
    counts: Mapping[str, int] = dataclasses.field(default_factory=dict)  # empty: any
    sha256: Mapping[str, tuple[str | None, str]] = dataclasses.field(default_factory=dict)
    only: str = ""
    note: str = ""


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


CIFAR10 = _words("airplane automobile bird cat deer dog frog horse ship truck")
CIFAR100 = _words(
    "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly "
    "camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup "
    "dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower "
    "leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid "
    "otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray "
    "road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar "
    "sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle "
    "wardrobe whale willow_tree wolf woman worm"
)

# OOD sets of pictures without classes, and how many each has.
UNLABELLED: Mapping[str, int] = {
    "lsun_crop": 10_000,  # ODIN's LSUN, random crops
    "lsun_resize": 10_000,  # ODIN's LSUN_resize
    "isun": 8_925,  # ODIN's iSUN
    "places365": 10_000,  # those of Places365 that ATOM's list names
    "lsun_classroom": 300,  # the validation pictures of LSUN's classrooms
}

# The digests of MNIST and Fashion-MNIST are of the contents of the files with the official MD5s.
KNOWN: dict[str, Known] = {
    "mnist": Known(
        version="3.0.1",
        classes=tuple("0123456789"),
        counts={"train": 60_000, "test": 10_000},
        sha256={
            "train": (
                "741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757",
                "1feba77c54802fa5339a11837ea4b2866434b83314ec45192930f1df69120c13",
            ),
            "test": (
                "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161",
                "ddeff807876a9661a1110d45c266c86239a3a1b7d37da0c3716a7a683c852ff5",
            ),
        },
    ),
    "fashion_mnist": Known(
        version="3.0.1",
        classes=(
            *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
            *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
        ),
        counts={"train": 60_000, "test": 10_000},
        sha256={
            "train": (
                "2e487a6c89124f78f2d7521542223cafe96f7123c3ca13d447772ac6ecbb3012",
                "657fbd221bfc9f4198cc14b5619cc33ec57c58dd0e47af4d99d6650759e869a7",
            ),
            "test": (
                "c867c93ff95360594e8ec3287995350b824dd110b11595c0e13d5423f621867a",
                "3d0e6c6ea990b53b6f8f500a41cac93881d981b315f84578b7d915342ade01e9",
            ),
        },
    ),
    "kmnist": Known(
        version="3.0.1",
        classes=("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
        counts={"train": 60_000, "test": 10_000},
        sha256={
            "test": (
                "dc10e73c6e83fb3fb3586eafece217ab6602e7825fa7d49399359bde3fc66f07",
                "77d83a49ca5434c5da77399edc7143065cb3a7b0834e2898ea3094e8c2b21a3c",
            ),
        },
    ),
    "notmnist": Known(
        classes=tuple("ABCDEFGHIJ"),
        counts={"test": 10_000},
        sha256={
            "test": (
                "6bda48464effe4169d9cd068967cd81a717ae2f925ddb55fd71025e23022ee9a",
                "cbf49d96931f5bf9ec86d14ed2f729c2870d4f9b406729e43c68d3748a345369",
            ),
        },
        note="a sample of notMNIST, 1,000 images a class; labels are noisy",
    ),
    "kannada_mnist": Known(
        classes=tuple("0123456789"),
        counts={"train": 60_000, "test": 10_000},
        sha256={
            "test": (
                "a160847cf4ad4820049378846fde6215a8f0783476d22c21b0155541e94a2c26",
                "f24756e9fc27107597cd054b9df7247b4e5ab61780d1e5d55e7b1015307573de",
            ),
        },
        only="kannada",
    ),
    "kannada_mnist/dig": Known(
        classes=tuple("0123456789"),
        counts={"test": 10_240},
        sha256={
            "test": (
                "2ce1659f85abab6798782fc0ca099813250ecaf57dc1bdbbdc496030d9a6fe3b",
                "470b073476546add2baa4f2b1b8217df339a42e9e155d22b3d0c5a0807be7820",
            ),
        },
        only="dig",
        note="Dig-MNIST, by other writers",
    ),
    "cifar10": Known(
        version="3.0.2",
        classes=CIFAR10,
        counts={"train": 50_000, "test": 10_000},
        sha256={
            "train": (
                None,
                "2b7cd2f24487317614016b72ffd53071c3062f592f0eb300c18a770d41ae1253",
            ),
            "test": (
                None,
                "cec8a24a1e92aa2ecaa0bbd3dbfa86bf6cd8759fbd209a832824c8cf0afca9d5",
            ),
        },
    ),
    "cifar100": Known(
        classes=CIFAR100,
        counts={"train": 50_000, "test": 10_000},
        sha256={
            "test": (
                "4cb8e5d9309da489bf6b19cc10cd96c3ae6f8daf225380b605aaee4c0d6aee19",
                "4dad7d09c7c97d33f6cb928d705cf4196221316fd6e31bdd978a08ed9103ee0b",
            ),
        },
    ),
    "omniglot": Known(note="inverted and scaled to 28 pixels by averaging"),
    "tiny_imagenet": Known(counts={"train": 100_000, "validation": 10_000}),
    "tiny_imagenet/outliers": Known(
        note="validation images without CIFAR-like classes, the first 8,000 to train on, the rest for test",
    ),
    "random_images": Known(
        counts={"train": 300_000},
        note="from 80 Million Tiny Images, cleaned by the authors of outlier exposure",
    ),
    "gtsrb": Known(note="German traffic signs as pickles or folders of classes"),
    "gtsrb/aloe": Known(
        counts={"train": 34_799, "validation": 4_410, "test": 10_000},
        note="German traffic signs; the test images that ALOE's code draws",
    ),
    "svhn_cropped": Known(
        version="3.1.0", classes=tuple("0123456789"), counts={"train": 73_257, "test": 26_032}
    ),
    "emnist/letters": Known(
        version="3.1.0",
        classes=("none", *"abcdefghijklmnopqrstuvwxyz"),
        counts={"train": 124_800, "test": 20_800},
        only="letters",
        note="as distributed, rows and columns exchanged",
    ),
    **{
        name: Known(counts={"test": count}, note="OOD images; the short side scaled, then the centre")
        for name, count in UNLABELLED.items()
    },
}


def facts(name: str) -> Known:
    """Say what is known of a set; of one that is not known, nothing.

    SET_extra and SET_extra/WORD are further training images for a known set, with its classes and with labels of a
    network or a generator.
    """
    base = extra_of(name)
    if base in KNOWN and name not in KNOWN:
        note = "labels are those of a network or a generator: more training data, nothing to test on"
        return Known(classes=KNOWN[base].classes, note=note)
    return KNOWN.get(name, Known())


def extra_of(name: str) -> str | None:
    """Name the set that further training images are for: cifar10 of cifar10_extra/ddpm; None for other sets."""
    head = name.partition("/")[0]
    return head.removesuffix("_extra") if head.endswith("_extra") else None
