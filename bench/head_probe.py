"""What the head probe finds where the answer is known, and what its training costs.

    python bench/head_probe.py            headroom on languages of known rank, a table
    python bench/head_probe.py --step     a training step against its own matrix products, and the budget

The head is the best linear one of the width: states and head are solved for together on the language's
exact distribution, so nothing is left to adapt and all of (exact cross entropy - entropy), the gap, is
headroom. A hit is headroom - gap x power within its interval, which has the error of both; said besides is
whether it is within the headroom's own.
"""

import argparse
import math
import time
from dataclasses import replace

import torch

from rankbound.analysis.correction_shapes import Shape
from rankbound.analysis.corrections import Correction
from rankbound.analysis.decomposition import moments
from rankbound.analysis.headroom import Headroom, Search, headroom
from rankbound.analysis.hidden_cache import InMemory
from rankbound.analysis.probe_problem import Problem
from rankbound.analysis.probe_training import Trained, gradient_step, optimizer_of
from rankbound.analysis.readout import Readout
from rankbound.corpora.languages.floor_problem import Problem as FloorProblem
from rankbound.corpora.languages.known_rank import KnownRank

CHAIN = 64  # tokens of a document
TEMPERATURE = 1.0
SOLVED = 1e-4  # nats to which the best head is found
Case = tuple[int, int, int, float]
#: V, R, D, and tokens as a multiple of V D: a narrow head, one that is wide enough, too little text, and
#: the narrow head on less text. Small, so that the search has the time to find nearly all.
CASES: tuple[Case, ...] = ((32, 20, 4, 1000), (32, 5, 4, 1000), (512, 64, 16, 0.01), (32, 20, 4, 200))


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


def probe(case: Case, seed: int, minutes: float) -> tuple[Headroom, float, int]:
    """What is found in a case, the gap, and the number of tokens."""
    vocab_size, rank, width, times = case
    language = KnownRank(vocab_size, rank, zipf=0.3, temperature=TEMPERATURE, seed=seed)
    states, readout, loss = best_head(language, width)
    tokens = int(times * vocab_size * width)
    length = min(CHAIN, max(2, tokens // 20))
    text = language.batch(0, max(1, tokens // length), length + 1)
    context, target = text[:, :-1].flatten(), text[:, 1:].flatten()
    document = torch.arange(len(target)) // length
    gap = loss - language.entropy
    search = Search(minutes=minutes, seed=seed)
    if times >= 1:  # a branch twice as wide as there are contexts
        search = replace(
            search,
            candidates=("expanded",),
            parameters=Shape("linear", 2 * (vocab_size + width), width, vocab_size).parameter_count,
            penalties=(1.0,),
            epochs=25.0,
            batch=1024,
        )
    return headroom(InMemory(states[context]), readout, target, document, search), gap, len(target)


def row(case: Case, seed: int, minutes: float) -> tuple[str, list[bool]]:
    """A line of the table; where it is told, whether a hit by both errors and by the headroom's own."""
    begun = time.monotonic()
    found, gap, tokens = probe(case, seed, minutes)
    vocab_size, rank, width, _ = case
    start = (
        f"{seed:>4} {vocab_size:>4} {rank:>4} {width:>5} {tokens:>8,} "
        f"{tokens / vocab_size / width:>7.2f} {gap:>7.4f}"
    )
    power, gain = found.power, found.gain
    if not found.told:
        size = f"{found.planted.mean:.3f} +- {found.planted.half_width:.3f}"
        why = f"power {power.mean:.1%} +- {power.half_width:.1%} of {size} planted"
        why = found.cannot or why
        return f"{start}  cannot tell: {why}", []
    half = gain.half_width if gain.error > 0 else 0.0
    off = gain.mean - gap * power.mean
    both = math.hypot(half, gap * power.half_width)
    hits = [abs(off) <= error + SOLVED for error in (both, half)]
    said = "  ".join("hit " if hit else "MISS" for hit in hits)
    line = (
        f"{start}  {gain.mean:.4f} +- {half:.4f}  {power.mean:6.1%} +- {power.half_width:.1%} of "
        f"{found.planted.mean:.4f}  {gap * power.mean:.4f}  {off:+.4f} +- {both:.4f}  {said}  "
        f"{time.monotonic() - begun:4.0f} s"
    )
    return line, hits


def known_answers(seeds: list[int], minutes: float) -> None:
    print(
        "seed    V    R width   tokens N/(V D)     gap  headroom            power, planted          "
        "gap x power    difference     hit, by headroom's alone"
    )
    for case in CASES:
        told = []
        for seed in seeds:
            line, hits = row(case, seed, minutes)
            told += [hits] if hits else []
            print(line, flush=True)
        both, own = (sum(hits) for hits in zip(*told, strict=True)) if told else (0, 0)
        print(f"  told {len(told)} of {len(seeds)}; hits {both}, by the headroom's interval alone {own}")


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
    for part in torch.split(hidden, problem.chunk_rows):
        base = problem._base[: len(part) * readout.vocab_size].view(len(part), -1)
        torch.addmm(bias, part, weight_DV, out=base)
        for correction in corrections:
            multiply_correction(correction, base, problem.workspace)


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
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
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
