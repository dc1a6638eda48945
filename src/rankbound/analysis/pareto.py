"""The Pareto front of a study: which cells have the least loss for their cost.

Design decisions:
- Cells are means over seeds. The front of means is what was seen; means near it may be on it by luck, so
  each cell is also tested against every cell that is no dearer.
- Those tests take the noise of one run to be alike in all cells, pool it within cells, and adjust by Holm's
  method over all pairs tested: a cell is `behind` only where some pair says so. Cells that share seeds are
  taken to be independent, which errs on the side of not telling. A cell of one seed is never tested.
- A cost that differs between the seeds of a cell, such as time, is averaged; its noise is in nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
import pandas as pd
from scipy import stats  # type: ignore[import-untyped]

from rankbound.analysis import words
from rankbound.analysis.intervals import Floats, Noise, holm, pooled
from rankbound.errors import InputError, nearest

#: Costs by the words that the sentences have for them.
COSTS: Mapping[str, str] = MappingProxyType(
    {"parameters": "parameters", "flops": "training FLOPs", "seconds": "seconds"}
)


def with_flops(results: pd.DataFrame) -> pd.DataFrame:
    """The table with a column `flops`, of training: three times `flops_per_token`, forward, by `tokens`."""
    if "flops_per_token" not in results or "flops" in results:
        return results
    return results.assign(flops=3 * results["flops_per_token"] * results["tokens"])


def on_front(cost: Floats, loss: Floats) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Which points, (points,), no other one equals or betters in both and betters in one."""
    no_worse = (cost[None] <= cost[:, None]) & (loss[None] <= loss[:, None])
    better = (cost[None] < cost[:, None]) | (loss[None] < loss[:, None])
    return np.asarray(~(no_worse & better).any(1))


def pareto(
    results: pd.DataFrame,
    cost: str,
    *,
    value: str = "valid/loss",
    level: float = 0.05,
    keep: Sequence[str] = (),
) -> pd.DataFrame:
    """Cells by cost, and whether they are on the front.

    Args:
        results: One row a run, with `cell`, `state`, the cost and the value; lower is better in both.
        cost: A column, such as one of `COSTS`; `flops` is made of `flops_per_token` where it is not there.
        value: The column of losses.
        level: Of the tests, after Holm's adjustment.
        keep: Columns to carry over, alike within a cell.

    Returns:
        One row a cell, sorted by cost: `cell`, those kept, `seeds`, the cost and the value as means,
        `front` (bool, of the means), `gap` (how much lower the front is at no more cost, 0 on it),
        `p` (of the test that it is behind, adjusted; NaN where none could be made) and `reading`: `on the
        front`, `behind`, `could not tell`.

    Raises:
        InputError: An unknown column.
    """
    results = with_flops(results) if cost == "flops" else results
    for name in ("cell", cost, value, *keep):
        if name not in results:
            raise InputError(f"the table has no column {name!r}{nearest(name, map(str, results))}")
    finished = results[results["state"] == "finished"] if "state" in results else results
    finite = np.isfinite(finished[[cost, value]].to_numpy(dtype=np.float64)).all(axis=1)
    known = finished.iloc[np.flatnonzero(finite)]
    groups = known.groupby("cell", sort=False)
    first = groups[list(keep)].first() if keep else pd.DataFrame(index=groups[value].mean().index)
    table = first.assign(seeds=groups.size(), **{cost: groups[cost].mean(), value: groups[value].mean()})
    table = table.reset_index().sort_values([cost, value], kind="stable", ignore_index=True)
    x, y = table[cost].to_numpy(dtype=np.float64), table[value].to_numpy(dtype=np.float64)
    front = on_front(x, y)
    noise = pooled([group.tolist() for _, group in groups[value]])
    p = _behind(x, y, table["seeds"].to_numpy(dtype=np.float64), noise)
    gap = [own - y[x <= price].min() for price, own in zip(x, y, strict=True)]
    reading = [_reading(bool(on), own, level) for on, own in zip(front, p, strict=True)]
    return table.assign(front=front, gap=gap, p=p, reading=reading)


def front_sentence(table: pd.DataFrame, cost: str, name: str = "cell") -> str:
    """What `pareto` found, naming cells by a column of its table."""
    on = table[table["front"]]
    if on.empty:
        return f"No finished run has both a loss and a cost in {COSTS.get(cost, cost)}."
    counts = table["reading"].value_counts()
    return (
        f"On the front of loss against {COSTS.get(cost, cost)}, by means over seeds: "
        f"{words.listed(on[name].tolist())}. Of the other {words.counted(len(table) - len(on), 'cell')}, "
        f"{counts.get('behind', 0)} can be told to be behind it and {counts.get('could not tell', 0)} "
        "cannot (noise of one run pooled over cells, Holm's method over all pairs)."
    )


def _behind(cost: Floats, loss: Floats, seeds: Floats, noise: Noise) -> Floats:
    """The least adjusted p-value of each cell against the cells that are no dearer; NaN without such.

    Higher ones among them count as tests too: taking those that came out lower alone would be choosing.
    """
    behind = np.full(len(cost), math.nan)
    if not noise.deviation > 0:
        return behind
    no_dearer = (cost[None] <= cost[:, None]) & ~np.eye(len(cost), dtype=bool)
    cell, other = np.nonzero(no_dearer & (seeds[None] > 1) & (seeds[:, None] > 1))
    error = noise.deviation * np.sqrt(1 / seeds[cell] + 1 / seeds[other])
    adjusted = holm(stats.t.sf((loss[cell] - loss[other]) / error, noise.freedom).tolist())
    np.fmin.at(behind, cell, adjusted)
    return behind


def _reading(front: bool, p: float, level: float) -> str:
    if front:
        return "on the front"
    return "behind" if p < level else "could not tell"
