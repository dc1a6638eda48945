"""What settings of `fit` work out to, before anything is trained.

Design decisions:
- They are parsed by the parser of `fit` itself and completed as it does, so that what is wrong with a run
  of a study is said before the first one starts, in the words that the run would use.
- The model is built on PyTorch's meta device, from which parameters and operations are counted: a length
  in tokens a parameter becomes a number of steps before the run.
- Settings are told apart from defaults down to a class's arguments. What a later version adds with
  a default of its own changes nothing here, so the hash of a run's settings lasts.
"""

from __future__ import annotations

import inspect
import io
import math
from argparse import ArgumentError
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from functools import cache
from pydoc import locate
from typing import Any

import yaml

from rankbound.corpora.generated import open_corpus
from rankbound.errors import InputError
from rankbound.parser import explain
from rankbound.studies import Resolved
from rankbound.training.checks import check_trainer, complete
from rankbound.training.command import NOT_THE_RUN, TrainingCLI
from rankbound.training.match import build_on_meta, forward_flops
from rankbound.training.match_options import solve_match
from rankbound.training.same_run import MACHINE

#: Settings that are told apart between runs of a cell, so kept also where they are the default.
KEPT = ("seed_everything", "data.seed", "model.optimizer.learning_rate")


#: What `fit` is told, and a length that it does not know: {"tokens": n}, {"tokens_per_parameter": n} or {}.
Wanted = tuple[Sequence[str], Mapping[str, float]]


def resolve(wanted: Sequence[Wanted]) -> tuple[list[Resolved | str], dict[str, Any]]:
    """Each command line worked out, or the line that says why it cannot be; and the dotted defaults."""
    parser, defaults = _parser_and_defaults()
    return [_resolved(parser, defaults, *each) for each in wanted], defaults


@cache
def _parser_and_defaults() -> tuple[Any, dict[str, Any]]:
    parser = _Schema().parser_of_fit()
    return parser, dict(_leaves(_plain(parser, parser.parse_args([]))))


class _Schema(TrainingCLI):
    """The command line of `fit`, which parses and makes nothing."""

    def __init__(self) -> None:
        super().__init__(start_from=_nothing)

    def parser_of_fit(self) -> Any:
        parser = self._parser("fit")
        parser.exit_on_error = False
        return parser

    def parse_arguments(self, parser: Any, args: Any) -> None:
        self.config = parser.parse_args(["fit"])

    def _set_seed(self) -> None:
        pass

    def before_instantiate_classes(self) -> None:
        pass

    def instantiate_classes(self) -> None:
        pass

    def _run_subcommand(self, subcommand: str) -> None:
        pass


def _nothing(*_: object) -> None:
    """Weights of a model that is never trained."""


def _resolved(
    parser: Any, defaults: Mapping[str, Any], arguments: Sequence[str], length: Mapping[str, float]
) -> Resolved | str:
    try:
        settings = parser.parse_args(list(arguments))
        complete(settings, open_corpus(settings.data.corpus))
        check_trainer(settings)
        with redirect_stdout(io.StringIO()):  # each run says what it solved itself
            solve_match(settings)
        model = build_on_meta(settings.model, settings.model.head)
        parameters = model.parameter_counts()
        _set_length(settings, length, parameters["total"])
    except ArgumentError as wrong:
        return explain(str(wrong), parser)
    except ValueError as wrong:
        return " ".join(str(_innermost(wrong)).split())
    except OSError as failure:
        return f"{failure.strerror}: {failure.filename}"
    steps = int(settings.model.total_steps)
    return Resolved(
        settings=_different(_plain(parser, settings), defaults),
        head=model.head.label(),
        hidden_size=int(settings.model.hidden_size),
        vocab_size=int(settings.model.vocab_size),
        steps=steps,
        tokens=steps * settings.data.batch_size * settings.data.window,
        parameters=parameters,
        flops_per_token=forward_flops(model, settings.data.window),
        devices=_devices(settings.trainer.devices),
    )


def _innermost(wrong: BaseException) -> BaseException:
    """The `InputError` behind an exception (a parser wraps those of nested settings), or that one."""
    found: BaseException | None = wrong
    while found is not None and not isinstance(found, InputError):
        found = found.__cause__ or found.__context__
    return found or wrong


def _set_length(settings: Any, length: Mapping[str, float], parameters: int) -> None:
    for unit, amount in length.items():
        if not (isinstance(amount, (int, float)) and amount > 0):
            raise InputError(f"{unit} is {amount!r}; it must be a positive number")
        tokens = amount * parameters if unit == "tokens_per_parameter" else amount
        settings.model.total_steps = math.ceil(tokens / (settings.data.batch_size * settings.data.window))


def _devices(devices: Any) -> int:
    """How many the trainer is told to take; one where that is left to it."""
    if isinstance(devices, list):
        return len(devices)
    return max(1, int(devices)) if str(devices).lstrip("-").isdigit() else 1


def _plain(parser: Any, settings: Any) -> dict[str, Any]:
    dumped: dict[str, Any] = yaml.safe_load(parser.dump(settings, skip_none=False, skip_validation=True))
    return dumped


def _different(settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted settings that define the run and are not the default."""
    different = {
        name: value
        for name, value in _leaves(settings)
        if name in KEPT or name not in defaults or defaults[name] != value
    }
    return dict(sorted(different.items()))


def _leaves(settings: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        here = (*path, name)
        if here[0] in NOT_THE_RUN or here[:2] in MACHINE:
            continue
        if isinstance(value, Mapping) and "class_path" not in value:
            yield from _leaves(value, here)
        else:
            yield ".".join(here), _canonical(value)


def _canonical(value: Any) -> Any:
    """A class under its full name and without arguments that are its defaults; other values as they are."""
    if isinstance(value, list):
        return [_canonical(part) for part in value]
    if not (isinstance(value, Mapping) and "class_path" in value):
        return value
    found: Any = locate(value["class_path"])
    known = inspect.signature(found).parameters
    given = {name: _canonical(v) for name, v in (value.get("init_args") or {}).items()}
    chosen = {n: v for n, v in sorted(given.items()) if n not in known or known[n].default != v}
    return {"class_path": f"{found.__module__}.{found.__qualname__}", "init_args": chosen}
