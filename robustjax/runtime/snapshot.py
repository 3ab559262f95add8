"""Progress of a long evaluation in one file: arrays by name, whole or not at all."""

import io
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from robustjax.checks import reading
from robustjax.runtime.files import write_whole


class Snapshot:
    """Keep arrays in a file every so often, as the `Memory` of `evaluation.runner`.

    Args:
      path: of the file, .npz.
      every: seconds between two writes; more if writing takes more than a twentieth of that.
      clock: seconds, increasing.
    """

    def __init__(self, path: str | Path, *, every: float = 30.0, clock: Callable[[], float] = time.monotonic):
        self.path, self._every, self._clock = Path(path), every, clock
        self._last, self._took = clock(), 0.0

    def load(self) -> dict[str, np.ndarray] | None:
        """Return what was kept last, None if nothing was.

        Raises:
          ValueError: if the file is damaged.
        """
        if not self.path.exists():
            return None
        with reading(self.path, "damaged, remove it to start again"), np.load(self.path) as file:
            return dict(file)

    def keep(self, arrays: Callable[[], Mapping[str, np.ndarray]]) -> None:
        """Write what `arrays` returns, if the last time is long enough ago."""
        now = self._clock()
        if now - self._last < max(self._every, 20 * self._took):
            return
        self.write(arrays())
        self._last = self._clock()
        self._took = self._last - now

    def write(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Write now."""
        write_whole(self.path, in_bytes(arrays))

    def remove(self) -> None:
        """Forget what was kept: the evaluation is complete."""
        self.path.unlink(missing_ok=True)


def in_bytes(arrays: Mapping[str, np.ndarray], *, compressed: bool = False) -> bytes:
    """Turn arrays into the content of an .npz file."""
    out = io.BytesIO()
    save: Any = np.savez_compressed if compressed else np.savez
    save(out, **arrays)
    return out.getvalue()
