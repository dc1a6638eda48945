"""The search for tokens that can be a linear head's argmax: cheap certificates first, then programs.

A token is settled by a state or direction at which its score is above all others by more than the product
can be wrong, or by a convex combination of other rows, never by a solver's word.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from rankbound.metrics.argmax_head import LinearHead, rounding
from rankbound.metrics.argmax_program import Array, Combination, Program
from rankbound.metrics.argmax_sphere import SphereProgram

CHUNK = 2**25  # scores held at once: 128 MiB in float32
PERCEPTRON_STEPS = 300
WINNING = ("states", "row", "centred", "leverage", "perceptron", "program")
LOSING = ("repeated", "dual")
OFF_SPHERE = ("ball", "simplex")


class Search:
    """Tokens not settled yet, and the certificates of those that are."""

    def __init__(self, head: LinearHead, dtype: torch.dtype) -> None:
        self.head = head
        self.rows = head.rows.to(dtype)
        self.longest = float(head.rows.norm(dim=1).max())
        self.open = torch.ones(len(head.rows), dtype=torch.bool, device=head.rows.device)
        self.settled: dict[str, list[int]] = {name: [] for name in (*WINNING, *LOSING, *OFF_SPHERE)}
        self.winning_states: dict[int, Tensor] = {}
        self.combinations: dict[int, Combination] = {}

    def left(self) -> Tensor:
        return self.open.nonzero()[:, 0]

    def settle(self, tokens: list[int], name: str) -> None:
        self.settled[name] += tokens
        self.open[tokens] = False

    def win(self, token: int, direction: Tensor, name: str) -> bool:
        """Settle the token if the state that the direction stands for is a certificate."""
        state = self.head.state(direction, token)
        if not self.head.wins(token, state):
            return False
        self.winning_states[token] = state.cpu()
        self.settle([token], name)
        return True

    def lose(self, token: int, proof: Combination, name: str) -> None:
        self.combinations[token] = proof
        self.settle([token], name)

    def by_repetition(self) -> None:
        """Of tokens with the same row, those whose bias is not above every other's."""
        _, groups = torch.unique(self.head.weight, dim=0, return_inverse=True)
        biases = self.head.bias.tolist()
        members: dict[int, list[int]] = {}
        for token, group in enumerate(groups.tolist()):
            members.setdefault(group, []).append(token)
        for tokens in members.values():
            best, *others = sorted(tokens, key=lambda token: -biases[token])
            for token in others:
                self.lose(token, Combination(np.array([best]), np.ones(1)), "repeated")
            if others and biases[best] == biases[others[0]]:
                self.lose(best, Combination(np.array(others[:1]), np.ones(1)), "repeated")

    def by_states(self, states: Tensor) -> None:
        """Tokens that are the strict argmax at a given state."""
        head, dtype = self.head, self.rows.dtype
        weight, bias = head.weight.to(dtype), head.bias.to(dtype)
        seen: set[int] = set()
        for chunk in torch.split(states.detach().to(weight.device), max(1, CHUNK // len(weight))):
            best, tokens = (chunk.to(dtype) @ weight.T + bias).topk(2, dim=1)
            size = chunk.double().norm(dim=1) * head.longest + head.bias.abs().max()
            sure = (best[:, 0] - best[:, 1]).double() > rounding(head.size, dtype) * size
            seen.update(tokens[sure, 0].tolist())
            for state, pair in zip(chunk[~sure].double(), tokens[~sure].tolist(), strict=True):
                seen.update(token for token in pair if token not in seen and head.wins(token, state))
        self.settle(sorted(seen), "states")

    def by_directions(self) -> None:
        """Tokens that win at a direction made from their own row."""
        rows = self.head.rows
        inverse = torch.linalg.pinv(rows.T @ rows, hermitian=True)
        makers: dict[str, Callable[[Tensor], Tensor]] = {
            "row": lambda own: own + self.head.mean,
            "centred": lambda own: own,
            "leverage": lambda own: own @ inverse,
        }
        for name, make in makers.items():
            for tokens in self.chunks():
                directions = self.head.allowed(make(rows[tokens]))
                self.settle(tokens[self.ahead(directions, tokens)].tolist(), name)

    def by_bias(self) -> None:
        """Tokens that on the sphere lose to the 2^k rows of highest bias, on average."""
        if self.head.radius is None:
            return
        value, bias = self.head.rows[:, :-1], self.head.rows[:, -1]
        highest = bias.argsort(descending=True)
        for count in [2**k for k in range(len(highest).bit_length())]:
            tokens, left = highest[:count], self.left()
            away = (value[left] - value[tokens].mean(0)).norm(dim=1) * self.head.radius
            low = left[away + bias[left] - bias[tokens].mean() <= -1e-9 * away]
            proof = Combination(tokens.cpu().numpy(), np.full(count, 1 / count))
            for token in low[~torch.isin(low, tokens)].tolist():
                self.lose(token, proof, "ball")

    def by_perceptron(self, deadline: float) -> None:
        """Tokens that win after steps towards a_y - a_i, i the token that scores highest."""
        for tokens in self.chunks():
            directions = normalize(self.rows[tokens])
            for _ in range(PERCEPTRON_STEPS):
                if time.monotonic() >= deadline or not len(tokens):
                    break
                directions = self.head.allowed(directions)
                margin, other = margins(directions, self.rows, tokens)
                for index in (margin > 0).nonzero()[:, 0].tolist():
                    self.win(int(tokens[index]), directions[index].double(), "perceptron")
                directions = directions + normalize(self.rows[tokens] - self.rows[other])
                kept = self.open[tokens]
                tokens, directions = tokens[kept], directions[kept]

    def by_program(self, deadline: float) -> None:
        """Tokens left, one linear program each, until the time is up."""
        head, left = self.head, self.left().tolist()
        if not left:
            return
        rows = head.rows.cpu().numpy()
        sphere = None if head.radius is None else SphereProgram(rows, head.radius)
        program = sphere or Program(rows, head.lifted)
        for token in left:
            if time.monotonic() >= deadline:
                return
            found = program.separate(token, rows[token], deadline)
            if isinstance(found, Combination):
                self.lose(token, found, "dual")
            elif found is not None and not self.win(token, self.direction(found), "program") and sphere:
                moved = sphere.on_sphere(token, found, deadline)
                if isinstance(moved, tuple):
                    self.lose(token, moved[1], moved[0])
                elif moved is not None:
                    self.win(token, self.direction(moved), "program")

    def direction(self, found: Array) -> Tensor:
        return self.head.allowed(torch.from_numpy(found).to(self.head.rows))

    def chunks(self) -> tuple[Tensor, ...]:
        return torch.split(self.left(), max(1, CHUNK // len(self.rows)))

    def ahead(self, directions: Tensor, tokens: Tensor) -> Tensor:
        """(K,) bool: whether each token wins at its own direction (K, E), beyond rounding."""
        size = self.longest * directions.norm(dim=1)
        margin = margins(directions.to(self.rows.dtype), self.rows, tokens)[0].double()
        error = rounding(directions.shape[1], self.rows.dtype) * size
        close = margin.abs() <= error
        margin[close] = margins(directions[close], self.head.rows, tokens[close])[0]
        error[close] = rounding(directions.shape[1], torch.float64) * size[close]
        won: Tensor = margin > error
        return won


def margins(directions: Tensor, rows: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Each token's score at its own direction (K, E) less the highest other, (K,), and whose it is."""
    scores = directions @ rows.T
    own = scores.gather(1, tokens[:, None])[:, 0]
    highest, other = scores.scatter_(1, tokens[:, None], -torch.inf).max(1)
    return own - highest, other
