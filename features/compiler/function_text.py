"""A Python function as text, by which a changed one is told from the same one."""

import ast
import hashlib
import inspect
import pickle
import sys
import textwrap
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any

__all__ = ["text_of"]


def text_of(function: Callable[..., Any]) -> str:
    """The source of a function, and twelve digits of it with all it refers to.

    Comments, docstrings and layout are left out. What is imported from elsewhere counts by its name; a function, a
    class or a value of the repo's own counts as what it is, however many modules away.
    """
    digest = hashlib.sha256()
    for each in _facts(function, set()):
        digest.update(each + b"\0")
    return f"{_source(function)}# with what it refers to: {digest.hexdigest()[:12]}"


def _source(function: Callable[..., Any]) -> str:
    """Empty where there is none, or it is part of a longer expression."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return ""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree) + "\n"


def _facts(value: Any, seen: set[int]) -> Iterator[bytes]:
    """What makes a value what it is."""
    if isinstance(value, str | bytes | int | float | bool | None):
        yield repr(value).encode()
        return
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, list | tuple):
        for each in value:
            yield from _facts(each, seen)
    elif isinstance(value, set | frozenset):
        for each in sorted(value, key=repr):
            yield from _facts(each, seen)
    elif isinstance(value, dict):
        for key, each in value.items():
            yield repr(key).encode()
            yield from _facts(each, seen)
    elif isinstance(value, CodeType):
        yield from _of_code(value, None, seen)
    elif _is_elsewhere(value):
        yield f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', value)}".encode()
    elif isinstance(value, FunctionType):
        yield from _of_function(value, seen)
    elif isinstance(value, type):
        yield from _facts([each for name, each in vars(value).items() if name not in _OF_CLASSES], seen)
    else:
        yield _pickled(value)


_OF_CLASSES = ("__dict__", "__weakref__", "__doc__", "__module__", "__firstlineno__")


def _of_function(function: FunctionType, seen: set[int]) -> Iterator[bytes]:
    code = function.__code__
    yield from _of_code(code, function.__doc__, seen)
    cells = [each.cell_contents for each in function.__closure__ or ()]
    yield from _facts([function.__defaults__, function.__kwdefaults__, cells], seen)
    names = sorted(_names(code))
    for name in names:
        value = function.__globals__.get(name)
        if isinstance(value, ModuleType) and not _is_elsewhere(value):
            # Of a module of the repo's own, what could be meant.
            yield from _facts([getattr(value, each) for each in names if hasattr(value, each)], seen)
        elif not isinstance(value, ModuleType):
            yield from _facts(value, seen)


def _of_code(code: CodeType, doc: str | None, seen: set[int]) -> Iterator[bytes]:
    yield code.co_code
    yield repr((code.co_names, code.co_varnames, code.co_freevars)).encode()
    for each in code.co_consts:
        if doc is None or each != doc:
            yield from _facts(each, seen)


def _names(code: CodeType) -> set[str]:
    inner = (each for each in code.co_consts if isinstance(each, CodeType))
    return set(code.co_names).union(*(_names(each) for each in inner))


def _is_elsewhere(value: Any) -> bool:
    """Whether a function, class or module is found by its name: it is installed and not of the repo."""
    if isinstance(value, ModuleType):
        return sys.modules.get(value.__name__) is value
    found: Any = sys.modules.get(getattr(value, "__module__", None) or "")
    for part in str(getattr(value, "__qualname__", "")).split("."):
        found = getattr(found, part, None)
    return found is value and found is not None


def _pickled(value: Any) -> bytes:
    try:
        return pickle.dumps(value, protocol=4)
    except Exception:  # of whatever it holds
        return type(value).__qualname__.encode()
