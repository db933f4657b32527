"""The scores of a batch of answers: exact distributions of each trait, and the digits written.

Fixed text is written by us and the model chooses only among the tokens that a valid score allows,
as the ScoreGuide lists them. However many digits a score has, a trait takes one forward pass: all
beginnings of a score are looked at side by side. So the number of passes depends on the ranges
alone, and ranks stay in step. Of two distributions, ``DecodingSpec.distribution`` says which is
computed. Knows no grammar and no feedback.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from aes.data.guide import ScoreGuide
from aes.inference.decoder import Branch, CachedRows
from aes.kernels.forward import allowed_logits, logits
from aes.prompt import AnswerSchema

Distribution = Literal["constrained", "model"]
LogShares = Mapping[str, Mapping[str, Tensor]]
"""After each beginning of a score, the log-probability ``[B]`` of each next digit; ``""``: the end.
"""


@dataclass
class ScoredAnswer:
    """The beginning of an answer, up to its last score.

    Attributes:
        text: What was written.
        tokens: The same as tokens.
        num_fed: How many of them the model has seen.
        distributions: Probability of each valid score by trait; sums to 1.
    """

    text: str = ""
    tokens: list[int] = field(default_factory=list)
    num_fed: int = 0
    distributions: dict[str, tuple[float, ...]] = field(default_factory=dict)

    def write(self, text: str, tokens: Sequence[int]) -> None:
        """Append what comes next."""
        self.text += text
        self.tokens += tokens

    def take_unfed(self) -> list[int]:
        """Tokens that the model has not seen yet; it is about to."""
        unfed = self.tokens[self.num_fed :]
        self.num_fed = len(self.tokens)
        return unfed


def write_scores(
    rows: CachedRows,
    guide: ScoreGuide,
    *,
    asks: Sequence[bool],
    encode: Callable[[str], list[int]],
    choice: Literal["expected", "greedy"],
    distribution: Distribution,
) -> list[ScoredAnswer]:
    """Let the model score every trait in every row.

    Args:
        rows: Stand behind their prompts.
        asks: Whether a comment follows, by row.
        encode: Tokens of a text.
        choice: See ``DecodingSpec.score``.
        distribution: See ``DecodingSpec.distribution``.
    """
    answers = [ScoredAnswer() for _ in asks]
    for name, lead in AnswerSchema(ranges=guide.ranges, feedback=False).leads():
        for answer in answers:
            answer.write(lead, encode(lead))
        unfed = [answer.take_unfed() for answer in answers]
        after = _look(rows, guide, name, asks, unfed, distribution)
        low = guide.ranges[name][0]
        found = _distribution(after, *guide.ranges[name]).tolist()
        for b, (answer, shares) in enumerate(zip(answers, found, strict=True)):
            answer.distributions[name] = tuple(shares)
            score = str(_rounded_mean(low, shares) if choice == "expected" else _walk(after, b))
            answer.write(score, [guide.digits[digit] for digit in score])
    return answers


def _look(
    rows: CachedRows,
    guide: ScoreGuide,
    name: str,
    asks: Sequence[bool],
    tokens: Sequence[Sequence[int]],
    distribution: Distribution,
) -> LogShares:
    """Feed what was written so far, and look at every beginning of a score behind it."""
    nodes = guide.nodes[name] if distribution == "constrained" else _beginnings(*guide.ranges[name])
    branches = [Branch(guide.digits[p[-1]], nodes.index(p[:-1]) - 1) for p in nodes[1:]]
    ahead = rows.feed(tokens, branches)
    states = torch.cat([rows.states[:, None], ahead], dim=1)
    steps = [[guide.step(name, p, feedback=ask).index for p in nodes] for ask in asks]
    allowed = guide.table[torch.tensor(steps)].to(states.device)
    within = _among_allowed if distribution == "constrained" else _among_all
    shares = within(rows.model, states, allowed).cpu()
    after = {}
    for p, prefix in enumerate(nodes):
        step = guide.step(name, prefix, feedback=asks[0])
        ways = [*step.next_digit, *([] if step.end is None else [""])]
        after[prefix] = {way: shares[:, p, k] for k, way in enumerate(ways)}
    return after


def _beginnings(low: int, high: int) -> tuple[str, ...]:
    """All beginnings of scores, parents first.

    Behind some of them nothing but the end is valid. The decoder has no choice there, and the guide
    no node; but the model may want something else.
    """
    scores = [str(score) for score in range(low, high + 1)]
    beginnings = dict.fromkeys(s[:k] for s in scores for k in range(len(s) + 1))
    return tuple(sorted(beginnings, key=len))


def _among_allowed(model: Any, states: Tensor, allowed: Tensor) -> Tensor:
    """Log-probabilities of the allowed tokens, normalised among them, ``[B, nodes, most]``.

    Args:
        states: ``[B, nodes, hidden]``.
        allowed: Token ids ``[B, nodes, most]``, filled up with -1; there the result is ``-inf``.
    """
    seen = allowed_logits(model, states.flatten(0, 1), allowed.flatten(0, 1))
    return seen.view(allowed.shape).masked_fill(allowed < 0, -torch.inf).log_softmax(dim=-1)


def _among_all(model: Any, states: Tensor, allowed: Tensor) -> Tensor:
    """As ``_among_allowed``, but normalised over the whole vocabulary, and of no meaning at -1."""
    # Row by row: logits of 102 beginnings of a score of up to 100 are 60 MB.
    found = [
        logits(model, row).log_softmax(dim=-1).gather(1, tokens.clamp(min=0))
        for row, tokens in zip(states, allowed, strict=True)
    ]
    return torch.stack(found)


def _distribution(after: LogShares, low: int, high: int) -> Tensor:
    """Probability of every valid score, float32 ``[B, high - low + 1]``.

    A score's is the product of its digits' and its end's, normalised once over all valid scores;
    products of shares among valid tokens sum to 1 as they are.
    """
    found = []
    for score in map(str, range(low, high + 1)):
        ways = [(score[:k], score[k : k + 1]) for k in range(len(score) + 1)]
        found.append(torch.stack([after[p][way] for p, way in ways if p in after]).sum(dim=0))
    return torch.stack(found, dim=1).softmax(dim=1)


def _rounded_mean(low: int, shares: Sequence[float]) -> int:
    return math.floor(sum((low + i) * share for i, share in enumerate(shares)) + 0.5)


def _walk(after: LogShares, row: int) -> int:
    """The likeliest digit at each step, until the end is likeliest."""
    digits = ""
    while digits in after:
        options: dict[Any, float] = {way: float(p[row]) for way, p in after[digits].items()}
        best = max(options, key=options.__getitem__)
        if not best:
            break
        digits += best
    return int(digits)
