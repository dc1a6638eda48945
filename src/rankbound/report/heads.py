"""`rankbound heads`: every head with its formula, its declared bounds, the measured ranks and its cost."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rankbound.errors import InputError, nearest
from rankbound.heads import Head, all_heads
from rankbound.heads.linear import Linear
from rankbound.heads.ranks import measure_ranks

HEADERS = ("head", "formula", "rank", "at 1e-3", "backward", "a state", "ranking", "params", "FLOPs")
NOTE = (
    "rank: of the log-probability matrix; backward: of d log p / d hidden over all states; a state: at one "
    "state. Each number is the declared bound and was measured too, at random parameters and states in "
    "float64, counted at 1e-10 of the largest singular value; none = no bound, with the measured rank. "
    "at 1e-3: the measured rank of the log-probability matrix at that tolerance. ranking: linear = the "
    "order of tokens is that of logits linear in the state. params, FLOPs: multiples of Linear's."
)


def heads(
    names: list[str] | None = None, hidden_size: int = 24, vocab_size: int = 200, markdown: bool = False
) -> None:
    """List heads: formula, declared rank bounds beside the measured ranks, cost.

    Args:
        names: Heads to list; all if not given.
        hidden_size: Width of the states.
        vocab_size: Number of tokens; at least twice the largest bound, or its own size is measured.
        markdown: Print a Markdown table.
    """
    known = all_heads()
    for name in names or ():
        if name not in known:
            raise InputError(f"there is no head {name!r}{nearest(name, known)}")
    rows, left_out = [], []
    for name in names or known:
        try:
            rows.append(_row(known[name], hidden_size, vocab_size))
        except InputError as unfit:
            left_out.append(f"{name} is left out at these sizes: {unfit}")
    title = f"hidden_size D = {hidden_size}, vocab_size V = {vocab_size}"
    if markdown:
        lines = [_line(HEADERS), _line(["---"] * len(HEADERS)), *map(_line, rows)]
        print("\n\n".join((f"{title}. {NOTE}", "\n".join(lines), *left_out)))
        return
    table = Table(box=box.SIMPLE, pad_edge=False, collapse_padding=True, title=title, title_justify="left")
    for header in HEADERS:
        if header != "formula":
            table.add_column(header)
    for label, opening, *cells in rows:
        table.add_row(Text.assemble(label, "\n", (opening, "dim")), *cells)
    console = Console()
    console.print(table)
    for line in (NOTE, *left_out):
        console.print(line, style="dim")


def _row(cls: type[Head], hidden_size: int, vocab_size: int) -> list[str]:
    reference, head = Linear(hidden_size, vocab_size), cls(hidden_size, vocab_size)
    label, changes_ranking = head.label(), head.changes_ranking
    costs = (
        head.parameter_count / reference.parameter_count,
        head.flops_per_token() / reference.flops_per_token(),
    )
    bounds = head.rank_bound, head.backward_rank_bound, head.state_backward_rank_bound
    found = measure_ranks(head)
    return [
        label,
        formula(cls),
        _compared(bounds[0], found.log_prob),
        str(found.log_prob_coarse),
        _compared(bounds[1], found.backward),
        _compared(bounds[2], found.state_backward),
        "other" if changes_ranking else "linear",
        *(f"{cost:.2f}" for cost in costs),
    ]


def formula(cls: type[Head]) -> str:
    """What a head's docstring opens with, up to the first colon."""
    opening = (cls.__doc__ or "").strip().partition("\n")[0]
    return opening.split(": ")[0].rstrip(".")


def _compared(bound: int | None, found: int) -> str:
    if bound is None:
        return f"none ({found})"
    return str(bound) if bound == found else f"{bound}, but measured {found}"


def _line(cells: list[str] | tuple[str, ...]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
