"""Check that every extra and every documented install resolves against the lock, on every supported Python.

    make extras

It needs uv and a package index, and installs nothing. For each extra of pyproject.toml and each `pip install` of the
Markdown files and the Makefile, on each Python: there are versions that agree with .requirements.lock, and the lock
pins all of them, but for the packages that it leaves free.
"""

import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tomllib

ROOT = pathlib.Path(__file__).parent.parent
LOCK = ROOT / ".requirements.lock"
PYTHONS = ("3.11", "3.12")
PLATFORM = "x86_64-manylinux_2_31"  # the oldest that libtpu has wheels for
# torchattacks asks for one old version of requests, which would be everybody's if the lock named it.
FREE = frozenset({"requests", "charset-normalizer", "chardet", "idna", "urllib3"})


def extras(pyproject: str) -> dict[str, list[str]]:
    """List the extras of a pyproject.toml as what one would install."""
    names = tomllib.loads(pyproject)["project"].get("optional-dependencies", {})
    return {f"[{name}]": [f".[{name}]"] for name in names} | {"without extras": ["."]}


def documented(text: str) -> dict[str, list[str]]:
    """Find every `pip install` in a text and what it installs; requirements of other projects stay as they are."""
    found = {}
    for command in re.findall(r"pip install ((?:'[^'\n]*'|[^\s`&|;#'\"]+|[ \t])+)", text):
        words = [w for w in shlex.split(command) if not w.startswith("-") and not w.endswith(".lock")]
        if words:
            found[f"pip install {command.strip()}"] = words
    return found


def requirement(word: str) -> str:
    """Name this project by its folder; any other requirement is its own name."""
    local = re.fullmatch(r"(?:\.|robustjax)(\[[^]]*\])?", word)
    return f"robustjax{local.group(1) or ''} @ {ROOT.as_uri()}" if local else word


def resolve(words: list[str], python: str) -> tuple[list[str], str]:
    """Resolve requirements against the lock: the versions, or why there are none."""
    uv = shutil.which("uv", path=str(pathlib.Path(sys.executable).parent)) or shutil.which("uv") or "uv"
    done = subprocess.run(
        [uv, "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--python-platform", PLATFORM,
         "--python-version", python, "--constraint", str(LOCK), "-"],
        input="\n".join(map(requirement, words)), capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    return done.stdout.split("\n"), " ".join(done.stderr.split())[-400:] if done.returncode else ""


def unpinned(versions: list[str], lock: str) -> list[str]:
    """List what was resolved and the lock does not pin."""
    pinned = {line.split(" ")[0] for line in lock.splitlines()}
    named = (line.split(" ")[0] for line in versions if "==" in line)
    return [one for one in named if one not in pinned and one.split("==")[0] not in FREE]


def main() -> int:
    """Resolve everything; the number of failures."""
    pages = [ROOT / "README.md", ROOT / "Makefile", *sorted((ROOT / "experiments").rglob("*.md"))]
    wanted = extras((ROOT / "pyproject.toml").read_text())
    for page in pages:
        wanted |= documented(page.read_text())
    failures, lock = 0, LOCK.read_text()
    for name, words in wanted.items():
        for python in PYTHONS:
            versions, error = resolve(words, python)
            loose = unpinned(versions, lock)
            said = error or (f"not in the lock: {', '.join(loose)}" if loose else "resolves")
            print(f"Python {python}  {name}: {said}", flush=True)
            failures += said != "resolves"
    return min(failures, 1)


if __name__ == "__main__":
    sys.exit(main())
