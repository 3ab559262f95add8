"""The digits of scikit-learn as an embedded data set: 1,797 images of 8 x 8 grey levels, no download."""

import numpy as np

from robustjax.data.store import Contents, Part


def contents() -> Contents:
    """Collect the digits: grey levels 0..16 become 0..255, every fifth image of a class is a test image.

    That makes 1,438 training and 359 test images. The writers follow one another in the file, so both parts
    hold all of them. The index is the position in scikit-learn's array.

    Raises:
      ValueError: if scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ValueError("digits: needs scikit-learn, pip install scikit-learn") from error
    image, label = load_digits(return_X_y=True)
    # 255 / 16 is not whole: half is rounded up, in integers.
    image = ((image.astype(np.int64) * 255 + 8) // 16).astype(np.uint8).reshape(-1, 8, 8, 1)
    index = np.arange(len(image))
    rank = np.empty_like(index)
    for k in range(10):
        rank[label == k] = np.arange((label == k).sum())
    test = rank % 5 == 2
    return Contents(
        name="digits",
        version="1.0.0",
        classes=tuple("0123456789"),
        parts={
            split: Part(image[chosen], label[chosen].astype(np.int32), index[chosen])
            for split, chosen in (("train", ~test), ("test", test))
        },
        source="scikit-learn's digits (UCI optical recognition of handwritten digits, test part)",
    )
