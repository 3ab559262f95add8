"""The impure edge: devices, files, clocks and pictures.

    mesh             one `data` axis over all devices; joining several processes
    compilation      keeping compiled programs between runs
    program_memory   letting them go before the operating system refuses the next one
    record           the folder of a run: config.json, metrics.jsonl and cached arrays
    run_folder       reading the folder of a run: its settings and its checkpoints
    fitting          the training loop
    staged_fitting   the training loop for stages that are a few compiled loops each
    checkpoint       save and restore a state, checked (`pytree_files`: what it holds; `orbax_logging`: silencing orbax)
    progress         how far a loop is
    attack_progress  how far a suite of attacks is
    image_progress   how far an evaluation of many images is
    snapshot         progress of an evaluation in a file
    result_files     results of attacks in files
    stopping         leaving a loop cleanly on SIGTERM and Ctrl-C
    figures          curves, training, ROC: PNG bytes (matplotlib)
    subplots         several small curves side by side: PNG bytes (matplotlib)
    bar_charts       grouped bars with intervals: PNG bytes (matplotlib)
    heat_maps        numbers in a rectangle, coloured: PNG bytes (matplotlib)
    image_grids      images side by side, what an attack did: PNG bytes (matplotlib)
    report           a page of text, tables and pictures in one file
    provenance       config, versions, devices, commit and command of a result
    files            writing whole files
    strict_json      writing JSON without bare NaN

A run, in short:

    mesh             = data_mesh()
    with (
        Run(cfg.out, cfg) as run,
        Checkpoints(run.folder / "checkpoints", best="valid_accuracy") as saved,
        stopping() as stop,
    ):
        fitted = fit(update, state, batches, total=cfg.updates, saved=saved, stop=stop, run=run, validate=validate)
    sys.exit(fitted.exit_code)

`figures` and `grids` are imported by those who draw, so that matplotlib stays an extra.
"""

from robustjax.runtime.checkpoint import Checkpoints as Checkpoints
from robustjax.runtime.compilation import cache_compiled as cache_compiled
from robustjax.runtime.files import write_whole as write_whole
from robustjax.runtime.fitting import Fitted as Fitted
from robustjax.runtime.fitting import fit as fit
from robustjax.runtime.mesh import data_mesh as data_mesh
from robustjax.runtime.mesh import distributed as distributed
from robustjax.runtime.mesh import one_device_per_core as one_device_per_core
from robustjax.runtime.mesh import over_data as over_data
from robustjax.runtime.mesh import place as place
from robustjax.runtime.mesh import replicated as replicated
from robustjax.runtime.program_memory import release_programs as release_programs
from robustjax.runtime.progress import progress as progress
from robustjax.runtime.progress import say as say
from robustjax.runtime.record import Run as Run
from robustjax.runtime.record import read_metrics as read_metrics
from robustjax.runtime.report import Report as Report
from robustjax.runtime.run_folder import OpenedRun as OpenedRun
from robustjax.runtime.run_folder import from_plain as from_plain
from robustjax.runtime.run_folder import open_run as open_run
from robustjax.runtime.staged_fitting import fit_stage as fit_stage
from robustjax.runtime.staged_fitting import weights_of as weights_of
from robustjax.runtime.stopping import stopping as stopping
