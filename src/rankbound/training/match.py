"""Matched budgets: one size of a run is solved so that it costs what the same body with another head does.

Design decisions:
- A budget is a total, of parameters or of forward FLOPs a token: a head that costs less leaves more to
  the body, so neither part is matched alone.
- `auto` solves only sizes left at null: the head's own free size, then the width of the feed-forward
  layers down to the hidden size, which changes neither that (the bottleneck under study) nor the depth. A
  size that was given is the question asked; naming it in `match_by` is the leave to change it.
- Totals grow with each size, so doubling and bisection find the nearest one, on models built on
  PyTorch's meta device: nothing is allocated, and the run's random state is as without a match.
- The solved size becomes an ordinary setting; what it was solved for goes into `derived.matched`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pydoc import locate
from typing import Any, Literal, get_args, get_type_hints

import torch
from jsonargparse import Namespace
from torch import nn

from rankbound.errors import InputError, nearest
from rankbound.heads import Head
from rankbound.heads.linear import Linear
from rankbound.model import GPT
from rankbound.parser import Parser
from rankbound.training.language_model import LanguageModel

Budget = Literal["parameters", "flops"]
HeadFactory = Callable[[int, int], Head]

TOLERANCE = 0.01
#: The body's sizes that may be solved for. `auto` takes the first; the others change what is studied.
BODY_SIZES = ("intermediate_size", "hidden_size", "num_hidden_layers")
LARGEST_START = 2**20  # where the search for a size that the head accepts gives up


def match(model: Any, window: int, budget: Budget, to: Any, by: str = "auto") -> tuple[Any, dict[str, Any]]:
    """The model's settings with one size solved, and what was solved as plain data.

    Args:
        model: settings of the model, `vocab_size` among them; left as they are.
        window: tokens of a training sequence, which attention's products grow with.
        budget: what is to agree within 1 % with the same body under the reference head.
        to: settings of the reference head, such as `plain_linear()`.
        by: the size to solve, such as `intermediate_size` or `head.rank`, or `auto`.

    Returns:
        `model` itself where the totals agree as they are, else a copy with the size set; and budget, to
        (the reference head), by and value (None where nothing was changed), total and reference.

    Raises:
        InputError: no such size, or none that makes the totals agree.
    """
    if by != "auto" and by not in (known := list(_sizes(model))):
        raise InputError(f"match_by: there is no size {by}{nearest(by, known)} (known: {', '.join(known)})")
    reference = build_on_meta(model, to)
    target = total(reference, budget, window)
    given = total(build_on_meta(model, model.head), budget, window)
    solved: dict[str, Any] = {"budget": budget, "to": reference.head.label(), "by": None, "value": None}
    if _agrees(given, target):
        return model, solved | {"total": given, "reference": target}
    sizes = _left_open(model) if by == "auto" else [by]
    closest = {size: _solve(model, size, lambda m: total(m, budget, window), target) for size in sizes}
    for size, found in closest.items():
        starved = by == "auto" and found is not None and _starves(model, size, found[0])
        if found is not None and _agrees(found[1], target) and not starved:
            solved |= {"by": size, "value": found[0], "total": found[1], "reference": target}
            return _with(model, size, found[0]), solved
    unit = "parameters" if budget == "parameters" else "forward FLOPs a token"
    raise InputError(
        f"no size makes the {unit} those of {reference.head.label()}, {target:,}, within 1 % "
        f"(as given {given:,}): {_attempts(model, closest)}"
    )


def rechecked(
    solved: Mapping[str, Any], settings: Mapping[str, Any], model: LanguageModel, window: int
) -> dict[str, Any]:
    """What `match` solved, with the size and the total that the model has now; settings are plain data."""
    value: Any = None
    if solved["by"] is not None:
        value = settings
        for key in _key(solved["by"]).split("."):
            value = value[key]
    return {**solved, "value": value, "total": total(model, solved["budget"], window)}


def plain_linear() -> Any:
    """Settings of the head that is the reference if none is named."""
    return _head_parser().get_defaults().head


def total(model: LanguageModel, budget: Budget, window: int) -> int:
    """Parameters, a tied matrix once, or forward FLOPs a token at `window` tokens."""
    return model.parameter_counts()["total"] if budget == "parameters" else forward_flops(model, window)


def forward_flops(model: LanguageModel, window: int) -> int:
    """Operations of one token's matrix products; a multiply-add counts two, looking up a row none.

    Attention's scores and mixing are counted over all `window` positions, as if nothing were masked.
    """
    body = model.body
    weights = sum(layer.weight.numel() for layer in body.modules() if isinstance(layer, nn.Linear))
    attention = 2 * window * body.hidden_size * len(body.blocks)
    return 2 * (weights + attention) + model.head.flops_per_token()


def nearest_size(
    total_of: Callable[[int], int | None], target: int, start: int | None
) -> tuple[int, int] | None:
    """The size of at least 1 whose total is nearest to `target`, and that total; None where there is none.

    Args:
        total_of: grows with the size; None where a size is refused for being too small or too large.
        target: the total wanted.
        start: a size that is not refused; by default the first such power of two.
    """
    if start is None:
        powers = (2**i for i in range(LARGEST_START.bit_length()))
        start = next((size for size in powers if total_of(size) is not None), None)
    if start is None:
        return None

    def excess(size: int) -> float:
        found = total_of(size)
        return found - target if found is not None else math.inf if size > start else -math.inf

    low, high = 0, start
    while excess(high) < 0 and excess(2 * high) > excess(high):  # it may have stopped growing
        low, high = high, 2 * high
    largest = high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if excess(middle) < 0 else (low, middle)
    totals = {
        size: found for size in (high, low, largest) if size > 0 and (found := total_of(size)) is not None
    }
    return min(totals.items(), key=lambda item: abs(item[1] - target))


def _agrees(total: int, target: int) -> bool:
    return abs(total - target) <= TOLERANCE * target


def _starves(model: Any, size: str, value: int) -> bool:
    """Whether the feed-forward layers would be narrower than the residual stream: too little body left."""
    return size == BODY_SIZES[0] and value < int(model.hidden_size)


def _solve(
    model: Any, size: str, total: Callable[[LanguageModel], int], target: int
) -> tuple[int, int] | None:
    """`nearest_size` over the model's sizes; attention heads share a hidden size evenly."""
    step = model.num_attention_heads if size == "hidden_size" else 1

    @cache
    def total_of(steps: int) -> int | None:
        changed = _with(model, size, steps * step)
        try:
            return total(build_on_meta(changed, changed.head))
        except InputError:
            return None

    given = model[_key(size)]
    found = nearest_size(total_of, target, None if given is None else given // step)
    return None if found is None else (found[0] * step, found[1])


def build_on_meta(model: Any, head: Any) -> LanguageModel:
    """The model under `head`, on the meta device, with no random number drawn from the run's."""
    body = {name: model[name] for name in inspect.signature(GPT).parameters}
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        return LanguageModel(GPT(**body), _factory(head), model.tie_word_embeddings)


def _factory(head: Any) -> HeadFactory:
    settings = Namespace(head=head)  # type: ignore[no-untyped-call]
    factory: HeadFactory = _head_parser().instantiate_classes(settings).head
    return factory


def _head_parser() -> Parser:
    parser = Parser()
    parser.add_argument("--head", type=HeadFactory, default=Linear)
    return parser


def _key(size: str) -> str:
    """Where a size stands among the model's settings: `head.inner.rank` is inside two classes."""
    return size.replace(".", ".init_args.")


def _with(model: Any, size: str, value: int) -> Any:
    changed = model.clone()
    changed[_key(size)] = value
    return changed


def _sizes(model: Any) -> Iterator[str]:
    """Names of every size that may be solved for: the body's, and whole numbers among heads' arguments."""
    yield from BODY_SIZES
    for path, head, arguments in _heads(model.head, "head"):
        hints = get_type_hints(head.__init__)
        for name, value in vars(arguments).items():
            if type(value) is int or (value is None and int in get_args(hints.get(name))):
                yield f"{path}.{name}"


def _automatic(model: Any) -> list[str]:
    """Sizes that `auto` may solve, in its order: what heads declare free, then the body's first."""
    free = [f"{path}.{head.free_size}" for path, head, _ in _heads(model.head, "head") if head.free_size]
    return [*free, BODY_SIZES[0]]


def _left_open(model: Any) -> list[str]:
    return [size for size in _automatic(model) if model[_key(size)] is None]


def _heads(head: Any, path: str) -> Iterator[tuple[str, type[Head], Namespace]]:
    """A head's settings and those of the heads inside it: where, class, arguments."""
    found = locate(head.class_path) if isinstance(head, Namespace) and "init_args" in head else None
    if inspect.isclass(found) and issubclass(found, Head):
        yield path, found, head.init_args
        for name, value in vars(head.init_args).items():
            yield from _heads(value, f"{path}.{name}")


def _attempts(model: Any, closest: Mapping[str, tuple[int, int] | None]) -> str:
    """What each size could do, which ones are given and stayed, and what else there is."""
    said = [
        f"{size} is refused at every value" if found is None else f"{size} {found[0]} makes {found[1]:,}"
        for size, found in closest.items()
    ]
    given = {size: model[_key(size)] for size in _automatic(model) if size not in closest}
    kept = [f"{size} {value} is given" for size, value in given.items() if value is not None]
    others = [size for size in _sizes(model) if size not in closest]
    return f"{', '.join(said + kept)}; name another with --match_by: {', '.join(others)}"
