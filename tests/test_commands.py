"""Every command of a README or of cifar10.mk is one that runs: its script exists, preset and flags parse and validate.

(What the scripts then do is tested by their smoke presets.)
"""

import importlib
import os
import pathlib
import re
import shlex
import subprocess
import typing

import pytest
import tyro

from experiments.shared import command_line

ROOT = pathlib.Path(__file__).parent.parent
READMES = sorted([ROOT / "README.md", *(ROOT / "experiments").rglob("*.md")])


def commands(text):
    """List the command lines of the experiments in the fenced blocks of a page, loops unrolled to their first value."""
    for block in re.findall(r"^```(?:\w*)\n(.*?)^```", text, re.M | re.S):
        block = re.sub(r"\\\n\s*", " ", block)
        values = {
            name: words.split()[0] for name, words in re.findall(r"for (\w+) in ([^;\n]+);? *(?:do)?", block)
        }
        for line in block.splitlines():
            for found in re.findall(r"python -m (experiments\.[^;#`\"]*)", line):
                words = re.sub(r"<[^>]*>", "PLACE", found)
                words = re.sub(r"\$\{?(\w+)\}?", lambda m: values.get(m.group(1), m.group(0)), words)
                yield words.strip()
    for words in re.findall(r"^\| *`(?:python -m )?(experiments\.[\w.]+ [^`]*)` *\|", text, re.M):
        yield words.strip()


def made():
    """List the commands that cifar10.mk would run for one seed, in order."""
    alone = {
        name: value for name, value in os.environ.items() if not name.startswith("MAKE")
    }  # of `make test`
    done = subprocess.run(
        ["make", "--dry-run", "--no-print-directory", "--file", "experiments/cifar10.mk", "SEEDS=0"],
        cwd=ROOT,
        env=alone,
        capture_output=True,
        text=True,
        check=True,
    )
    lines = re.sub(r"\\\n\s*", " ", done.stdout).splitlines()
    return [line.partition(" -m ")[2].strip(" ;") for line in lines]


COMMANDS = {
    f"{path.relative_to(ROOT)}: {words}": words
    for path in READMES
    for words in commands(path.read_text())
    if "experiments.<topic>" not in words and "PLACE.PLACE" not in words
} | {f"experiments/cifar10.mk: {words}": words for words in made()}


# A type that tyro does not understand prints a warning above the output of every command.
@pytest.mark.filterwarnings("error:.*does not match any type in Union")
@pytest.mark.parametrize("name", COMMANDS)
def test_printed_commands_parse(name):
    module, *words = shlex.split(COMMANDS[name].replace("[preset]", "").replace("[--flag value]", ""))
    script = importlib.import_module(module)
    if not hasattr(script, "PRESETS"):
        tyro.cli(typing.get_type_hints(script.main)["cfg"], args=words, console_outputs=False)
        return
    presets = script.PRESETS
    chosen = (
        words.pop(0)
        if words and not words[0].startswith("-") and words[0] in presets
        else next(iter(presets))
    )
    preset = presets[chosen]
    try:
        config = tyro.cli(type(preset), default=preset, args=words, console_outputs=False)
    except SystemExit:
        raise AssertionError(f"{name} does not parse") from None
    if "mypackage" not in COMMANDS[name]:  # which stands for the reader's own, and cannot be imported
        command_line.validate(config)


def test_every_table_and_figure_of_a_paper_has_a_command():
    text = (ROOT / "experiments" / "PAPERS.md").read_text()
    rows = [
        line
        for line in text.splitlines()
        if line.startswith("|") and not re.match(r"\|(---| command )", line)
    ]
    given = list(commands(text))
    assert len(rows) == len(given) > 50 and len(set(given)) == len(given)
    for row in rows:
        assert len(row.split(" | ")) == 4 and all(cell.strip(" |") for cell in row.split(" | ")), row


def test_there_are_commands():
    assert len(COMMANDS) > 40
    assert all(words.startswith("experiments.") for words in made()) and len(made()) > 30
