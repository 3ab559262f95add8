"""The Multi-Illumination data set: indoor scenes under 25 flashes with materials, as a prepared TFDS data set.

The raw tree is that of the published downloads: SCENE/dir_0_mip5.jpg to dir_24_mip5.jpg and SCENE/materials_mip2.png
in one folder per scene.
"""

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from robustjax.checks import reading
from robustjax.data.layouts import files
from robustjax.data.lit import lit
from robustjax.data.sources import Split, find, place
from robustjax.data.store import scratch, settle
from robustjax.data.trees import read_picture

LIGHTS = 25
TRAINING_SCENES = 960  # of the 1,015 that are published, by `part_of`
_MATERIALS = (
    "Brick, Cardboard, Carpet/rug, Ceramic, Chalkboard/blackboard, Concrete, Cork/corkboard, Dirt, "
    "Fabric/cloth, Foliage, Food, Fur, Glass, Granite/marble, Hair, Laminate, Leather, Linoleum, Metal, "
    "Mirror, Painted, Paper/tissue, Plastic-clear, Plastic-opaque, Rubber/latex, Skin, Sponge, Stone, "
    "Styrofoam, Tile, Wallpaper, Water, Wax, Wicker, Wood, Other"
)
CLASSES: tuple[str, ...] = tuple(_MATERIALS.split(", "))
# What the 41 numbers of the files mean, in their order; what is no material is "Other".
TO_CLASS = np.array(
    [
        *(35, 35, 35, 1, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 15, 16, 17, 18, 19, 35, 20),
        *(21, 22, 23, 24, 26, 28, 29, 35, 30, 32, 33, 34, 27, 4, 2, 0, 25, 31, 14, 35),
    ],
    np.uint8,
)


def size(mip: int) -> tuple[int, int]:
    """Give rows and columns of a picture at a level: (125, 187) at 5, twice as many at each level before."""
    return 4000 >> mip, 6000 >> mip


def part_of(scene: str) -> str:
    """Say in which split a scene is, by its name."""
    if scene.startswith("everett"):
        return "test"
    return "validation" if "main_drylab" in scene else "train"


