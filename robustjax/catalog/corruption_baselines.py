"""Networks whose published errors on corrupted images those of others are divided by."""

from robustjax.analysis.corruption_error import Baseline

# Their mean errors over five severities, on all 50,000 validation images. Reference: Hendrycks and Dietterich 2019,
# arXiv:1903.12261, whose spreadsheet has these digits, as google-research/augmix repeats them; the clean error is that
# of torchvision's weights, which these errors are of.
ALEXNET = Baseline(
    "AlexNet on ImageNet-C",
    0.43478,
    {
        "gaussian_noise": 0.886428,
        "shot_noise": 0.894468,
        "impulse_noise": 0.922640,
        "defocus_blur": 0.819880,
        "glass_blur": 0.826268,
        "motion_blur": 0.785948,
        "zoom_blur": 0.798360,
        "snow": 0.866816,
        "frost": 0.826572,
        "fog": 0.819324,
        "brightness": 0.564592,
        "contrast": 0.853204,
        "elastic_transform": 0.646056,
        "pixelate": 0.717840,
        "jpeg_compression": 0.606500,
    },
)
# On RobustBench's 5,000 validation images, from the accuracies by severity in its repository (model_info). Benchmark:
# Kar et al. 2022, arXiv:2203.01441.
ALEXNET_3DCC = Baseline(
    "AlexNet on ImageNet-3DCC",
    0.4376,
    {
        "near_focus": 0.61068,
        "far_focus": 0.65152,
        "bit_error": 0.68336,
        "color_quant": 0.59620,
        "flash": 0.80124,
        "fog_3d": 0.77356,
        "h265_abr": 0.56740,
        "h265_crf": 0.52520,
        "iso_noise": 0.93152,
        "low_light": 0.82248,
        "xy_motion_blur": 0.82484,
        "z_motion_blur": 0.79588,
    },
)
BASELINES = {"alexnet": ALEXNET, "alexnet_3dcc": ALEXNET_3DCC}
