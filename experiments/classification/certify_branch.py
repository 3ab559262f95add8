"""Branch and bound on what bounds and attacks leave undecided, image by image, with a journal."""

import json
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from experiments.classification.config import BRANCH, CertifyConfig
from robustjax import runtime
from robustjax.bounds import branch_and_bound
from robustjax.data import Split
from robustjax.evaluation.suite import as_floats
from robustjax.runtime import strict_json
from robustjax.runtime.snapshot import Snapshot
from robustjax.threats import Threat
from robustjax.types import Network


class Timed:
    """Keep an image's search with the seconds that it took so far."""

    def __init__(self, path: pathlib.Path, began: float):
        self._file, self._began, self.before = Snapshot(path, every=10.0), began, 0.0

    def load(self) -> dict[str, np.ndarray] | None:
        """Return what was kept last, and count its seconds."""
        kept = self._file.load()
        if kept:
            self.before = float(kept.pop("seconds"))
        return kept

    def seconds(self) -> float:
        """Tell the seconds since the image was begun."""
        return self.before + time.monotonic() - self._began

    def keep(self, arrays: Callable[[], dict[str, np.ndarray]]) -> None:
        """Keep the search, if it is time."""
        self._file.keep(lambda: {"seconds": np.asarray(self.seconds()), **arrays()})

    def remove(self) -> None:
        """Forget it: the image is decided."""
        self._file.remove()


class Tried(NamedTuple):
    """What came of one image at one radius.

    Attributes:
      radius, image: which, images by their place among those evaluated.
      status: certified, attacked or undecided.
      lower, upper: bounds on the least lead of the label's logit; None for one that is infinite.
      seconds: that it took, with compiling.
      bounded: sub-domains.
      crown, alpha: bounds before the first cut, by CROWN and with slopes optimised; None where there is none.
    """

    radius: float
    image: int
    status: str
    lower: float | None
    upper: float | None
    seconds: float
    bounded: int
    crown: float | None = None
    alpha: float | None = None

    def row(self, norm: str) -> dict[str, Any]:
        """Tabulate."""
        return {
            f"{norm} radius" if name == "radius" else name: value for name, value in self._asdict().items()
        }


def decide(
    cfg: CertifyConfig,
    network: Network,
    test: Split,
    certified: np.ndarray,
    robust: np.ndarray,
    journal: pathlib.Path,
) -> list[Tried]:
    """Try every image at every radius where it is neither certified nor broken, until the budget of each ends.

    At a radius an image is tried if it is certified at the one before. What the journal tells is not tried again;
    an image that was being searched is taken up where it was at most ten seconds before.

    Args:
      cfg, network, test: the settings, the network and the images.
      certified, robust: (r, n) what is known before.
      journal: a line of JSON for each image at a radius.
    """
    known = {(one.radius, one.image): one for one in read(journal)}
    done: list[Tried] = []
    able = np.ones(len(test.label), bool)
    for eps, sure, stands in zip(cfg.grid(), certified, robust, strict=True):
        threat = Threat(cfg.norm, float(eps))
        verify = branch_and_bound(
            network,
            threat,
            inputs=cfg.split == "inputs",
            batch_size=cfg.domains,
            tighten=cfg.tighten,
            outward=cfg.outward,
        )
        for i in np.flatnonzero(able & stands & ~sure):
            one = known.get((float(eps), int(i)))
            if one is None:
                memory = Timed(journal.with_name(f"{journal.stem}_{eps:.6g}_{i}.npz"), time.monotonic())
                image = as_floats(test.image[i : i + 1])[0]
                found = verify(
                    image, test.label[i], lambda memory=memory: memory.seconds() < cfg.budget, memory
                )
                seconds = memory.seconds()
                ends = _finite(found.lower), _finite(found.upper)
                roots = [_finite(root) for root in (*found.roots[:1], *found.roots[-1:])]
                one = Tried(float(eps), int(i), found.status, *ends, seconds, found.bounded, *roots)
                strict_json.append(journal, one._asdict())
                memory.remove()
                runtime.say(
                    f"{cfg.norm} {eps:.4g}  {BRANCH}: image {i} {one.status}, {one.bounded} sub-domains, "
                    f"{one.seconds:.1f} s"
                )
            done.append(one)
        able = sure | np.isin(
            np.arange(len(sure)), [d.image for d in done if d.radius == eps and d.status == "certified"]
        )
    return done


def joined(
    cfg: CertifyConfig, done: list[Tried], certified: Mapping[str, np.ndarray], robust: np.ndarray
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Add what was decided to the certificates of all methods (m, r, n) and to what attacks left (r, n)."""
    sure, robust = certified["certified"][-1].copy(), robust.copy()
    for one in done:
        r = int(np.flatnonzero(cfg.grid() == one.radius)[0])
        sure[r, one.image] |= one.status == "certified"
        if one.status == "attacked":  # and at every larger radius
            robust[r:, one.image] = False
    seconds = np.append(certified["seconds"], sum(one.seconds for one in done))
    return {"certified": np.concatenate([certified["certified"], sure[None]]), "seconds": seconds}, robust


def read(journal: pathlib.Path) -> list[Tried]:
    """Read a journal; a last line that was not written to its end is left out."""
    lines = journal.read_text().split("\n")[:-1] if journal.exists() else []
    return [Tried(**json.loads(line)) for line in lines]


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