class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A TFDS builder over the raw tree at one level; the JPEG files are kept as they are."""

    VERSION = tfds.core.Version("1.0.0")
    name = "multi_illumination"

    def __init__(self, folder: Path, mip: int, **settings: Any):
        """Take the raw tree and the level."""
        self.folder, self.mip = folder, mip
        self.BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=f"mip{mip}", version="1.0.0")]
        super().__init__(**settings)

    def _info(self) -> tfds.core.DatasetInfo:
        shape = size(self.mip)
        picture = tfds.features.Image(shape=(*shape, 3), dtype=np.uint8, encoding_format="jpeg")
        features: Any = {
            "images": tfds.features.Sequence(picture, length=LIGHTS),
            "materials": tfds.features.Image(shape=(*shape, 1), dtype=np.uint8, encoding_format="png"),
            "scene": tfds.features.Text(),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description="Indoor scenes under 25 flashes, with the material of each pixel (Murmann et al. 2019).",
            features=tfds.features.FeaturesDict(features),
        )

    def _split_generators(self, dl_manager):
        del dl_manager
        found: dict[str, list[Path]] = {}
        for folder in scenes(self.folder, self.mip):
            found.setdefault(part_of(folder.name), []).append(folder)
        return {part: self._generate_examples(folders) for part, folders in found.items()}

    def _generate_examples(self, folders: list[Path]) -> Iterator[tuple[str, dict[str, Any]]]:
        for folder in folders:
            pictures = [io.BytesIO(_checked(folder, i, self.mip)) for i in range(LIGHTS)]
            label = io.BytesIO()
            Image.fromarray(materials(folder, self.mip)).save(label, "png")
            label.seek(0)
            yield folder.name, {"images": pictures, "materials": label, "scene": folder.name}


def scenes(folder: Path, mip: int) -> list[Path]:
    """List the folders of the scenes that have pictures of a level.

    Raises:
      ValueError: if there is none.
    """
    found = [path.parent for path in files(folder, ".jpg") if path.name == f"dir_0_mip{mip}.jpg"]
    if not found:
        raise ValueError(
            f"multi_illumination: {folder} holds no SCENE/dir_0_mip{mip}.jpg, must be the unpacked downloads"
        )
    return found


def materials(folder: Path, mip: int) -> np.ndarray:
    """Read the material of each pixel, uint8 (h, w); at level 5 scaled down from level 2, whose own map is off by one.

    Raises:
      ValueError: if the scene has no map, or one of unknown numbers.
    """
    names = [f"materials_mip{m}.png" for m in ((2, mip) if mip == 5 else (mip, 2))]
    found = next((folder / name for name in names if (folder / name).is_file()), None)
    if found is None:
        raise ValueError(f"multi_illumination: {folder} holds none of {', '.join(names)}")
    picture = read_picture(found)
    if picture.mode not in ("P", "L"):
        raise ValueError(f"{found}: its mode is {picture.mode}, must be P or L, numbers of materials")
    rows, columns = size(mip)
    numbers = np.asarray(
        Image.fromarray(np.asarray(picture)).resize((columns, rows), Image.Resampling.NEAREST)
    )
    if numbers.max() >= len(TO_CLASS):
        raise ValueError(f"{found}: holds material {numbers.max()}, must be below {len(TO_CLASS)}")
    return TO_CLASS[numbers]


def prepare(folder: Path, mip: int, data_dir: Path) -> Path:
    """Prepare a level of the raw tree under data_dir/multi_illumination/mip<level>, all or nothing; return the folder.

    Raises:
      ValueError: if a scene lacks a picture, or one has another size.
    """
    if not 0 <= mip <= 7:
        raise ValueError(f"multi_illumination: mip is {mip}, must be in 0..7")
    target = data_dir / "multi_illumination" / f"mip{mip}" / "1.0.0"
    with scratch(data_dir) as temporary:
        builder = Builder(folder, mip, data_dir=temporary, file_format="array_record")
        tfds.disable_progress_bar()
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare()
        settle(Path(builder.data_path), target)
    return target


def load(mip: int, split: str, *, data_dir: str | Path | None = None) -> Split:
    """Load a prepared level as `lit` packs scenes; "train", "validation" or "test". All pictures are kept in memory.

    Raises:
      ValueError: if the level or the split has not been prepared.
    """
    name = f"multi_illumination/mip{mip}"
    folder = find(name, place(data_dir))
    if folder is None:
        raise ValueError(
            f"load: no {name} in {place(data_dir)}, prepare it with `python -m experiments.data.prepare {name} "
            "--source <folder of scenes>`"
        )
    damaged = "damaged, delete that folder and prepare it again"
    with reading(folder, damaged):
        builder: Any = tfds.builder_from_directory(folder)
    if split not in builder.info.splits:
        raise ValueError(f"load: {name} has no {split} scenes here, it has {', '.join(builder.info.splits)}")
    with reading(folder, damaged):
        source = builder.as_data_source(split)
        records = sorted((source[i] for i in range(len(source))), key=lambda record: record["scene"])
        image = np.stack([np.asarray(record["images"]) for record in records])
        material = np.stack([np.asarray(record["materials"])[..., 0] for record in records])
    return lit(image, material, name=name, split=split, classes=CLASSES, source=f"prepared TFDS data {name}")


def _checked(folder: Path, light: int, mip: int) -> bytes:
    path = folder / f"dir_{light}_mip{mip}.jpg"
    if not path.is_file():
        raise ValueError(f"multi_illumination: {path} is missing")
    picture = read_picture(path)
    if picture.size[::-1] != size(mip):
        raise ValueError(f"{path}: has {picture.size[::-1]} rows and columns, must have {size(mip)}")
    return path.read_bytes()
