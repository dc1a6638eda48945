"""The command line's parser: wrong input gives one line that names the nearest right one.

jsonargparse answers with tens of lines of usage and offers no nearest name; argparse also takes
abbreviations in silence, so `--trainer.max_step 4` would pass for `max_steps`. This module reads
jsonargparse's messages, which its tests hold as a table: a version of it that says something else fails
there, and until then its message is shown as it is, on one line.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from itertools import zip_longest
from pathlib import Path
from typing import Any, NoReturn, get_args, get_type_hints

import docstring_parser
from jsonargparse import ArgumentParser

from rankbound.errors import nearest

_TOO_MANY = re.compile(r"unrecognized arguments: (?P<words>[^-].*)", re.S)
_KEY = re.compile(r'Parser key "(?P<key>[\w.]+)"')
_UNKNOWN = (
    re.compile(r"unrecognized arguments: --(?P<name>[\w.]+)"),
    re.compile(r"does not accept option '(?P<name>[\w.]+)'"),
)
_UNKNOWN_OF_CLASS = re.compile(
    r"Option '(?P<name>[\w.]+)' is not accepted.*class_path='(?P<path>[\w.]+)'", re.S
)
_NO_CLASS = re.compile(r"Expected a dot import path string: (?P<name>[\w.]+)")
_NO_MODULE = re.compile(r"(?P<why>No module named '[\w.]+').*Got value: (?P<name>\S+)", re.S)
_WRONG_VALUE = re.compile(
    r"Expected a (?P<type>typing\.Literal\[.*?\]|<class '\w+'>)\. Got value: "
    r"(?P<value>.*?)(?:\. Got value.*)?$",
    re.S,
)
_WRONG_UNION = re.compile(r"Given value: (?P<value>\S+)$")


class Parser(ArgumentParser):
    """`jsonargparse.ArgumentParser` without abbreviations and with short errors."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:  # asked while a type is tried: leaving here would lose the outer key
            super().error(message, ex)
        print(f"rankbound: error: {explain(message, self)}", file=sys.stderr)
        sys.exit(2)


def explain(message: str, parser: ArgumentParser) -> str:
    """One line for one of jsonargparse's messages."""
    found = _KEY.search(message)
    key = found["key"] if found else ""
    for pattern in _UNKNOWN:
        if unknown := pattern.search(message):
            names = (action.dest for action in _actions(parser))
            return f"there is no setting {unknown['name']}{nearest(unknown['name'], names)}"
    if too_many := _TOO_MANY.search(message):
        return f"{too_many['words']!r} is one too many: settings go by name, and --help lists them"
    if unknown := _UNKNOWN_OF_CLASS.search(message):
        known = list(inspect.signature(_imported(unknown["path"])).parameters)
        return (
            f"{key}: {unknown['path'].rpartition('.')[2]} has no setting {unknown['name']}"
            f"{nearest(unknown['name'], known)}"
        )
    if unknown := _NO_CLASS.search(message):
        classes = sorted(_classes(key, parser))
        return (
            f"{key}: there is no {unknown['name']}{nearest(unknown['name'], classes) or '.'} "
            f"Known are {', '.join(classes)}, and any importable class by its path"
        )
    if missing := _NO_MODULE.search(message):
        return f"{key}: {missing['name']} cannot be imported: {missing['why']}"
    if wrong := _WRONG_VALUE.search(message):
        inner = [k["key"] for k in _KEY.finditer(message)]
        return f"{'.'.join(inner)} must be {_kind(wrong['type'])}, not {wrong['value']!r}"
    literals = re.findall(r"Literal\[(.*?)\]", message)
    if literals and (wrong := _WRONG_UNION.search(message)):
        return f"{key} must be one of {_listed(', '.join(literals))}, not {wrong['value']!r}"
    return re.sub(r"\s+", " ", message)


def _kind(type_: str) -> str:
    if type_.startswith("typing.Literal"):
        return f"one of {_listed(type_[len('typing.Literal[') : -1])}"
    name = type_.removeprefix("<class '").removesuffix("'>")
    return {"int": "a whole number", "float": "a number", "bool": "true or false"}.get(name, f"a {name}")


def _listed(literals: str) -> str:
    return ", ".join(part.strip("' ") for part in literals.split(","))


def _actions(parser: Any) -> Iterator[Any]:
    """Every action of a parser and of its subcommands' parsers."""
    for action in parser._actions:
        yield action
        if isinstance(action.choices, dict):
            for inner in action.choices.values():
                yield from _actions(inner)


def _classes(key: str, parser: Any) -> set[str]:
    """Names of the classes that the setting `key` takes."""
    types = [getattr(a, "_typehint", None) for a in _actions(parser) if a.dest == key]
    return {name for type_ in types for base in _parts(type_) for name in _concrete(base)}


def _parts(type_: Any) -> Iterator[type]:
    """The classes that a type is made of, such as those of `list[A] | None`."""
    if inspect.isclass(type_) and not get_args(type_):
        yield type_
    for part in get_args(type_):
        yield from _parts(part)


def _concrete(base: type) -> Iterator[str]:
    public = not (inspect.isabstract(base) or base.__name__.startswith("_"))
    if public and base.__module__.partition(".")[0] == __name__.partition(".")[0]:
        yield base.__name__
    subclasses: list[type] = base.__subclasses__()
    for subclass in subclasses:
        yield from _concrete(subclass)


def _imported(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


def call(
    function: Callable[..., Any],
    prog: str,
    description: str | None,
    args: list[str],
    several: str | None = None,
    one: str | None = None,
) -> Any:
    """Call a function with its signature as a command's settings.

    `several` is the argument that takes all bare words, `one` that which takes the only one.
    """
    parser = Parser(prog=prog, description=description)
    parser.add_function_arguments(function, skip={word for word in (several, one) if word})
    if several:
        parser.add_argument(several, nargs="+", type=Path, help="One or more.")
    if one:
        parser.add_argument(one, type=get_type_hints(function)[one], help=_described(function, one))
    settings = parser.instantiate(parser.parse_args([*_spelled_out(function, args)]))
    return function(**settings.as_dict())


def _spelled_out(function: Callable[..., Any], args: list[str]) -> Iterator[str]:
    """A switch that stands alone, such as `--greedy`, as `--greedy=true`."""
    switches = {f"--{name}" for name, type_ in get_type_hints(function).items() if type_ is bool}
    for arg, following in zip_longest(args, args[1:], fillvalue=""):
        alone = arg in switches and following.lower() not in ("true", "false")
        yield f"{arg}=true" if alone else arg


def _described(function: Callable[..., Any], name: str) -> str:
    """What a function's docstring says of an argument."""
    documented = docstring_parser.parse(function.__doc__ or "").params
    return next((part.description or "" for part in documented if part.arg_name == name), "")
