"""Compile a script's programs for chips that are not there, in processes of their own, since compilers may abort."""

import importlib
import os
import pickle
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from experiments.benchmarks import chips

WORK = "from experiments.benchmarks import compiling; compiling.work()"


class Job(NamedTuple):
    """What to compile.

    Attributes:
      script: such as classification.train, with a function `planned(config, mesh, *, shape, classes)`.
      config: of the script.
      topology: such as v5e:2x4.
      shape, classes: of the images.
      options: of the compiler.
    """

    script: str
    config: Any
    topology: str
    shape: tuple[int, ...]
    classes: int
    options: dict[str, str]


class Compiled(NamedTuple):
    """A compiled program.

    Attributes:
      name, images, calls: as `Planned` has them.
      text: of the program, operations in the order they run.
      asked: the text before the compiler changed anything, for all devices together.
      memory: bytes on one device: arguments, outputs, those that take an argument's place, temporaries and code.
      seconds: that compiling took.
    """

    name: str
    images: int
    calls: int
    text: str
    asked: str
    memory: dict[str, float]
    seconds: float

    @property
    def peak(self) -> float:
        """Add up the bytes that one device needs at most."""
        held = self.memory
        return held["arguments"] + held["outputs"] - held["aliased"] + held["temporaries"] + held["code"]


def compiled(job: Job) -> list[Compiled]:
    """Compile in a process of its own.

    Raises:
      ValueError: in one line, if the compiler fails or the process ends.
    """
    with tempfile.TemporaryDirectory() as folder:
        todo, done = Path(folder) / "job", Path(folder) / "done"
        todo.write_bytes(pickle.dumps(job))
        command = [sys.executable, "-c", WORK, str(todo), str(done)]
        # Flags of XLA are those of this host.
        kept = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
        found = subprocess.run(
            command, env=kept | chips.ENVIRONMENT, capture_output=True, text=True, check=False
        )
        if not done.exists():
            last = (found.stderr.strip().splitlines() or ["no message"])[-1]
            raise ValueError(
                f"compiling {job.script} for {job.topology} ended with exit code {found.returncode}: {last}"
            )
        result = pickle.loads(done.read_bytes())
    if isinstance(result, str):
        raise ValueError(result)
    return result


def work() -> None:
    """Do the job whose file is the first argument, and leave the result in the second."""
    job: Job = pickle.loads(Path(sys.argv[1]).read_bytes())
    try:
        result: Any = _results(job)
    except ValueError as error:
        result = str(error)
    Path(sys.argv[2]).write_bytes(pickle.dumps(result))


def _results(job: Job) -> list[Compiled]:
    from robustjax import runtime  # after the environment of the process is set

    mesh = runtime.data_mesh(chips.devices(chips.topology(job.topology)))
    script = importlib.import_module(f"experiments.{job.script}")
    results = []
    for one in script.planned(job.config, mesh, shape=job.shape, classes=job.classes):
        begin = time.perf_counter()
        lowered = one.trace().lower()
        program = lowered.compile(compiler_options=dict(job.options))
        known = program.memory_analysis()
        memory = {
            "arguments": known.argument_size_in_bytes,
            "outputs": known.output_size_in_bytes,
            "aliased": known.alias_size_in_bytes,
            "temporaries": known.temp_size_in_bytes,
            "code": known.generated_code_size_in_bytes,
        }
        seconds = time.perf_counter() - begin
        texts = program.as_text(), lowered.as_text(dialect="hlo")
        results.append(Compiled(one.name, one.images, one.calls, *texts, memory, seconds))
    return results
