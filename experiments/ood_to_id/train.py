"""Train a translator that leads OOD images back to ID images, with the classifier and the gate it works for.

    python -m experiments.ood_to_id.train digits --out runs/translator
    python -m experiments.ood_to_id.train digits --kind ddpm --out runs/translator_ddpm
    python -m experiments.ood_to_id.train mnist --classifier runs/mnist --out runs/translator_mnist

--kind is one of pix2pix, pix2pixhd, dae (a denoising autoencoder), ddpm (a diffusion that purifies, its time chosen on
validation images) and atop (pix2pix, then fine-tuned against attacks that go through it), or module:name of your own
function (key, images) -> images. --classifier takes a run folder of classification.train instead of training one.
Pairs are made of the training images by --recipe.attacks at shares of --recipe.eps, by --recipe.shifts, and of every
image with itself; by those of --recipe.subset (SPSA, which is slow) only of a share of the images; anew every
--recipe.refresh epochs, or once.

The system is reconstructed from the abstract of arXiv:2202.08944 and from the papers of its parts: the tables of that
paper were not available, and its numbers are not compared with. What is measured here are attacks that know nothing of
the translator; ood_to_id.evaluate attacks it with knowledge of it.

Start it again with the same --out and it goes on bit for bit. The folder gets networks/, system.json and report.html.
"""

from jax.sharding import Mesh

from experiments.ood_to_id.config import TRAIN_PRESETS as PRESETS
from experiments.ood_to_id.config import TrainConfig
from experiments.ood_to_id.train_report import training_report
from experiments.ood_to_id.training import Stopped, stages_of_shapes, train_system
from experiments.shared import command_line
from experiments.shared.planned import Planned, of_stage, require_one_device
from robustjax import runtime


def main(cfg: TrainConfig) -> int:
    """Train all parts, measure, report."""
    # --- train ---
    try:
        trained = train_system(cfg)
    except Stopped as stopped:
        return stopped.exit_code

    # --- report ---
    for row in trained.rows:
        print(
            f"{row['images']:22s} f {row['accuracy of f %']:5.1f} %  f after T {row['accuracy of f after T %']:5.1f} %"
        )
    runtime.say(f"report: {training_report(cfg, trained).write(trained.folder / 'report.html')}")
    return 0


def planned(cfg: TrainConfig, mesh: Mesh, *, shape: tuple[int, ...], classes: int) -> list[Planned]:
    """List what a run does most of its time, for `benchmarks.plan`: an update of each network.

    Making pairs, which attacks the classifier, and measuring are not in it.

    Args:
      cfg: the settings.
      mesh: of one device, which need not be there.
      shape, classes: of the images.
    Raises:
      ValueError: for several devices, a translator of one's own, or a set whose number of images is not known.
    """
    require_one_device("ood_to_id.train", mesh)
    return [of_stage(stage, mesh) for stage in stages_of_shapes(cfg, shape, classes)]


if __name__ == "__main__":
    command_line.script(main, PRESETS, __doc__)
