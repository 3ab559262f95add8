"""The impure edge: devices, files, clocks and pictures.

    mesh          one `data` axis over all devices; joining several processes
    watch         several processes that end together when one is lost
    compilation   keeping compiled programs between runs
    record        the folder of a run: config.json and metrics.jsonl
    checkpoint    save and restore a state, checked (`leaves`: what it holds; `quiet`: silencing orbax)
    progress      how far a loop is
    attack_progress     how far a suite of attacks is
    snapshot      progress of an evaluation in a file
    result_files        verdicts of a suite in files
    stopping      leaving a loop cleanly on SIGTERM and Ctrl-C
    figures       curves, training, ROC: PNG bytes (matplotlib)
    subplots        several small curves side by side: PNG bytes (matplotlib)
    bar_charts          grouped bars with intervals: PNG bytes (matplotlib)
    image_grids         images side by side, what an attack did: PNG bytes (matplotlib)
    report        a page of text, tables and pictures in one file
    provenance        config, versions, devices, commit and command of a result
    files         writing whole files

A run, in short:

    mesh = data_mesh()
    with (
        Run(cfg.out, cfg) as run,
        Checkpoints(run.folder / "checkpoints", best="valid_accuracy") as saved,
        stopping() as stop,
    ):
        state, done = saved.restore(state) or (state, 0)
        run.resume(done)
        bar = progress(batches, start=done, total=cfg.updates, label="train", batch_size=cfg.batch_size)
        for i, batch in bar:
            state, metrics = update(state, batch)
            run.record(i, metrics)
            bar.show(metrics)
            if stop.agreed(i):
                break
        saved.save(i + 1, state)
    sys.exit(stop.exit_code)

`figures` and `grids` are imported by those who draw, so that matplotlib stays an extra.
"""

from robustjax.runtime.checkpoint import Checkpoints as Checkpoints
from robustjax.runtime.compilation import cache_compiled as cache_compiled
from robustjax.runtime.files import write_whole as write_whole
from robustjax.runtime.mesh import data_mesh as data_mesh
from robustjax.runtime.mesh import distributed as distributed
from robustjax.runtime.mesh import one_device_per_core as one_device_per_core
from robustjax.runtime.mesh import over_data as over_data
from robustjax.runtime.mesh import place as place
from robustjax.runtime.mesh import replicated as replicated
from robustjax.runtime.progress import progress as progress
from robustjax.runtime.progress import say as say
from robustjax.runtime.record import Run as Run
from robustjax.runtime.record import read_metrics as read_metrics
from robustjax.runtime.report import Report as Report
from robustjax.runtime.stopping import stopping as stopping
