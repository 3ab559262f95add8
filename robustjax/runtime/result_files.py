"""Results of attacks in files: results.npz for machines that go on with them, results.json for those that read."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from robustjax.evaluation.results import NOT_RUN, Results
from robustjax.evaluation.score_suite import ScoreResults
from robustjax.runtime import strict_json
from robustjax.runtime.files import write_whole
from robustjax.runtime.snapshot import in_bytes

SCHEMA = 1


R = TypeVar("R")


def write(folder: str | Path, results: Results, about: Mapping[str, Any]) -> Path:
    """Write results of attacks on a classifier, both files; return where the .npz is.

    Args:
      folder: made if absent.
      results: of `evaluation.suite`.
      about: what else to say, as plain data; `about["network"]` says what was attacked, and reports about different
        networks are not merged.
    """
    summary = {"schema": SCHEMA, "accuracy": rows(results), "examples": _examples(results), **about}
    return write_arrays(folder, results, about, summary=summary)


def write_scores(folder: str | Path, results: ScoreResults, about: Mapping[str, Any]) -> Path:
    """Write results of attacks on the score of an OOD detector, both files; return where the .npz is."""
    metrics = results.summary()
    summary = {"schema": SCHEMA, "metrics": metrics, "examples": _scored_examples(results), **about}
    return write_arrays(folder, results, about, summary=summary)


def write_arrays(
    folder: str | Path, results: Any, about: Mapping[str, Any], *, summary: Mapping[str, Any] | None = None
) -> Path:
    """Write a dataclass of arrays and tuples of names as results.npz, and `summary` as results.json if given."""
    folder = Path(folder)
    kept = (f.name for f in dataclasses.fields(results) if f.metadata.get("stored", True))
    fields = {name: np.asarray(getattr(results, name)) for name in kept}
    arrays = {**fields, "about": np.array(strict_json.text(about))}
    write_whole(folder / "results.npz", in_bytes(arrays, compressed=True))
    if summary is not None:
        strict_json.write(folder / "results.json", summary)
    return folder / "results.npz"


def read(path: str | Path) -> tuple[Results, dict[str, Any]]:
    """Read results of attacks on a classifier; see `read_arrays`."""
    return read_arrays(path, Results)


def read_arrays(path: str | Path, kind: type[R]) -> tuple[R, dict[str, Any]]:
    """Read results.npz (earlier: verdicts.npz), or the folder it is in: the results and what was said about them.

    Args:
      path: of the file or its folder.
      kind: which dataclass it holds: `results.Results`, `score_suite.ScoreResults`, `defence_results.DefenceResults` or
        `corruptions.CorruptionResults`.
    Raises:
      ValueError: if there is no such file, or it is another one.
    """
    path = Path(path)
    if path.is_dir():
        new, old = path / "results.npz", path / "verdicts.npz"
        path = old if old.exists() and not new.exists() else new
    try:
        with np.load(path) as file:
            arrays: dict[str, Any] = dict(file)
        about = json.loads(str(arrays.pop("about")))
        if "subject" in about:  # in files of earlier versions
            about["network"] = about.pop("subject")
        for name in ("attacks", "models", "corruptions"):
            if name in arrays:
                arrays[name] = tuple(str(item) for item in arrays[name])
        return kind(**arrays), about
    except Exception as error:  # a damaged archive raises errors of a dozen kinds
        reason = " ".join(str(error).split())[:300]
        raise ValueError(
            f"result_files: {path} holds no results ({type(error).__name__}: {reason})"
        ) from None


def rows(results: Results) -> list[dict[str, Any]]:
    """Tabulate the accuracy on clean images and after each attack."""
    table: list[dict[str, Any]] = []
    for i, (name, accuracy) in enumerate(results.accuracy()):
        row: dict[str, Any] = {
            "after": name,
            "accuracy %": 100 * accuracy.value,
            "95 % interval": f"{100 * accuracy.low:.1f} to {100 * accuracy.high:.1f}",
        }
        if i:
            run = results.outcome[i - 1]
            row |= {
                "images": int((run != NOT_RUN).sum()),
                "broken": int((run == 1).sum()),
                "iterations": int(results.steps[i - 1]),
                "seconds": round(float(results.seconds[i - 1]), 2),
            }
        table.append(row)
    return table


def _examples(results: Results) -> list[dict[str, Any]]:
    """One line per example."""
    by = results.broken_by
    return [
        {
            "index": int(results.index[i]),
            "label": int(results.label[i]),
            "clean": int(results.clean[i]),
            "robust": bool(results.robust[i]),
            "broken_by": results.attacks[by[i]] if by[i] >= 0 else None,
            "prediction": int(results.prediction[i]),
            "margin": float(results.value[i]),
            "distance": float(results.distance[i]),
            "outcome": dict(zip(results.attacks, results.outcome[:, i].tolist(), strict=True)),
        }
        for i in range(len(results.label))
    ]


def _scored_examples(results: ScoreResults) -> list[dict[str, Any]]:
    """One line per example: its score, the worst one, and that of each case."""
    return [
        {
            "index": int(results.index[i]),
            "ID": bool(results.is_id[i]),
            "clean": float(results.clean[i]),
            "worst": float(results.worst[i]),
            "distance": float(results.distance[i]),
            "scores": dict(zip(results.attacks, results.scores[:, i].tolist(), strict=True)),
        }
        for i in range(len(results.index))
    ]
