"""Read the cropped digits of SVHN as distributed: MATLAB files."""

from pathlib import Path

import numpy as np
import scipy.io
from jaxtyping import Int

from robustjax import checks
from robustjax.checks import reading
from robustjax.data.layouts import files, insert, part, split_of
from robustjax.data.store import Part, Raw

DIGITS = tuple("0123456789")


def svhn(folder: Path, only: str = "") -> Raw | None:
    """Read `train_32x32.mat` and `test_32x32.mat`; the digit 0 is labelled 10 there, 0 here, as in TFDS.

    Raises:
      ValueError: for a file that is damaged or holds other arrays.
    """
    parts: dict[str, Part] = {}
    for path in files(folder, ".mat"):
        if path.name not in ("train_32x32.mat", "test_32x32.mat") or only not in path.name:
            continue
        with reading(path, "cannot be read as a MATLAB file"):
            content = scipy.io.loadmat(path, variable_names=("X", "y"))
        image, label = (content.get(name) for name in ("X", "y"))
        if (
            not isinstance(image, np.ndarray)
            or not isinstance(label, np.ndarray)
            or image.dtype != np.uint8
            or label.dtype.kind not in "iuf"
            or image.shape != (32, 32, 3, label.size)
        ):
            raise ValueError(f"{path}: must hold X of 32 x 32 x 3 x n bytes and y of n labels")
        images = np.ascontiguousarray(image.transpose(3, 0, 1, 2))
        digit = checks.labels(str(path), label.reshape(-1), count=label.size, classes=11)
        insert(parts, split_of(path.name), part(images, digit % 10, where=path), path)
    return Raw(parts) if parts else None


def thousand_of_each(label: Int[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
    """Keep the labels of the first 1,000 images of each digit, -1 for all others.

    Reference: the OOD set of ALOE, Chen et al. 2020, arXiv:2003.09711, and of ATOM, of the test images.
    """
    kept = np.full(len(label), -1, np.int32)
    for digit in range(len(DIGITS)):
        first = np.flatnonzero(label == digit)[:1000]
        kept[first] = digit
    return kept
