"""Verdicts in files: verdicts.npz for machines that go on with them, verdicts.json for those that read."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from robustjax.evaluation.verdicts import NOT_RUN, Verdicts
from robustjax.runtime.files import write_whole
from robustjax.runtime.snapshot import in_bytes

SCHEMA = 1


def write(folder: str | Path, verdicts: Verdicts, about: Mapping[str, Any]) -> Path:
    """Write both files; return where the .npz is.

    Args:
      folder: made if absent.
      about: what else to say, as plain data; `about["subject"]` says what was attacked, and reports about different
        subjects are not merged.
    """
    folder = Path(folder)
    fields = {f.name: getattr(verdicts, f.name) for f in dataclasses.fields(verdicts) if f.name != "attacks"}
    arrays = {**fields, "attacks": np.array(verdicts.attacks), "about": np.array(json.dumps(about))}
    write_whole(folder / "verdicts.npz", in_bytes(arrays, compressed=True))
    page = {"schema": SCHEMA, "accuracy": rows(verdicts), "examples": _examples(verdicts), **about}
    write_whole(folder / "verdicts.json", json.dumps(page, indent=1) + "\n")
    return folder / "verdicts.npz"


def read(path: str | Path) -> tuple[Verdicts, dict[str, Any]]:
    """Read verdicts.npz, or the folder it is in: the verdicts and what was said about them.

    Raises:
      ValueError: if there is no such file, or it is another one.
    """
    path = Path(path)
    path = path / "verdicts.npz" if path.is_dir() else path
    try:
        with np.load(path) as file:
            arrays = dict(file)
        about = json.loads(str(arrays.pop("about")))
        return Verdicts(attacks=tuple(str(name) for name in arrays.pop("attacks")), **arrays), about
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"ledger: {path} holds no verdicts ({type(error).__name__}: {error})") from None


def rows(verdicts: Verdicts) -> list[dict[str, Any]]:
    """Tabulate the accuracy on clean images and after each attack."""
    table: list[dict[str, Any]] = []
    for i, (name, accuracy) in enumerate(verdicts.accuracy()):
        row: dict[str, Any] = {
            "after": name,
            "accuracy %": 100 * accuracy.value,
            "95 % interval": f"{100 * accuracy.low:.1f} to {100 * accuracy.high:.1f}",
        }
        if i:
            run = verdicts.outcome[i - 1]
            row |= {
                "images": int((run != NOT_RUN).sum()),
                "broken": int((run == 1).sum()),
                "iterations": int(verdicts.steps[i - 1]),
                "seconds": round(float(verdicts.seconds[i - 1]), 2),
            }
        table.append(row)
    return table


def _examples(verdicts: Verdicts) -> list[dict[str, Any]]:
    """One line per example."""
    by = verdicts.broken_by
    return [
        {
            "index": int(verdicts.index[i]),
            "label": int(verdicts.label[i]),
            "clean": int(verdicts.clean[i]),
            "standing": bool(verdicts.standing[i]),
            "broken_by": verdicts.attacks[by[i]] if by[i] >= 0 else None,
            "prediction": int(verdicts.prediction[i]),
            "margin": float(verdicts.value[i]),
            "distance": float(verdicts.distance[i]),
            "outcome": dict(zip(verdicts.attacks, verdicts.outcome[:, i].tolist(), strict=True)),
        }
        for i in range(len(verdicts.label))
    ]
