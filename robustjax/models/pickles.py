"""Pickles, read without running them: what a file says is recorded, and nothing that it names is ever called.

Unpickling runs code: a pickle is a program for a small stack machine, and two of its instructions import and
call whatever the file names. Here the machine has no such instructions. A name stays a name, an instance
becomes a `StandIn`, and so does the result of a call; those that make tensors and plain containers are understood.
"""

import dataclasses
import io
import pickletools
from typing import Any, BinaryIO, NamedTuple


class Named(NamedTuple):
    """A function or class that the file names; never imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclasses.dataclass(eq=False)
class StandIn:
    """What a file says about an object of some class; nothing is built."""

    kind: Named
    arguments: Any = ()
    state: Any = None
    parts: list[Any] = dataclasses.field(default_factory=list)


class Storage(NamedTuple):
    """A run of numbers that the file keeps outside the pickle."""

    kind: str  # such as FloatStorage
    key: str


class Tensor(NamedTuple):
    """A tensor as offset, sizes and strides, in elements, into a storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


VALUES = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES",
    "BINBYTES8", "BYTEARRAY8",
}  # fmt: skip
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
FRESH = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
# Every other call is recorded as a stand-in, like an instance: that is how pickles write down settings, enumerations,
# dates, slices and partial functions. These are no values of any kind, and a file that calls them is not what it seems.
NO_VALUES = {
    *(
        "os",
        "posix",
        "nt",
        "sys",
        "subprocess",
        "importlib",
        "runpy",
        "shutil",
        "socket",
        "pty",
        "ctypes",
        "code",
    ),
    *(
        "io",
        "_io",
        "pickle",
        "_pickle",
        "webbrowser",
        "multiprocessing",
        "signal",
        "tempfile",
        "urllib",
        "http",
    ),
}
BUILTINS = {
    *(
        "bool",
        "bytearray",
        "bytes",
        "complex",
        "dict",
        "enumerate",
        "filter",
        "float",
        "getattr",
        "int",
        "iter",
        "list",
    ),
    *(
        "list",
        "map",
        "memoryview",
        "object",
        "range",
        "reversed",
        "slice",
        "str",
        "type",
        "unicode",
        "xrange",
        "zip",
    ),
}


def read(stream: BinaryIO | io.BytesIO, storages: dict[str, Storage] | None = None) -> Any:
    """Read one pickle, leaving the stream behind its end.

    Args:
      stream: open at the pickle.
      storages: takes up the storages that the pickle refers to, by key.
    Returns:
      Plain containers and values as they are; ordered and default dictionaries as dict; tensors of PyTorch as
      `Tensor`; instances of any other class as `StandIn`.
    Raises:
      ValueError: if the pickle calls what makes no value, such as `os.system`, in which case the message names it,
        or is damaged. Nothing is called in any case.
    """
    try:
        return _read(stream, {} if storages is None else storages)
    except (IndexError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"the pickle is damaged ({type(error).__name__}: {error})") from None


