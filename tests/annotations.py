"""Check every annotation of the library while it is tested: shapes and dtypes by jaxtyping, all else by beartype.

An annotation is untrue where a function gives a result for what its annotations exclude, or a result that they
exclude. That is said when the outermost call to the library ends, and not if it raises: tests that give wrong input
on purpose must see the library's error, which often comes from deeper down than the first annotation.

jaxtyping's own import hook makes two checkers of each function where it is defined, and anew for those inside a
factory whenever that is called: 12 CPU seconds for importing the library alone. These are made at the first call,
one for each place in the source.
"""

import ast
import builtins
import functools
import importlib.machinery
import importlib.util
import inspect
import sys
import threading
import typing
from unittest import mock

from beartype import BeartypeConf
from beartype.door import is_bearable
from jaxtyping import jaxtyped

PACKAGES = ("robustjax",)
wanted = False  # tests/conftest.py says where
CONF = BeartypeConf(is_pep484_tower=True)  # a float may be an int, as type checkers have it


class Untrue(AssertionError):
    """An annotation excludes what happens."""


def report(untrue):
    """Say which annotations are untrue."""
    raise Untrue("\n".join(dict.fromkeys(untrue)))


def install():
    """Check what is imported from now on."""
    early = [name for name in sys.modules if name.split(".")[0] in PACKAGES]
    assert not early, f"imported before their annotations could be checked: {early}"
    vars(builtins)["__checked__"] = checked  # where modules find it without having it
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


def _annotated(given):
    every = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
    return any(one is not None and one.annotation for one in every)


class _Calls(threading.local):
    """How deep in calls to the library a thread is, and what was untrue since the outermost."""

    def __init__(self):
        self.depth, self.untrue = 0, []


READ, CALLS = {}, _Calls()


def _note(function, name, value, hint):
    CALLS.untrue.append(
        f"{function.__module__}.{function.__qualname__}: {name} is {_shown(value)}, annotated {hint}"
    )


def _read(function):
    """Read a function's parameters and annotations, once for all functions that one place in the source makes."""
    place = function.__code__.co_filename, function.__code__  # equal code in two files is equal
    if place not in READ:
        hints = typing.get_type_hints(function, include_extras=True)
        READ[place] = inspect.signature(function), hints, hints.pop("return", typing.Any)
    return READ[place]


def checked(function):
    """Check a function against its annotations whenever it is called."""

    @functools.wraps(function)
    def call(*args, **kwargs):
        __tracebackhide__ = True
        if not wanted:
            return function(*args, **kwargs)
        signature, hints, answer = _read(function)
        try:
            given = signature.bind(*args, **kwargs).arguments
        except TypeError:
            return function(*args, **kwargs)
        CALLS.depth += 1
        try:
            with jaxtyped("context"):
                for name, value in given.items():
                    if not fits(name, value, signature, hints):
                        _note(function, name, value, hints[name])
                found = function(*args, **kwargs)
                if not is_bearable(found, answer, conf=CONF):
                    _note(function, "return", found, answer)
        except BaseException:
            if CALLS.depth == 1:
                CALLS.untrue.clear()
            raise
        finally:
            CALLS.depth -= 1
        if CALLS.depth == 0 and CALLS.untrue:
            untrue = CALLS.untrue.copy()
            CALLS.untrue.clear()
            report(untrue)
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
