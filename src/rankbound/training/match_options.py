"""`--match` on the command line of `fit`: what to match, to which head, by which size."""

from __future__ import annotations

from typing import Any, Literal

from jsonargparse import ArgumentParser

from rankbound.errors import InputError
from rankbound.heads.linear import Linear
from rankbound.training.match import Budget, HeadFactory, match, plain_linear
from rankbound.training.steps import launched_first

#: They are worked into the model's settings and into `derived.matched`; a recorded config has none.
MATCH_OPTIONS = ("match", "match_to", "match_by")


def add_match_options(parser: ArgumentParser) -> None:
    """Declare `--match` and what goes with it."""
    parser.add_argument(
        "--match",
        type=Literal["none"] | Budget,
        default="none",
        help="Solve one size so that the run costs what the same body with another head does, within 1 %: "
        "in parameters, a tied matrix once, or in forward FLOPs a token at data.window tokens.",
    )
    parser.add_argument(
        "--match_to",
        type=HeadFactory,
        default=Linear,
        help="Head of the run to match, by class name or path.",
    )
    parser.add_argument(
        "--match_by",
        type=str,
        default="auto",
        help="The size to solve: intermediate_size, hidden_size, num_hidden_layers or head.NAME; auto "
        "tries the head's free size, then intermediate_size, each only where it is left at null.",
    )


def solve_match(settings: Any) -> None:
    """Put the solved size into the settings, and what it was solved for into `derived`."""
    derived = settings.derived or {}
    if settings.match == "none":
        if settings.match_to != plain_linear() or settings.match_by != "auto":
            raise InputError("match_to and match_by say how to match; add --match parameters or flops")
        return
    if "matched" in derived:
        raise InputError(
            f"match is {settings.match}, but the config's sizes are matched already (derived.matched); "
            "leave --match out to use them as they are"
        )
    settings.model, matched = match(
        settings.model, settings.data.window, settings.match, settings.match_to, settings.match_by
    )
    settings.derived = {**derived, "matched": matched}
    if launched_first():
        how = "as given" if matched["by"] is None else f"with {matched['by']} = {matched['value']}"
        print(
            f"Matched {settings.match}: {matched['total']:,} {how}; "
            f"{matched['reference']:,} with the head {matched['to']}",
            flush=True,
        )
