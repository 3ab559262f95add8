"""The impure edge: devices, files, clocks and pictures.

    mesh          one `data` axis over all devices; several processes
    checkpoint    save and restore a state, checked
    record        the folder of a run: config.json and metrics.jsonl
    progress      how far a loop is
    origin        versions, devices, commit and config of a result
    files         writing whole files

A run in short:

    mesh = data_mesh()
    with Run(cfg.out, cfg) as run, Checkpoints(run.folder / "checkpoints", best="valid_accuracy") as saved:
        state, step = saved.restore(state) or (state, 0)
        run.resume(step)
        bar = progress(batches, start=step, total=cfg.updates, label="train", batch_size=cfg.batch_size)
        for i, batch in bar:
            state, metrics = update(state, batch)
            run.record(i, metrics)
            bar.show(metrics)
        saved.save(cfg.updates, state, {"valid_accuracy": accuracy})
"""

from robustjax.runtime.checkpoint import Checkpoints as Checkpoints
from robustjax.runtime.mesh import data_mesh as data_mesh
from robustjax.runtime.mesh import distributed as distributed
from robustjax.runtime.mesh import over_data as over_data
from robustjax.runtime.mesh import place as place
from robustjax.runtime.mesh import replicated as replicated
from robustjax.runtime.progress import progress as progress
from robustjax.runtime.progress import say as say
from robustjax.runtime.record import Run as Run
from robustjax.runtime.record import read_metrics as read_metrics
