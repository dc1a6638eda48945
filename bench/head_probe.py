"""What the head probe finds where the answer is known, and what its training costs.

    python bench/head_probe.py            headroom on languages of known rank, a table
    python bench/head_probe.py --step     a training step against its own matrix products, and the budget

The head is the best linear one of the width: states and head are solved for together on the language's
exact distribution, so nothing is left to adapt and all of (exact cross entropy - entropy) is headroom. The
control is cut to the rank at which it plants about so much: power depends on how much there is to find.
"""

import argparse
import math
import time
from dataclasses import replace

import torch

from rankbound.analysis.correction_shapes import Shape
from rankbound.analysis.corrections import Correction
from rankbound.analysis.decomposition import Moments, decompose, moments
from rankbound.analysis.headroom import Headroom, Search, headroom
from rankbound.analysis.hidden_cache import InMemory
from rankbound.analysis.planted import Planted
from rankbound.analysis.probe_problem import Problem
from rankbound.analysis.probe_training import Trained, gradient_step, optimizer_of
from rankbound.analysis.readout import Readout
from rankbound.corpora.languages.floor_problem import Problem as FloorProblem
from rankbound.corpora.languages.known_rank import KnownRank

CHAIN = 64  # tokens of a document
TEMPERATURE = 1.0
SOLVED = 1e-4  # nats to which the best head is found
#: V, R, D, and tokens as a multiple of V D: narrow heads, one that is wide enough, too little text.
CASES = ((64, 40, 8, 200), (128, 40, 8, 100), (64, 9, 8, 200), (512, 64, 16, 0.01))


def best_head(language: KnownRank, width: int) -> tuple[torch.Tensor, Readout, float]:
    """States of all contexts (C, D), the best head with a bias on them, and its exact loss."""
    weight_C, log_prob_CV = (tensor.numpy() for tensor in language.contexts())
    problem = FloorProblem(weight_C, log_prob_CV)
    point = problem.descend(problem.weighted_svd(width, True), 800).point
    states = torch.from_numpy(point.states / weight_C[:, None] ** 0.5).float()
    scale_V = torch.from_numpy((weight_C[:, None] * language.log_prob.exp().numpy()).sum(0) ** 0.5)
    tokens = torch.from_numpy(point.tokens) / scale_V[:, None]
    readout = Readout(tokens.float(), (torch.from_numpy(point.bias) / scale_V).float())
    return states, readout, language.cross_entropy(readout.logits(states).log_softmax(1))


def control_rank(language: KnownRank, states: torch.Tensor, readout: Readout, gap: float, seed: int) -> int:
    """The rank at which the planted loss is nearest to the gap."""
    weight_C1 = language.contexts()[0].float()[:, None]
    mean = (weight_C1 * states).sum(0).double()
    second = ((weight_C1 * states).T @ states).double()
    found = decompose(readout, Moments(mean, second))

    def distance(rank: int) -> float:
        planted = Planted(found, rank, seed)
        truth, cut = (x.log_softmax(1) for x in (planted.logits(states), planted.readout.logits(states)))
        return abs(float((weight_C1 * truth.exp() * (truth - cut)).sum()) - gap)

    return min(range(readout.width), key=distance)


