"""Parts of a split."""

import dataclasses

from robustjax.data.sources import Split


def first(split: Split, count: int | None) -> Split:
    """Keep the first `count` examples of a split, all of them for None.

    Raises:
      ValueError: if count is below 1.
    """
    if count is None or count >= len(split.label):
        return split
    if count < 1:
        raise ValueError(f"--images is {count}, must be at least 1")
    info = dataclasses.replace(split.info, count=count, note=f"{split.info.note} first {count}".strip())
    return dataclasses.replace(
        split, image=split.image[:count], label=split.label[:count], index=split.index[:count], info=info
    )
