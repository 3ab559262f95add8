"""Turn a folder of raw files into a prepared data set that every experiment finds by name.

    python -m experiments.data.prepare mnist --source ~/raw/mnist
    python -m experiments.data.prepare --list

Raw files are idx (.gz or not), CIFAR pickles or binaries, SVHN's .mat, npy or npz arrays, or pictures
in a folder or zip for each class; which of them is found out. Sets that are known (mnist,
fashion_mnist, kmnist, emnist/letters, notmnist, kannada_mnist, kannada_mnist/dig, cifar10, cifar100,
svhn_cropped, cifar10_corrupted/<type>_<severity>, omniglot, tiny_imagenet, tiny_imagenet/outliers, random_images)
must agree with the known counts and checksums; gtsrb and gtsrb/aloe are traffic signs as pickles; lsun_crop,
lsun_resize, isun, places365 and lsun_classroom are OOD sets of pictures without classes; tiny_images/<count> draws OOD
images from the file of 80 Million Tiny Images, without what the lists beside it name; cifar10_extra, cifar10_extra/ddpm
and the like are further training images of a set, with labels of a network or a generator; multi_illumination/mip5 is a
level of its tree; any other name is a set of your own. Nothing is downloaded.

`--keep-files` stores pictures as they are, each with its checksum: what does not fit in memory is read so and decoded
while training, such as ImageNet from a folder with train/ and val/. The
result is a TFDS data set in $TFDS_DATA_DIR or ~/tensorflow_datasets; the embedded sets (digits, letters, letters/28)
need none.
"""

import dataclasses
import pathlib

import tyro

from experiments.shared import command_line
from experiments.shared.fields import Count
from robustjax.data import multi_illumination, raw, sources, store, store_pictures


@dataclasses.dataclass(frozen=True)
class Config:
    """What to prepare."""

    name: tyro.conf.Positional[str] = ""  # of the data set
    source: str | None = None  # folder of raw files
    data_dir: str | None = None  # where to put it
    size: Count | None = None  # pixels a side that pictures are scaled and cropped to
    keep_files: bool = (
        False  # store pictures as they are in their files, of any size, to be decoded while training
    )
    list: bool = False  # show what is there


def main(cfg: Config) -> None:
    """Prepare one set, or list what is there."""
    # --- what is asked for ---
    root = sources.place(cfg.data_dir)
    if cfg.list:
        return show(root)
    if not cfg.name or cfg.source is None:
        raise ValueError("name a data set and its raw files: data.prepare mnist --source FOLDER, or --list")
    folder = sources.find(cfg.name, root)
    if folder is not None:
        print(f"{cfg.name} is prepared already, in {folder}; delete that folder to prepare it again")
        return None
    if cfg.name.startswith("multi_illumination/mip"):
        level = cfg.name.removeprefix("multi_illumination/mip")
        if not level.isdecimal():
            raise ValueError(f"{cfg.name}: must end in a level, as in multi_illumination/mip5")
        source = pathlib.Path(cfg.source).expanduser()
        print(f"prepared in {multi_illumination.prepare(source, int(level), root)}")
        return None
    # --- pictures as they are ---
    if cfg.keep_files:
        if cfg.size:
            raise ValueError(
                "--size and --keep-files are given, must be one of them: give --size to the script"
            )
        with store.writing(root, "--data-dir or $TFDS_DATA_DIR"):
            written = store_pictures.write(cfg.name, pathlib.Path(cfg.source).expanduser(), root)
        for split, count in written.counts.items():
            print(f"{split}: {count:,} pictures")
        print(f"{written.bytes:,} bytes of files, each with a checksum. {written.note}".strip())
        print(f"prepared in {written.folder}; train with --size, such as --size 224")
        return None
    # --- read and write ---
    contents = raw.contents(cfg.name, pathlib.Path(cfg.source).expanduser(), size=cfg.size)
    try:
        folder = store.write(contents, root)
    except OSError as error:
        raise ValueError(f"cannot write to {root}: {error}") from error
    # --- read it back, and say what it is ---
    for split in contents.parts:
        name = "test" if split == "validation" and "test" not in contents.parts else split
        found = sources.load(cfg.name, name, data_dir=root)
        shape = " x ".join(map(str, found.image.shape[1:]))
        held = " (without what validation holds out)" if name == "train" and len(contents.parts) < 3 else ""
        print(f"{name}: {found.info.count:,} images, {shape}, {len(found.info.classes)} classes{held}")
        print(f"  SHA-256 {found.info.sha256}")
    print(f"{contents.source}. {contents.note}".strip())
    print(f"prepared in {folder}")
    return None


def show(root: pathlib.Path) -> None:
    """Print a line for every set that loads."""
    print(f"in {root}:")
    for name in sources.available(root):
        folder = sources.find(name, root)
        if folder is None:
            print(f"  {name:24} embedded, needs no preparation")
        else:
            stored = ", ".join(f"{count:,} {split}" for split, count in sources.counts(folder).items())
            print(f"  {name:24} {folder.name}  {stored}")


def run() -> None:
    """Read the command line and do what it says; what is wrong with it ends in one line and exit code 2."""

    def job() -> None:
        config = tyro.cli(Config, description=__doc__)
        command_line.validate(config)
        main(config)

    command_line.guarded(job)


if __name__ == "__main__":
    run()
