"""The one exception that speaks to the user.

Everything a user can get wrong (a path, a setting, a damaged file) raises `InputError` with one line:
what is wrong, where, and what to do. The command line prints that line and exits with status 2; every
other exception is a defect of ours and keeps its traceback. It derives from ValueError so that the
heads and metrics, used alone, raise what a Python programmer expects.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """A wrong input or setting; the message is one line that names it and the mend."""


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean X?` for the known name most like `name`; empty where none is like it."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""