def probe(case: tuple[int, int, int, float], seed: int, minutes: float) -> tuple[Headroom, float, int]:
    """What is found in a case, the gap, and the number of tokens."""
    vocab_size, rank, width, times = case
    language = KnownRank(vocab_size, rank, zipf=0.3, temperature=TEMPERATURE, seed=seed)
    states, readout, loss = best_head(language, width)
    tokens = int(times * vocab_size * width)
    length = min(CHAIN, max(2, tokens // 8))
    text = language.batch(0, max(1, tokens // length), length + 1)
    context, target = text[:, :-1].flatten(), text[:, 1:].flatten()
    document = torch.arange(len(target)) // length
    gap = loss - language.entropy
    search = Search(minutes=minutes, seed=seed)
    if times >= 1:  # a branch wide enough for every context
        search = replace(
            search,
            candidates=("expanded",),
            parameters=Shape("linear", vocab_size + width, width, vocab_size).parameter_count,
            penalties=(3.0,),
            epochs=25.0,
            batch=1024,
            control_rank=control_rank(language, states, readout, gap, seed) if gap > 0.01 else None,
        )
    return headroom(InMemory(states[context]), readout, target, document, search), gap, len(target)


def row(case: tuple[int, int, int, float], seed: int, minutes: float) -> str:
    """A line of the table."""
    begun = time.monotonic()
    found, gap, tokens = probe(case, seed, minutes)
    vocab_size, rank, width, _ = case
    start = (
        f"{seed:>4} {vocab_size:>4} {rank:>4} {width:>5} {tokens:>8,} "
        f"{tokens / vocab_size / width:>7.2f} {gap:>7.4f}"
    )
    power, gain = found.power, found.gain
    if not found.told:
        why = "too little text" if found.cannot else f"power {power.mean:.1%} +- {power.half_width:.1%}"
        return f"{start}  cannot tell: {why}"
    half = gain.half_width if gain.error > 0 else 0.0
    off = gain.mean - gap * power.mean
    both = math.hypot(half, gap * power.half_width)
    hits = ["hit" if abs(off) <= error + SOLVED else "MISS" for error in (half, both)]
    return (
        f"{start}  {gain.mean:.4f} +- {half:.4f}  {power.mean:6.1%} +- {power.half_width:.1%} of "
        f"{found.planted.mean:.4f}  {gap * power.mean:.4f} {off:+.4f}  {hits[0]:<4}  {hits[1]:<4}  "
        f"{time.monotonic() - begun:4.0f} s"
    )


def known_answers(seeds: list[int], minutes: float) -> None:
    print(
        "seed    V    R width   tokens N/(V D)     gap  headroom            power, planted          "
        "gap x power   off  within its interval / and power's"
    )
    for case in CASES:
        for seed in seeds:
            print(row(case, seed, minutes), flush=True)


def step_cost(vocab_size: int, width: int, rows: int, repeats: int) -> None:
    """Time of one step of all corrections, and of nothing but its matrix products."""
    torch.manual_seed(0)
    hidden = torch.randn(rows, width)
    readout = Readout(torch.randn(vocab_size, width) * width**-0.5)
    target = torch.randint(0, vocab_size, (rows,))
    problem = Problem(InMemory(hidden), readout, target, moments(InMemory(hidden), torch.arange(rows)))
    search, parameters = Search(), vocab_size * 5 + 4 * width
    kinds = ("linear", *search.candidates)
    made = [(one, problem.correction(one.kind, parameters, 0)) for one in search.settings(kinds)]
    pack = [Trained(one, correction, correction.start, 0.0) for one, correction in made]
    index, place = torch.arange(rows), torch.zeros(rows)
    optimizer, corrections = optimizer_of(pack), [correction for _, correction in made]
    steps, products = [], []
    for _ in range(repeats):
        begun = time.perf_counter()
        gradient_step(problem, pack, index, place, {1.0: rows})
        optimizer.step()
        steps.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        multiply(problem, corrections, hidden, readout)
        products.append(time.perf_counter() - begun)
    print(
        f"V {vocab_size:,} D {width}: {len(pack)} corrections on {rows} rows: step {min(steps):.3f} s, its "
        f"matrix products {min(products):.3f} s, ratio {min(steps) / min(products):.2f}",
        flush=True,
    )


def multiply(
    problem: Problem, corrections: list[Correction], hidden: torch.Tensor, readout: Readout
) -> None:
    """The products of a step and nothing else: the head's, then three a correction and component."""
    weight_DV, bias = readout.weight.T, torch.zeros(readout.vocab_size)
    for block in torch.split(hidden, problem.block_rows):
        base = problem._base[: len(block) * readout.vocab_size].view(len(block), -1)
        torch.addmm(bias, block, weight_DV, out=base)
        for part in torch.split(base, problem.chunk_rows):
            for correction in corrections:
                multiply_correction(correction, part, problem.workspace)


def multiply_correction(correction: Correction, base: torch.Tensor, room: torch.Tensor) -> None:
    tokens, gradient = (correction._views(x)[0] for x in (correction.values, correction.gradient))
    inputs = base.new_zeros(len(base), tokens.shape[1])
    kept = []
    for _, _, columns in correction._blocks():
        out = room[: len(base) * (columns.stop - columns.start)].view(len(base), -1)
        torch.addmm(base[:, columns], inputs, tokens[columns].T, out=out)
        torch.mm(out, tokens[columns])
        kept.append((columns, out))
        room = room[out.numel() :]
    for columns, out in kept:
        gradient[columns].addmm_(out.T, inputs)


def budget(vocab_size: int, width: int, tokens: int, minutes: float) -> None:
    """Says and takes: the whole probe on random states."""
    torch.manual_seed(0)
    hidden = torch.randn(tokens, width)
    readout = Readout(torch.randn(vocab_size, width) * width**-0.5)
    target = torch.randint(0, vocab_size, (tokens,))
    search = Search(minutes=minutes)
    found = headroom(InMemory(hidden), readout, target, torch.arange(tokens) // 500, search, say=print)
    print(f"allowed {60 * minutes:.0f} s, said {found.planned_seconds:.0f} s, took {found.seconds:.0f} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--step", action="store_true", help="measure the step and the budget instead")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--minutes", type=float, help="of a probe: 30 at most, of the budget's: 1")
    parser.add_argument("--vocab_size", type=int, default=50_304)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--rows", type=int, default=600, help="of a step")
    parser.add_argument("--tokens", type=int, default=50_000, help="of the budget's probe")
    parser.add_argument("--repeats", type=int, default=3)
    chosen = parser.parse_args()
    if chosen.step:
        step_cost(chosen.vocab_size, chosen.width, chosen.rows, chosen.repeats)
        budget(chosen.vocab_size, chosen.width, chosen.tokens, chosen.minutes or 1.0)
    else:
        known_answers(chosen.seeds, chosen.minutes or 30.0)
