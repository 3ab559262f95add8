"""Check every annotation of the library while it is tested: shapes and dtypes by jaxtyping, all else by beartype.

An annotation is untrue where a function gives a result for what its annotations exclude, or a result that they
exclude. A function that raises is left alone: tests that give wrong input on purpose must see the library's error.

jaxtyping's own import hook makes two checkers of each function where it is defined, and anew for those inside a
factory whenever that is called: 12 CPU seconds for importing the library alone. These are made at the first call,
one for each place in the source.
"""

import ast
import functools
import importlib.machinery
import importlib.util
import inspect
import sys
import typing
from unittest import mock

from beartype import BeartypeConf
from beartype.door import is_bearable
from jaxtyping import jaxtyped

PACKAGES = ("robustjax", "experiments")
CONF = BeartypeConf(is_pep484_tower=True)  # a float may be an int, as type checkers have it


class Untrue(AssertionError):
    """An annotation excludes what happens."""


def report(untrue):
    """Say which annotation is untrue."""
    raise Untrue(untrue)


def install():
    """Check what is imported from now on."""
    early = [name for name in sys.modules if name.split(".")[0] in PACKAGES]
    assert not early, f"imported before their annotations could be checked: {early}"
    sys.meta_path.insert(0, _Finder())


class _Finder(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, fullname, path=None, target=None):
        if fullname.split(".")[0] not in PACKAGES:
            return None
        spec = super().find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


class _Loader(importlib.machinery.SourceFileLoader):
    def source_to_code(self, data, path, *, _optimize=-1):
        """Compile with a decorator below all others of each function."""
        tree = ast.parse(data, path)
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and (node.returns or _annotated(node.args)):
                node.decorator_list.append(ast.copy_location(ast.Name("__checked__", ast.Load()), node))
        return compile(tree, path, "exec", dont_inherit=True, optimize=_optimize)

    def get_code(self, fullname):
        """Keep compiled modules apart from those of users."""
        apart = functools.partial(importlib.util.cache_from_source, optimization="annotations1")
        with mock.patch("importlib._bootstrap_external.cache_from_source", lambda path, **_: apart(path)):
            return super().get_code(fullname)

    def exec_module(self, module):
        """Let the module know the decorator."""
        vars(module)["__checked__"] = checked
        super().exec_module(module)


def _annotated(given):
    every = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
    return any(one is not None and one.annotation for one in every)


READ = {}


def _read(function):
    """Read a function's parameters and annotations, once for all functions that one place in the source makes."""
    place = function.__code__.co_filename, function.__code__  # equal code in two files is equal
    if place not in READ:
        hints = typing.get_type_hints(function, include_extras=True)
        READ[place] = inspect.signature(function), hints, hints.pop("return", typing.Any)
    return READ[place]


def checked(function):
    """Check a function against its annotations whenever it gives a result."""

    @functools.wraps(function)
    def call(*args, **kwargs):
        __tracebackhide__ = True
        signature, hints, answer = _read(function)
        try:
            given = signature.bind(*args, **kwargs).arguments
        except TypeError:
            return function(*args, **kwargs)
        with jaxtyped("context"):
            wrong = [
                (name, value) for name, value in given.items() if not fits(name, value, signature, hints)
            ]
            found = function(*args, **kwargs)
            if not wrong and not is_bearable(found, answer, conf=CONF):
                wrong = [("return", found)]
        if wrong:
            name, value = wrong[0]
            report(
                f"{function.__module__}.{function.__qualname__}: {name} is {_shown(value)}, "
                f"annotated {hints.get(name, answer)}"
            )
        return found

    return call


def fits(name, value, signature, hints):
    """Say whether an argument is what its annotation says; of *args and **kwargs each."""
    if name not in hints:
        return True
    kind = signature.parameters[name].kind
    every = value if kind is kind.VAR_POSITIONAL else value.values() if kind is kind.VAR_KEYWORD else [value]
    return all(is_bearable(one, hints[name], conf=CONF) for one in every)


def _shown(value):
    shape = f" {value.dtype}{value.shape}" if hasattr(value, "shape") and hasattr(value, "dtype") else ""
    return f"{type(value).__name__}{shape or ' ' + repr(value)[:200]}"
