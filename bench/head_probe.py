"""What the head probe finds where the answer is known, and what its training step costs.

    python bench/head_probe.py            headroom on languages of known rank, a table
    python bench/head_probe.py --step     the step against its own matrix products

The head is the best linear one of the width: states and head are solved for together on the language's exact
distribution, so nothing is left to adapt and all of (its exact cross entropy - entropy) is headroom.
"""

import argparse
import time

import torch

from rankbound.analysis.corrections import Correction
from rankbound.analysis.headroom import Search, headroom
from rankbound.analysis.hidden_cache import InMemory
from rankbound.analysis.probe_training import Problem, Trained, gradient_step
from rankbound.analysis.rank_cuts import moments
from rankbound.analysis.readout import Readout
from rankbound.corpora.languages.floor_problem import Problem as FloorProblem
from rankbound.corpora.languages.known_rank import KnownRank

CHAIN = 64  # tokens of a document


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


def show(language: KnownRank, width: int, tokens: int, search: Search) -> None:
    states, readout, loss = best_head(language, width)
    length = min(CHAIN, max(2, tokens // 8))
    text = language.batch(0, max(1, tokens // length), length + 1)
    context, target = text[:, :-1].flatten(), text[:, 1:].flatten()
    document = torch.arange(len(target)) // length
    begun = time.monotonic()
    found = headroom(InMemory(states[context]), readout, target, document, search)
    gap, power = loss - language.entropy, found.power
    per = len(target) / (language.vocab_size * width)
    row = f"{language.vocab_size:>4} {language.rank:>4} {width:>5} {len(target):>9,} {per:>8.2f} {gap:>7.4f}  "
    if not found.told:
        why = found.cannot or f"power {power.mean:.0%}"
        print(f"{row}cannot tell: {why}", flush=True)
        return
    half = found.gain.half_width if found.gain.error > 0 else 0.0
    within = abs(found.gain.mean - gap * power.mean) <= half
    print(
        f"{row}{found.gain.mean:.4f} +- {half:.4f}   {power.mean:.1%} +- {power.half_width:.1%}   "
        f"{gap * power.mean:.4f}   {'within' if within else 'NOT within'}   {found.kind}, "
        f"{time.monotonic() - begun:.0f} s",
        flush=True,
    )


def known_answers(minutes: float) -> None:
    print("   V rank width    tokens N/(V D)     gap  headroom            power            gap x power")
    narrow = KnownRank(vocab_size=64, rank=40, zipf=0.3, temperature=2.0)
    size = 64 * 66 + 64 * 9
    thorough = Search(
        candidates=("expanded",),
        parameters=size,
        rates=(0.03,),
        penalties=(0.3,),
        epochs=EPOCHS,
        batch=2048,
        minutes=minutes,
        control_rank=CONTROL,
    )
    show(narrow, 8, 600 * 64 * 8, thorough)
    wide = KnownRank(vocab_size=64, rank=9, zipf=0.3, temperature=2.0)
    show(wide, 8, 600 * 64 * 8, thorough)
    show(narrow, 8, max(2, 64 * 8 // 100), Search())


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
    steps, products = [], []
    for _ in range(repeats):
        begun = time.perf_counter()
        gradient_step(problem, pack, index, place, {1.0: rows})
        steps.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        multiply(problem, [correction for _, correction in made], hidden, readout)
        products.append(time.perf_counter() - begun)
    ratio = min(steps) / min(products)
    print(
        f"V {vocab_size:,} D {width}: {len(pack)} corrections on {rows} rows: step {min(steps):.3f} s, its "
        f"matrix products {min(products):.3f} s, ratio {ratio:.2f}"
    )


def multiply(
    problem: Problem, corrections: list[Correction], hidden: torch.Tensor, readout: Readout
) -> None:
    """The products of a step and nothing else: the head's, then three a correction and component."""
    weight_DV = readout.weight.T
    bias = torch.zeros(readout.vocab_size)
    for part in torch.split(hidden, problem.chunk_rows):
        base = problem._base[: len(part) * readout.vocab_size].view(len(part), -1)
        torch.addmm(bias, part, weight_DV, out=base)
        for correction in corrections:
            tokens, _, _, _ = correction._views(correction.values)
            gradient, _, _, _ = correction._views(correction.gradient)
            room = problem.workspace
            for _component, _part, columns in correction._blocks():
                inputs = torch.zeros(len(part), tokens.shape[1])
                width = columns.stop - columns.start
                out = room[: len(part) * width].view(len(part), width)
                torch.addmm(base[:, columns], inputs, tokens[columns].T, out=out)
                torch.mm(out, tokens[columns])
                gradient[columns].addmm_(out.T, inputs)
                room = room[len(part) * width :] if correction.shape.components > 1 else room


EPOCHS, CONTROL = 28.0, 6

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--step", action="store_true", help="measure the step instead")
    parser.add_argument("--minutes", type=float, default=60.0, help="at most, of each probe")
    parser.add_argument("--vocab_size", type=int, default=50_304)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    chosen = parser.parse_args()
    if chosen.step:
        step_cost(chosen.vocab_size, chosen.width, chosen.rows, chosen.repeats)
    else:
        known_answers(chosen.minutes)