def _read(stream: BinaryIO | io.BytesIO, storages: dict[str, Storage]) -> Any:
    stack: list[Any] = []
    below: list[list[Any]] = []  # the stacks under each mark
    memo: dict[int, Any] = {}

    for opcode, argument, _ in pickletools.genops(stream):
        code: str = opcode.name
        value: Any = argument
        if code in VALUES:
            stack.append(value)
        elif code in CONSTANTS:
            stack.append(CONSTANTS[code])
        elif code in FRESH:
            stack.append(FRESH[code]())
        elif code in TUPLES:
            stack[-TUPLES[code] :] = [tuple(stack[-TUPLES[code] :])]
        elif code == "MARK":
            below.append(stack)
            stack = []
        elif code in (
            "TUPLE",
            "LIST",
            "DICT",
            "FROZENSET",
            "APPENDS",
            "SETITEMS",
            "ADDITEMS",
            "POP_MARK",
            "OBJ",
            "INST",
        ):
            marked, stack = stack, below.pop()
            if code in ("APPENDS", "SETITEMS", "ADDITEMS"):
                _fill(stack[-1], code, marked)
            elif code != "POP_MARK":
                stack.append(_build(code, marked, value))
        elif code in ("APPEND", "SETITEM"):
            count = 1 if code == "APPEND" else 2
            marked = stack[-count:]
            del stack[-count:]
            _fill(stack[-1], code + "S", marked)
        elif code in ("PUT", "BINPUT", "LONG_BINPUT"):
            memo[value] = stack[-1]
        elif code == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif code in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[value])
        elif code == "GLOBAL":
            stack.append(Named(*value.split(" ", 1)))
        elif code == "STACK_GLOBAL":
            stack[-2:] = [Named(*stack[-2:])]
        elif code == "REDUCE":
            stack[-2:] = [_called(*stack[-2:])]
        elif code == "NEWOBJ":
            stack[-2:] = [StandIn(*stack[-2:])]
        elif code == "NEWOBJ_EX":
            stack[-3:] = [StandIn(stack[-3], tuple(stack[-2:]))]
        elif code == "BUILD":
            state = stack.pop()
            if isinstance(stack[-1], StandIn):
                stack[-1].state = state  # of a dictionary it is torch's version numbers
        elif code == "BINPERSID":
            stack[-1] = _outside(stack[-1])
            if isinstance(stack[-1], Storage):
                storages[stack[-1].key] = stack[-1]
        elif code == "DUP":
            stack.append(stack[-1])
        elif code == "POP":
            stack.pop()
        elif code == "STOP":
            return stack.pop()
        elif code not in ("PROTO", "FRAME"):
            raise ValueError(f"the pickle has the instruction {code}, which no checkpoint needs")
    raise ValueError("the pickle has no end")


def _build(code: str, marked: list[Any], name: Any) -> Any:
    if code == "DICT":
        return dict(zip(marked[::2], marked[1::2], strict=True))
    if code in ("INST", "OBJ"):
        kind, *arguments = [Named(*name.split(" ", 1)), *marked] if code == "INST" else marked
        return _called(kind, tuple(arguments)) if arguments else StandIn(kind)
    return {"TUPLE": tuple, "LIST": list, "FROZENSET": frozenset}[code](marked)


def _fill(target: Any, code: str, marked: list[Any]) -> None:
    if isinstance(target, StandIn):
        target.parts.extend(marked)
    elif code == "SETITEMS":
        target.update(zip(marked[::2], marked[1::2], strict=True))
    elif code == "APPENDS":
        target.extend(marked)
    else:
        target.update(marked)


def _called(function: Any, arguments: Any) -> Any:
    """Describe the result of a call, or refuse it."""
    name = str(function)
    if name in ("collections.OrderedDict", "collections.defaultdict"):
        return dict(arguments[0]) if arguments and isinstance(arguments[0], list) else {}
    if name in ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2"):
        storage, offset, shape, strides = arguments[:4]
        if not isinstance(storage, Storage):
            raise ValueError("the pickle is damaged (a tensor without a storage)")
        return Tensor(storage, offset, tuple(shape), tuple(strides))
    if name in ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"):
        return arguments[0]
    if name in ("torch.Size", "builtins.tuple", "__builtin__.tuple"):
        return tuple(*arguments)
    if name in ("builtins.set", "__builtin__.set", "builtins.frozenset", "__builtin__.frozenset"):
        return frozenset(*arguments)
    if name == "torch._tensor._rebuild_from_type_v2":
        return _called(arguments[0], arguments[2])  # a tensor of a subclass, and what else it held
    if not isinstance(function, Named):
        raise ValueError("the pickle calls what another call gave, which is refused: no value is written so")
    module = function.module.partition(".")[0]
    builtin = module in ("builtins", "__builtin__")
    if module in NO_VALUES or (builtin and function.name not in BUILTINS):
        raise ValueError(f"the pickle calls {name}, which is refused: only tensors and plain values are read")
    return StandIn(function, arguments)


def _outside(identity: Any) -> Storage | Named:
    """Say what a reference to something outside the pickle is of: a storage, or the source code of a class."""
    word, kind, *rest = identity
    if word == "module" and isinstance(kind, Named):
        return kind
    if word != "storage" or not isinstance(kind, Named) or any(view is not None for view in rest[3:]):
        raise ValueError(f"the pickle refers to {identity!r}, which is no storage of PyTorch")
    return Storage(kind.name, str(rest[0]))
