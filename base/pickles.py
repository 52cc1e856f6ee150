"""Read a pickle as data: nothing that it names is imported, and nothing is called.

A checkpoint is a pickle whose tensors are beside it. Training scripts leave other objects in it:
arguments, numpy's numbers, whole modules. Here each of those becomes an `Inert`, unless the caller
makes something else of it. The instructions are those of the standard library's pickletools, which
documents them.
"""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# What a pickle holds has any type; it is checked.

import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple

MAX_PICKLE_BYTES = 32 << 20  # the list of a checkpoint's tensors takes some 250 bytes a tensor
MAX_INSTRUCTIONS = 2_000_000  # some 40 make a tensor; each may make an object

CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
UNSUPPORTED = {"INST", "PERSID", "EXT1", "EXT2", "EXT4"}  # instructions that make other objects
TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
# Python objects have other keys too, which take time without end to hash where tuples are nested.
KEYS = (str, int, float, bool, bytes, type(None))


class Name(NamedTuple):
    """A class or function that a pickle names."""

    module: str
    name: str


@dataclass(eq=False)
class Inert:
    """Replaces an object of a pickle: its type, what it was made of, and what it held."""

    name: Name
    args: tuple[Any, ...] = ()
    state: Any = None


Rebuild = Callable[[Name, tuple[Any, ...]], Any]


def nothing_stored(identifier: Any) -> Any:
    """Refuse the persistent ids of a pickle that has nothing beside it."""
    raise ValueError("a pickle that refers to objects outside it")


def read_pickle(content: bytes | BinaryIO, stored: Callable[[Any], Any], rebuild: Rebuild) -> Any:
    """Return the value of a pickle, or of the next one in an open file.

    `stored` returns what a persistent id stands for, and `rebuild` what a name makes of arguments:
    both get plain values, `Name` and `Inert`. Raises ValueError for anything that is not a pickle,
    and for instructions that neither torch nor numpy writes.
    """
    reader = _Reader(stored, rebuild)
    try:
        for count, (instruction, argument, _) in enumerate(pickletools.genops(content)):
            if count == MAX_INSTRUCTIONS:
                raise ValueError(f"a pickle of more than {MAX_INSTRUCTIONS:,} instructions")
            reader.run(instruction.name, argument)
        (value,) = reader.stack
    # RuntimeError is torch's, for a shape that no memory could have.
    except (IndexError, KeyError, TypeError, OverflowError, RuntimeError) as error:
        raise ValueError(f"not a whole pickle ({type(error).__name__})") from None
    return value


class _Reader:
    """The stack and the memory of a pickle that is being read."""

    def __init__(self, stored: Callable[[Any], Any], rebuild: Rebuild) -> None:
        self.stack: list[Any] = []
        self._memory: dict[int, Any] = {}
        self._marks: list[int] = []  # where the items of lists, tuples and dicts begin
        self._stored, self._rebuild = stored, rebuild

    def run(self, instruction: str, argument: Any) -> None:
        """Follow one instruction."""
        stack = self.stack
        if instruction in ("PROTO", "FRAME", "STOP"):
            return
        if instruction in ("PUT", "BINPUT", "LONG_BINPUT"):
            self._memory[argument] = stack[-1]
        elif instruction == "MEMOIZE":
            self._memory[len(self._memory)] = stack[-1]
        elif instruction in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self._memory[argument])
        elif instruction == "GLOBAL":
            stack.append(Name(*argument.split(" ", 1)))
        elif instruction == "STACK_GLOBAL":
            name, module = stack.pop(), stack.pop()
            # To print another object may take time without end: a list of itself, twice, twice ...
            if not (isinstance(module, str) and isinstance(name, str)):
                raise TypeError
            stack.append(Name(module, name))
        elif instruction in CONSTANTS:
            stack.append(CONSTANTS[instruction])
        elif instruction == "MARK":
            self._marks.append(len(stack))
        elif instruction in TUPLES:
            length = TUPLES[instruction]
            stack[len(stack) - length :] = [tuple(stack[len(stack) - length :])]
        elif instruction == "TUPLE":
            stack.append(tuple(self._marked()))
        elif instruction in ("EMPTY_LIST", "EMPTY_SET"):
            stack.append([])
        elif instruction in ("LIST", "FROZENSET"):
            stack.append(self._marked())
        elif instruction == "EMPTY_DICT":
            stack.append({})
        elif instruction == "DICT":
            items = self._marked()
            stack.append({})
            self._set(items)
        elif instruction == "SETITEM":
            value, key = stack.pop(), stack.pop()
            self._set([key, value])
        elif instruction == "SETITEMS":
            self._set(self._marked())
        elif instruction == "APPEND":
            self._extend([stack.pop()])
        elif instruction in ("APPENDS", "ADDITEMS"):
            self._extend(self._marked())
        elif instruction in ("REDUCE", "NEWOBJ"):
            args, name = stack.pop(), stack.pop()
            stack.append(self._object(name, args))
        elif instruction == "NEWOBJ_EX":
            _, args, name = stack.pop(), stack.pop(), stack.pop()
            stack.append(self._object(name, args))
        elif instruction == "BUILD":
            state = stack.pop()
            if isinstance(stack[-1], Inert):
                stack[-1].state = state
        elif instruction == "BINPERSID":
            stack.append(self._stored(stack.pop()))
        elif instruction == "POP":
            stack.pop()
        elif instruction == "POP_MARK":
            self._marked()
        elif instruction == "DUP":
            stack.append(stack[-1])
        elif argument is not None and instruction not in UNSUPPORTED:  # a number or a text
            stack.append(argument)
        else:
            raise ValueError(f"the instruction {instruction}, which neither torch nor numpy writes")

    def _object(self, name: Any, args: Any) -> Any:
        if not isinstance(args, tuple):
            raise TypeError
        return self._rebuild(name, args) if isinstance(name, Name) else Inert(Name("", ""), args)

    def _marked(self) -> list[Any]:
        """Take what lies above the last mark from the stack."""
        start = self._marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def _set(self, items: list[Any]) -> None:
        if isinstance(target := self.stack[-1], dict):
            for key, value in zip(items[::2], items[1::2], strict=True):
                if isinstance(key, KEYS):
                    target[key] = value

    def _extend(self, items: list[Any]) -> None:
        if isinstance(target := self.stack[-1], list):
            target.extend(items)
