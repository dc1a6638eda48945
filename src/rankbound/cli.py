"""The command line: `rankbound COMMAND`. A wrong input ends in one line and exit status 2."""

from __future__ import annotations

import errno
import os
import sys

import rankbound
from rankbound.commands import COMMANDS
from rankbound.errors import InputError, nearest

#: The system's words for a full disk.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def main(argv: list[str] | None = None) -> None:
    """Run one command; the entry point of the package."""
    args = [_underscored(arg) for arg in (sys.argv[1:] if argv is None else argv)]
    try:
        _dispatch(args)
    except ValueError as wrong:
        _fail(str(_input_error(wrong)))
    except KeyboardInterrupt:
        print("\nrankbound: stopped; the same command goes on where it can", file=sys.stderr)
        raise SystemExit(130) from None
    except OSError as failure:
        if failure.filename is None and failure.errno not in FULL:
            raise
        mend = "; free some space and go on (a run: resume it)" if failure.errno in FULL else ""
        _fail(f"{failure.strerror}: {failure.filename}{mend}")


def _input_error(wrong: ValueError) -> InputError:
    """The `InputError` behind an exception (a parser wraps those of nested settings), or that one again."""
    found: BaseException | None = wrong
    while found is not None and not isinstance(found, InputError):
        found = found.__cause__ or found.__context__
    if found is None:
        raise wrong
    return found


def _dispatch(args: list[str]) -> None:
    if not args or args[0] in ("-h", "--help"):
        print(_overview())
    elif args[0] == "--version":
        print(rankbound.__version__)
    elif args[0] in COMMANDS:
        COMMANDS[args[0]](args[1:])
    else:
        raise InputError(f"there is no command {args[0]!r}{nearest(args[0], COMMANDS)}")


def _overview() -> str:
    lines = (f"  {name:<12} {command.__doc__}" for name, command in COMMANDS.items())
    return "\n".join(
        (
            "usage: rankbound COMMAND [--help] [...]",
            "",
            "Is a small language model limited by the rank of its head?",
            "",
            *lines,
        )
    )


def _underscored(arg: str) -> str:
    """`--vocab-size=9` as `--vocab_size=9`: both spellings name a setting."""
    name, equals, value = arg.partition("=")
    return name.replace("-", "_").replace("__", "--", 1) + equals + value if arg.startswith("--") else arg


def _fail(line: str) -> None:
    if os.environ.get("LOCAL_RANK", "0") == "0":  # one line, not one a process
        print(f"rankbound: error: {line}", file=sys.stderr)
    raise SystemExit(2)


if __name__ == "__main__":
    main()
