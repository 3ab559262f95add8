"""Read the cropped digits of SVHN as distributed: MATLAB files."""

from pathlib import Path

import numpy as np
import scipy.io

from robustjax.data.layouts import files, insert, part, split_of
from robustjax.data.store import Part, Raw


def svhn(folder: Path, only: str = "") -> Raw | None:
    """Read `train_32x32.mat` and `test_32x32.mat`; the digit 0 is labelled 10 there, 0 here, as in TFDS.

    Raises:
      ValueError: for a file that is damaged or holds other arrays.
    """
    parts: dict[str, Part] = {}
    for path in files(folder, ".mat"):
        if path.name not in ("train_32x32.mat", "test_32x32.mat") or only not in path.name:
            continue
        try:
            content = scipy.io.loadmat(path)
        except Exception as error:  # SciPy raises errors of many kinds
            raise ValueError(f"{path}: cannot be read as a MATLAB file ({error})") from error
        image, label = content.get("X"), content.get("y")
        if image is None or label is None or image.shape[:3] != (32, 32, 3) or image.shape[3] != label.size:
            raise ValueError(f"{path}: must hold X of 32 x 32 x 3 x n bytes and y of n labels")
        images = np.ascontiguousarray(image.transpose(3, 0, 1, 2))
        insert(parts, split_of(path.name), part(images, label.reshape(-1) % 10), path)
    return Raw(parts) if parts else None
