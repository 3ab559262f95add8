"""Waterbirds: birds of the land and of the water, on backgrounds of land and of water."""

from functools import partial
from pathlib import Path

from robustjax.data import trees
from robustjax.data.scenes import Scenes

SPLITS = {"train": "0", "validation": "1", "test": "2"}


def waterbirds(
    root: str | Path, split: str, *, size: int = 224, segmentations: str | Path | None = None
) -> Scenes:
    """Read the released folder, waterbird_complete95_forest2water2, by its metadata.csv.

    Pictures are squashed to 8/7 of the size and cropped, as published. Averages over test images are usually
    weighted by the sizes of the groups in training (`groups.reweighted`), since the splits differ in them.

    Args:
      root: the folder that holds metadata.csv.
      split: "train", "validation" or "test".
      size: pixels a side.
      segmentations: CUB's folder of that name, for masks; each bird lies where it lay in CUB.
    Returns:
      Scenes with classes landbird, waterbird and places land, water, so that groups are 2 y + place.
    Raises:
      ValueError: for an unknown split, or files that are absent or not as published.

    Reference: Sagawa et al. 2020, arXiv:1911.08731. Among the labels are birds of the land whose names contain
      "tern" (eastern towhee, western meadowlark, western wood pewee); they are kept as released.
    """
    root = Path(root)
    if split not in SPLITS:
        raise ValueError(f"waterbirds: split is {split!r}, must be one of {', '.join(SPLITS)}")
    path = trees.needed("waterbirds", root / "metadata.csv", "waterbird_complete95_forest2water2")
    rows = trees.table(path, ("img_filename", "y", "split", "place"))
    rows = [row for row in rows if row["split"] == SPLITS[split]]
    masks = None
    if segmentations is not None:
        folder = trees.needed("waterbirds", Path(segmentations), "CUB's segmentations")
        files = [(folder / row["img_filename"]).with_suffix(".png") for row in rows]
        for file in files:
            trees.needed("waterbirds", file, "CUB's segmentations")
        masks = [partial(trees.read_picture, file) for file in files]
    return trees.scenes(
        f"Waterbirds {split}",
        [root / row["img_filename"] for row in rows],
        [int(row["y"]) for row in rows],
        classes=("landbird", "waterbird"),
        place=[int(row["place"]) for row in rows],
        places=("land", "water"),
        masks=masks,
        fit=trees.squashed_and_cropped,
        size=size,
    )
