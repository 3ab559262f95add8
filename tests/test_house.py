"""The house rules that can be read off the syntax tree: imports go down, each library lives on its floor."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parent.parent
FLOORS = {
    "types": 0, "numerics": 0, "logit": 0, "logistic_regression": 0, "checks": 0,
    "binomial": 0, "traced": 0, "l0": 0,
    "threats": 1, "models": 1, "data": 1,
    "attacks": 2,
    "losses": 3, "smoothing": 3, "bounds": 3, "ood": 3, "perturbations": 3,
    "training": 4, "staged_training": 4, "optimizers": 4, "evaluation": 4, "analysis": 4,
    "runtime": 5,
    "catalog": 6, "api": 6, "api_ood": 6, "api_certify": 6,
}  # fmt: skip
TOWERS = {"threats", "models", "data"}  # do not see each other
HOMES = {
    "flax": {"models"},
    "tensorflow_datasets": {"data"},
    "array_record": {"data"},
    "grain": set(),  # imported by name where workers are asked for
    "sklearn": {"data"},
    "PIL": {"data"},
    "matplotlib": {"data", "runtime"},  # data renders letters from its fonts
    # Of losses and bounds, the optimiser that is part of a method.
    "optax": {"training", "optimizers", "losses", "bounds"},
    "scipy": {"binomial", "analysis", "data", "bounds"},
    "orbax": {"runtime"},
    "tqdm": {"runtime"},
    "tensorboardX": {"runtime"},
    "tyro": set(),
    "torch": set(),
    "equinox": set(),  # imported by name where they are asked for
    "haiku": set(),
}
FILES = sorted((ROOT / "robustjax").rglob("*.py"))


def room(path):
    inside = path.relative_to(ROOT / "robustjax")
    return inside.parts[0].removesuffix(".py")


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize(
    "path", [f for f in FILES if f.name != "__init__.py" or room(f) != "__init__"], ids=str
)
def test_imports_go_down_and_libraries_stay_home(path):
    here = room(path)
    for name in imports(path):
        first, *rest = name.split(".")
        if first == "robustjax" and rest:
            there = rest[0]
            assert FLOORS[there] <= FLOORS[here], (
                f"{here} (floor {FLOORS[here]}) imports {there} (floor {FLOORS[there]})"
            )
            assert not ({here, there} <= TOWERS and here != there), f"{here} imports {there}, another tower"
        elif first in HOMES:
            assert here in HOMES[first], (
                f"{here} imports {first}, whose home is {HOMES[first] or 'elsewhere'}"
            )
        assert first != "tensorflow", "TensorFlow is not a dependency"


# What writes no file of JSON, or only texts: hashes, comparisons, a page for readers, a stored digest.
NOT_FILES = {
    "runtime/strict_json.py", "runtime/provenance.py", "runtime/report.py", "runtime/pytree_files.py",
    "data/decode.py",
}  # fmt: skip


def test_json_is_written_in_one_place():
    """json.dumps writes NaN and Infinity bare, which no other reader takes."""
    for path in [*FILES, *sorted((ROOT / "experiments").rglob("*.py"))]:
        if str(path.relative_to(ROOT)).removeprefix("robustjax/") in NOT_FILES:
            continue
        lines = [line for line in path.read_text().splitlines() if "json.dump" in line]
        assert not [line for line in lines if "attacked=" not in line], (
            f"{path}: write with runtime.strict_json"
        )


def test_every_module_and_public_name_has_a_docstring():
    missing = []
    for path in [*FILES, *sorted((ROOT / "experiments").rglob("*.py"))]:
        tree = ast.parse(path.read_text())
        if not ast.get_docstring(tree):
            missing.append(str(path))
        for node in tree.body:
            public = isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
            if public and not ast.get_docstring(node):
                missing.append(f"{path}:{node.name}")
    assert not missing


def test_the_map_of_the_house_names_every_room():
    text = ast.get_docstring(ast.parse((ROOT / "robustjax" / "__init__.py").read_text()))
    assert text is not None
    assert not [name for name in {room(f) for f in FILES} - {"__init__"} if name not in text]


@pytest.mark.parametrize(
    "folder", sorted({f.parent for f in FILES} - {ROOT / "robustjax"}), ids=lambda p: p.name
)
def test_each_room_lists_its_files(folder):
    text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text())) or ""
    assert not [f.stem for f in folder.glob("*.py") if f.stem != "__init__" and f.stem not in text]


def topic(path):
    return path.relative_to(ROOT / "experiments").parts[0]


SCRIPTS = {p for p in (ROOT / "experiments").rglob("*.py") if 'if __name__ == "__main__"' in p.read_text()}


@pytest.mark.parametrize("path", sorted((ROOT / "experiments").glob("*/*.py")), ids=str)
def test_no_topic_imports_another(path):
    for name in imports(path):
        first, *rest = name.split(".")
        if first == "experiments" and rest:
            assert rest[0] in (topic(path), "shared"), f"{path} imports {name}"


def test_no_two_test_files_share_a_name():
    """They are imported by name alone."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))
