"""Folders of corrupted images as cells: CIFAR-10-C, CIFAR-100-C, ImageNet-C, ImageNet-3DCC, and others laid out so."""

from collections.abc import Sequence
from pathlib import Path

from robustjax import checks
from robustjax.data import Split, corrupted_arrays, corrupted_trees
from robustjax.evaluation.corruptions import COMMON, Cells

BENCHMARKS = (COMMON, corrupted_trees.IMAGENET_3DCC)


def cells(
    folder: str | Path,
    clean: Split,
    *,
    corruptions: Sequence[str] = (),
    severities: Sequence[int] = (1, 2, 3, 4, 5),
    held_out: bool = True,
    preprocess: str | None = None,
) -> Cells:
    """Find the corrupted images of a split; pixels stay on disk until they are needed.

    Args:
      folder: with labels.npy and NAME.npy of five severities each, or a tree NAME/severity/class/picture.
      clean: the images as they are, all or a subset; of a tree, from `data.picture_tree.load` or with `preprocess`.
      corruptions: names; by default those of the benchmark, which must all be there.
      severities: whole numbers from 1 to 5.
      held_out: by default also the corruptions that lie beside those of the benchmark.
      preprocess: of the pictures of a tree, by name; by default they are scaled to the side of the clean images.
    Raises:
      ValueError: in one line, before any work, for files that are absent or do not fit the clean images.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder}: is no folder, must hold corrupted images")
    checks.corruptions("corrupted_files", corruptions or ("all",), severities)
    if odd := [s for s in severities if s != int(s) or s < 1]:
        raise ValueError(f"corrupted_files: severity is {odd[0]:g}, must be a whole number from 1 to 5")
    trees = corrupted_trees.folders(folder)
    there = list(trees) or corrupted_arrays.names(folder)
    benchmark = max(BENCHMARKS, key=lambda names: len(set(names) & set(there)))
    needed = benchmark if set(benchmark) & set(there) or not there else ()
    others = [name for name in there if name not in needed] if held_out or not needed else []
    names = tuple(corruptions) or (*needed, *others)
    if trees:
        scaled = preprocess or f"Res{clean.image.shape[1]}"
        read = corrupted_trees.cells(folder, clean, names, severities, preprocess=scaled)
    elif preprocess:
        raise ValueError(
            f"corrupted_files: preprocess is {preprocess}, must be left out with files of arrays"
        )
    else:
        read = corrupted_arrays.cells(folder, clean, names, severities)
    return Cells(names, tuple(map(float, severities)), clean.image, clean.label, clean.index, read)
