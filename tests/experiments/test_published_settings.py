"""Presets that carry the settings of papers, beside a table of these settings, written down from their sources.

A preset that is neither in the table nor among those of our own fails, so that none can claim to be published unseen.
"""

import inspect

import numpy as np
import pytest

from experiments.ood_detection import config as ood
from experiments.perturbation_sets import config as sets
from experiments.ratio.config import PRESETS as RATIO
from robustjax.models import normalisation
from robustjax.ood import presets

SGD = {"optimizer.name": "sgd", "optimizer.rate": 0.1, "optimizer.momentum": 0.9}

# --- RATIO: M4xim4l/InNOutRobustness, its README and RobustBench ---

# Of both generations: l2 0.5 inside, twice that outside, 10 and 20 steps of 0.1, divergence from uniform, weights of
# 1/2, batches of 128 and 128, weight decay 5e-4, crop, flip, AutoAugment and a window of 16.
RATIO_TRAIN = SGD | {
    "eps": 0.5, "ood_eps": 1.0, "train_eps": None, "ood_train_eps": None, "steps": 10, "ood_steps": 20,
    "step_size": 0.1, "step_schedule": "constant", "ascent": "pgd", "ood_surrogate": "kl_from_uniform",
    "half_weights": True, "batch_size": 128, "optimizer.weight_decay": 5e-4, "beta": 6.0, "suite": "standard",
    "confidence_steps": 100, "confidence_restarts": 5, "ood_images": 1024,
    "augment": ("crop", "flip", "autoaugment_cifar10", "cutout16"),
}  # fmt: skip
STEPS = {"cifar": 50_000 // 128, "svhn": 73_257 // 128}  # batches in an epoch
BESIDE_CIFAR10 = (
    "svhn_cropped",
    "cifar100",
    "lsun_classroom",
    "imagenet_minus",
    "noise/ccu",
    "noise/uniform",
)
PAPER = RATIO_TRAIN | {
    "dataset": "cifar10", "model": "resnet50", "updates": 250 * STEPS["cifar"], "ema": False, "surrogate": "margin",
    "optimizer.schedule": "piecewise", "optimizer.drops": (0.4, 0.6, 0.8), "test_ood_sets": BESIDE_CIFAR10,
}  # fmt: skip
RELEASED = RATIO_TRAIN | {
    "dataset": "cifar10", "model": "wideresnet34_10", "updates": 300 * STEPS["cifar"], "ema": True,
    "surrogate": "cross_entropy", "optimizer.schedule": "cosine", "test_ood_sets": BESIDE_CIFAR10,
}  # fmt: skip
RATIO_COMPARE = {
    "cifar10_paper": PAPER,
    "cifar10_paper_025": PAPER | {"train_eps": 0.25, "ood_train_eps": 0.5},
    "cifar10_released": RELEASED | {"sharpness": None, "extra": None},
    "cifar10_asam": RELEASED | {"updates": 250 * STEPS["cifar"], "sharpness": "asam", "rho": 1.0},
    # 89 of 128 images are pseudo-labelled, and AutoAugment is left out.
    "cifar10_extra": RELEASED | {"extra": "cifar10_extra", "extra_share": 0.7, "augment": ("crop", "flip")},
    "cifar100": RELEASED
    | {
        "dataset": "cifar100",
        "test_ood_sets": ("svhn_cropped", "cifar10", *BESIDE_CIFAR10[2:]),
    },
    # Digits are not mirrored.
    "svhn": RELEASED
    | {
        "dataset": "svhn_cropped",
        "updates": 300 * STEPS["svhn"],
        "augment": ("crop", "autoaugment_svhn", "cutout16"),
        "test_ood_sets": ("cifar10", "cifar100", *BESIDE_CIFAR10[2:]),
    },
    # Pixels of 224 x 224: l2 3.5 and 7, steps of 0.7; 75 epochs.
    "restricted_imagenet": PAPER
    | {
        "dataset": "restricted_imagenet", "model": "resnet50_imagenet", "eps": 3.5, "ood_eps": 7.0, "step_size": 0.7,
        "updates": 150_000, "optimizer.drops": (0.4, 0.8), "augment": ("resized_crop", "flip"),
        "surrogate": "cross_entropy",
        "test_ood_sets": (
            "restricted_imagenet/others", "flowers", "fgvc_aircraft", "stanford_cars", "noise/ccu", "noise/uniform",
        ),
    },
}  # fmt: skip

# --- ALOE and ATOM: jfc43/robust-ood-detection e405653, jfc43/informative-outlier-mining 258efed ---

# Batches of 64 beside 128, weight 1/2 of the OOD term, cosine from 0.1, weight decay 1e-4, DenseNet-BC-100-12.
ALOE = SGD | {
    "optimizer.weight_decay": 1e-4, "optimizer.schedule": "cosine", "batch_size": 64, "ood_batch_size": 128,
    "model": "densenet100", "loss": "aloe", "weight": None, "penalty": "published", "ema": False, "warmup": 0.0,
    "id_attack.norm": "linf", "id_attack.eps": 1 / 255, "id_attack.steps": 2, "id_attack.step": 1.0,
    "ood_attack.norm": "linf", "ood_attack.eps": 1 / 255, "ood_attack.steps": 2, "ood_attack.step": 1.0,
    "keep_iterate": "last", "augment": ("crop", "flip"), "ood_augment": None,
}  # fmt: skip
# 8/255, 5 steps of 2/255, the best iterate; rate x 0.1 at 50, 75 and 90; q = 0.125, chosen every epoch.
ATOM = SGD | {
    "optimizer.weight_decay": 1e-4, "optimizer.schedule": "piecewise", "batch_size": 64, "ood_batch_size": 128,
    "model": "densenet100", "loss": "atom", "quantile": 0.125, "ood_attack.norm": "linf",
    "ood_attack.eps": 8 / 255, "ood_attack.steps": 5, "ood_attack.step": 0.25, "keep_iterate": "best",
    "augment": ("crop", "flip"), "ood_augment": None,
}  # fmt: skip
# Of 50,000, 73,257 and 430,000 images; of the first two a tenth is held out here: 45,311 and 66,252 are left.
EPOCHS = {"cifar": 45_311 // 64, "svhn": 66_252 // 64, "gtsrb": 430_000 // 64}
OOD_TRAIN = {
    "cifar10_aloe": ALOE | {"dataset": "cifar10", "updates": 100 * EPOCHS["cifar"]},
    "cifar100_aloe": ALOE | {"dataset": "cifar100", "updates": 100 * EPOCHS["cifar"]},
    # Ten epochs; signs are turned and tilted, OOD images cropped and mirrored.
    "gtsrb_aloe": ALOE
    | {
        "dataset": "gtsrb/aloe",
        "updates": 10 * EPOCHS["gtsrb"],
        "augment": ("projective",),
        "ood_augment": ("crop", "flip"),
    },
    "cifar10_atom": ATOM
    | {
        "dataset": "cifar10",
        "updates": 100 * EPOCHS["cifar"],
        "mine_every": EPOCHS["cifar"],
        "optimizer.drops": (0.5, 0.75, 0.9),
    },
    "cifar100_atom": ATOM
    | {
        "dataset": "cifar100",
        "updates": 100 * EPOCHS["cifar"],
        "mine_every": EPOCHS["cifar"],
        "optimizer.drops": (0.5, 0.75, 0.9),
    },
    # 20 epochs with drops at 10, 15 and 18; digits are not augmented.
    "svhn_atom": ATOM
    | {
        "dataset": "svhn_cropped",
        "updates": 20 * EPOCHS["svhn"],
        "mine_every": EPOCHS["svhn"],
        "optimizer.drops": (0.5, 0.75, 0.9),
        "augment": (),
        "ood_augment": ("crop", "flip"),
    },
}
SIX = {"lsun_crop", "lsun_resize", "isun", "dtd", "places365"}
BOTH = {"attacks": ("atom", "aloe", "adaptive"), "radii": (1 / 255, 8 / 255), "norm": "linf", "images": None}
OOD_EVALUATE = {
    "aloe": {"attacks": ("aloe", "adaptive"), "radii": (1 / 255,)},
    "atom": {"attacks": ("atom", "adaptive"), "radii": (8 / 255,), "corruption": True, "composition": True},
    "atd": {"attacks": ("atd", "adaptive"), "radii": (8 / 255,)},
    # Threshold at 5 % of ID images; ODIN and Mahalanobis searched on 1,000 images of each side.
    "six_sets": BOTH | {"search_images": 1000, "id_rejected": 0.05, "grids": "aloe", "search": True},
    "six_sets_own": BOTH | {"id_rejected": 0.05, "detectors": ("own",)},
    "six_sets_gtsrb": BOTH | {"search_images": 1000, "id_rejected": 0.05, "grids": "aloe", "search": True},
}

# --- learned perturbation sets: the configs of locuslab/perturbation_learning a56cb3c ---

LINF = {
    "pairs": "linf",
    "likelihood": "bernoulli",
    "epochs": 20,
    "beta_at": (0, 5, 20),
    "beta": (0, 1e-3, 1e-2),
}
RTS = {
    "pairs": "rts", "likelihood": "bernoulli", "model": "stn", "epochs": 100, "rate_at": (0, 40, 100),
    "rate": (0, 8e-4, 0), "beta_at": (0, 10, 50), "beta": (0, 0.01, 1),
}  # fmt: skip
RECTANGLE = {
    "model": "rectangle", "likelihood": "gaussian", "epochs": 1000, "rate_at": (0, 400, 1000), "rate": (0, 1e-3, 0),
    "beta": (0, 0.01), "pad": 4,
}  # fmt: skip
UNET = {"pairs": "relit", "model": "scenes", "likelihood": "gaussian"}
SETS_TRAIN = {
    "mnist_dense_linf": LINF
    | {"model": "mnist_dense", "rate_at": (0, 10, 15, 20), "rate": (0, 1e-3, 5e-4, 1e-4)},
    "mnist_conv_linf": LINF
    | {"model": "mnist_conv", "rate_at": (0, 10, 15, 20), "rate": (1e-3, 1e-3, 5e-4, 1e-4)},
    "mnist_stn_rts": RTS | {"limit": None},
    "mnist_stn_rts_limited_1": RTS | {"limit": 1},
    "mnist_stn_rts_limited_5": RTS | {"limit": 5},
    "cifar10": RECTANGLE | {"pairs": "corrupted", "beta_at": (0, 40)},
    "cifar10_nooriginal": RECTANGLE | {"pairs": "corrupted_twice", "beta_at": (0, 400)},
    "cifar10_withoriginal": RECTANGLE | {"pairs": "corrupted_or_clean", "beta_at": (0, 400)},
    # Weight decay 5e-7 joins the gradient of a sum over the batch there, of a mean here.
    "mip5": UNET
    | {
        "batch_size": 64, "epochs": 1000, "rate_at": (0, 400, 1000), "rate": (1e-4, 1e-3, 0), "beta_at": (0, 400),
        "beta": (0, 1), "pad": 10, "weight_decay": 5e-7 / 64, "init_from": None,
    },
    "mip4": UNET
    | {
        "batch_size": 32, "epochs": 100, "rate_at": (0, 40, 100), "rate": (2.5e-5, 2.5e-4, 0), "beta": (1,),
        "pad": 20, "weight_decay": 5e-7 / 32, "init_from": "runs/cvae_mip5",
    },
    "mip3": UNET
    | {
        "batch_size": 16, "epochs": 25, "rate_at": (0, 10, 25), "rate": (2e-6, 2e-5, 0), "beta": (10,), "pad": 40,
        "weight_decay": 5e-7 / 16, "init_from": "runs/cvae_mip4",
    },
}  # fmt: skip
SEARCH = {"steps": 50, "ball_samples": 5, "images": None}
SETS_EVALUATE = {
    "mnist_dense_linf": SEARCH | {"radii": (28,)},
    "mnist_conv_linf": SEARCH | {"radii": (29,)},
    "mnist_stn_rts": SEARCH | {"radii": (14,)},
    "mnist_stn_rts_limited_1": SEARCH | {"radii": (14,)},
    "mnist_stn_rts_limited_5": SEARCH | {"radii": (14,)},
    "cifar10": SEARCH | {"radii": (2.7, 3.9, 10.2, 28), "pairs": "corrupted"},
    "cifar10_nooriginal": SEARCH | {"radii": (2.7, 3.9, 10.2, 28), "pairs": "corrupted"},
    "cifar10_withoriginal": SEARCH | {"radii": (34,), "pairs": "corrupted"},
    "mip5": SEARCH | {"radii": (7.35, 8.81, 17)},
    "mip4": SEARCH | {"radii": (25,)},
    "mip3": SEARCH | {"radii": (21,)},
}
# The published rate of the wide networks, 0.2, is that of SGD, though their configs name Adam.
WIDE = {
    "model": "wideresnet28_10", "epochs": 100, "batch_size": 128, "optimizer.rate": 0.2, "optimizer.name": "sgd",
    "optimizer.momentum": 0.9, "optimizer.schedule": "one_cycle", "pad": 4, "radius": 28,
    "radii": (2.7, 3.9, 10.2, 28),
}  # fmt: skip
SEGMENTER = {
    "model": "unet", "epochs": 400, "batch_size": 128, "optimizer.rate": 0.01, "optimizer.name": "adam",
    "optimizer.weight_decay": 0.0, "optimizer.schedule": "one_cycle", "pad": 10, "radius": 17, "set": "runs/cvae_mip5",
    "radii": (7.35, 8.81, 17),
}  # fmt: skip
# Seven steps of a fifth of the radius, from a uniform share of the radius; augmentation is N(0, I), however long.
ATTACKED = {"method": "adversarial", "attack_steps": 7, "attack_start": "radius"}
SETS_CLASSIFIER = {
    "cifar10_sample_aug": WIDE | {"method": "real", "set": "runs/cvae_cifar10_nooriginal"},
    "cifar10_cvae_aug": WIDE | {"method": "augmented", "truncate": False},
    "cifar10_cvae_attack": WIDE | ATTACKED,
    "cifar10_cvae_smoothing_084": WIDE | {"method": "smoothed", "sigma": 0.84},
    "cifar10_cvae_smoothing_122": WIDE | {"method": "smoothed", "sigma": 1.22},
    "cifar10_cvae_smoothing_319": WIDE | {"method": "smoothed", "sigma": 3.19},
    "mi_sample_first": SEGMENTER | {"method": "plain", "first_light": True},
    "mi_sample_aug": SEGMENTER | {"method": "plain", "first_light": False},
    "mi_cvae_aug": SEGMENTER | {"method": "augmented", "truncate": False},
    "mi_cvae_attack": SEGMENTER | ATTACKED,
    "mi_cvae_smoothing_690": SEGMENTER | {"method": "smoothed", "sigma": 6.9},
}
VOTES = {"selection_samples": 100, "alpha": 0.001}
PREDICTED = {"predict": ("clean", "corrupted", "held_out"), "predict_samples": 100}
SETS_CERTIFY = {
    "cifar10_smoothing_084": VOTES | PREDICTED | {"sigma": 0.84, "samples": 10_000},
    "cifar10_smoothing_122": VOTES | PREDICTED | {"sigma": 1.22, "samples": 10_000},
    "cifar10_smoothing_319": VOTES | PREDICTED | {"sigma": 3.19, "samples": 10_000},
    "mi_smoothing_690": VOTES | {"sigma": 6.9, "samples": 1000},
}

# By command: the presets, the published ones, and those of our own.
TABLES = {
    "ratio.compare": (RATIO, RATIO_COMPARE, "digits mnist fashion_mnist cifar10 cifar10_small smoke"),
    "ood_detection.train": (
        ood.TRAIN_PRESETS,
        OOD_TRAIN,
        "digits mnist fashion_mnist cifar10 cifar10_small smoke",
    ),
    "ood_detection.evaluate": (ood.EVALUATE_PRESETS, OOD_EVALUATE, "standard strong cifar10_small smoke"),
    "perturbation_sets.train": (sets.TRAIN_PRESETS, SETS_TRAIN, "digits lit_scenes cifar10_small smoke"),
    "perturbation_sets.evaluate": (sets.EVALUATE_PRESETS, SETS_EVALUATE, "digits cifar10_small smoke"),
    "perturbation_sets.train_classifier": (
        sets.CLASSIFIER_PRESETS,
        SETS_CLASSIFIER,
        "digits scenes cifar10_small smoke",
    ),
    "perturbation_sets.certify": (sets.CERTIFY_PRESETS, SETS_CERTIFY, "digits mnist cifar10_small smoke"),
}


def value(cfg, name):
    for part in name.split("."):
        cfg = getattr(cfg, part)
    return cfg


@pytest.mark.parametrize("command", TABLES)
def test_published_presets_have_the_published_settings(command):
    known, published, own = TABLES[command]
    assert set(known) == set(published) | set(own.split())
    for name, row in published.items():
        found = {key: value(known[name], key) for key in row}
        wrong = {key: (found[key], row[key]) for key in row if not same(found[key], row[key])}
        assert not wrong, f"{command} {name}: {wrong}"


def same(found, expected):
    if isinstance(expected, float | int) and not isinstance(expected, bool) and found is not None:
        return found == pytest.approx(expected)
    if isinstance(expected, tuple) and expected and not isinstance(expected[0], str):
        return found == pytest.approx(expected)
    return found == expected


def test_published_attacks_and_augmentation_in_sets_are_the_default():
    """Neither our start of the attack nor our truncation was better than the published ones."""
    assert (sets.TrainClassifierConfig().attack_start, sets.TrainClassifierConfig().truncate) == (
        "radius",
        False,
    )


def test_the_six_sets_are_those_of_the_papers():
    for name, last in (("six_sets", "svhn_cropped/thousand"), ("six_sets_gtsrb", "cifar10")):
        assert set(ood.EVALUATE_PRESETS[name].ood_sets) == SIX | {last}


def test_published_attacks_have_the_published_lengths():
    """ALOE: 10 steps of 1/255; ATOM: 40 of them; ATD: 100 of 2.5 eps / 100."""
    found = {
        attack.__name__: inspect.signature(attack).parameters["steps"].default
        for attack in (presets.aloe, presets.atom, presets.atd)
    }
    assert found == {"aloe": 10, "atom": 40, "atd": 100}


@pytest.mark.parametrize(
    ("cfg", "epochs", "drops"),
    [
        # RATIO: x 0.1 after epochs 100, 150 and 200 of 250; Restricted ImageNet 30 and 60 of 75.
        (RATIO["cifar10_paper"], 250, (100, 150, 200)),
        (RATIO["restricted_imagenet"], 75, (30, 60)),
        # ATOM: 50, 75 and 90 of 100; SVHN 10, 15 and 18 of 20.
        (ood.TRAIN_PRESETS["cifar10_atom"], 100, (50, 75, 90)),
        (ood.TRAIN_PRESETS["svhn_atom"], 20, (10, 15, 18)),
    ],
)
def test_the_rate_drops_at_the_published_epochs(cfg, epochs, drops):
    rates, epoch = cfg.optimizer.rates(cfg.updates), cfg.updates // epochs
    assert cfg.updates == epochs * epoch
    found = [float(rates(e * epoch + shift)) for e in drops for shift in (-1, 1)]
    expected = [0.1 * 0.1 ** (i + after) for i in range(len(drops)) for after in (0, 1)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert float(rates(0)) == float(rates(drops[0] * epoch - 1)) == np.float32(0.1)


def test_images_are_normalised_by_the_constants_of_their_own_set():
    """CIFAR-100's 10,000 test images, measured: the training images' means and deviations are within 0.003 of them."""
    mean, std = normalisation.CIFAR100["mean"], normalisation.CIFAR100["std"]
    np.testing.assert_allclose(mean, (0.50880, 0.48739, 0.44194), atol=3e-3)
    np.testing.assert_allclose(std, (0.26825, 0.25736, 0.27710), atol=3e-3)
    assert np.abs(np.subtract(mean, normalisation.CIFAR10["mean"])).min() > 3e-3
