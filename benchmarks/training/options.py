"""Ways of computing a step, and the order in which a benchmark tries them. Knows no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from aes.kernels.checkpointing import Policy
from training.batches import Batching


@dataclass(frozen=True, kw_only=True)
class Options:
    """One way.

    Attributes:
        forward: ``transformers``: its own forward with its own loss, logits of every token.
        vision: Whether the pages' features are computed as transformers does, without autograd, or
            were there before.
        logit_rows: As in ``conf/kernels``.
        every: Which layers ``every_nth`` checkpoints.
    """

    forward: Literal["aes", "transformers"] = "aes"
    vision: Literal["grad", "no_grad", "cached"] = "grad"
    logit_rows: int | None = None
    experts: Literal["eager", "grouped_mm", "frozen"] = "eager"
    batching: Batching = "shuffled"
    attention: Literal["sdpa", "varlen"] = "sdpa"
    fused: bool = False
    compiled: bool = False
    checkpointing: Policy = "none"
    every: int = 2
    micro_batch: int = 4


@dataclass(frozen=True)
class Row:
    """A way with a name that says what it adds."""

    name: str
    options: Options

    def describe(self) -> dict[str, Any]:
        """As it stands in the JSON."""
        return {"name": self.name, "options": asdict(self.options)}


HEAD_AS_ATTENTION = "head as attention"
"""A CPU's way; a card has no kernel for it."""

LADDER: tuple[tuple[str, dict[str, Any]], ...] = (
    ("vision without grad", {"vision": "no_grad"}),
    ("logits in chunks", {"logit_rows": 1024}),
    (HEAD_AS_ATTENTION, {"logit_rows": 0}),
    ("grouped_mm", {"experts": "grouped_mm"}),
    ("of like length", {"batching": "sorted"}),
    ("packed", {"batching": "packed", "attention": "varlen"}),
    ("vision cache", {"vision": "cached"}),
    ("frozen experts", {"experts": "frozen"}),
    ("fused", {"fused": True}),
)
"""What is switched on in turn, each on top of those before it."""

_COMPILED = ("compile", {"compiled": True})

POLICIES: tuple[Policy, ...] = ("attention", "every_nth", "all", "none")


def ladder(plain: Options, *, without: Sequence[str] = ()) -> list[Row]:
    """Plain, each option on top of the last, then alternatives on top of them all."""
    rows, now = [Row("plain", plain)], plain
    for name, change in _steps(without):
        now = replace(now, **change)
        rows.append(Row(f"+ {name}", now))
    return rows + [Row(f"++ {name}", replace(now, **c)) for name, c in _others(plain, without)]


def singles(plain: Options, *, without: Sequence[str] = ()) -> list[Row]:
    """Each option by itself, and transformers' own forward with the experts of its default."""
    changes = [*_steps(without), *_others(plain, without)]
    return [
        Row("transformers' own", replace(plain, forward="transformers", experts="grouped_mm")),
        *(Row(f"only {name}", replace(plain, **change)) for name, change in changes),
    ]


def best(plain: Options, *, without: Sequence[str] = ()) -> list[Row]:
    """All options at once, by micro-batch and checkpointing: what may be fastest first."""
    full = plain
    for _, change in _steps(without):
        full = replace(full, **change)
    wanted: tuple[tuple[int, Policy], ...] = (
        *((8, "attention"), (8, "all"), (4, "none"), (4, "attention"), (8, "every_nth")),
        *((2, "none"), (8, "none"), (4, "every_nth"), (4, "all"), (2, "attention"), (2, "all")),
    )
    rows = [
        Row(f"all, {policy}", replace(full, checkpointing=policy, micro_batch=size))
        for size, policy in wanted
    ]
    if _COMPILED[0] in without:
        return rows
    compiled = [
        Row(f"{row.name}, compile", replace(row.options, compiled=True)) for row in rows[:3]
    ]
    return rows[:5] + compiled + rows[5:]


def _steps(without: Sequence[str]) -> list[tuple[str, dict[str, Any]]]:
    return [(name, change) for name, change in LADDER if name not in without]


def _others(plain: Options, without: Sequence[str]) -> list[tuple[str, dict[str, Any]]]:
    """Other policies of checkpointing than plain's, and compiled layers."""
    policies: list[tuple[str, dict[str, Any]]] = [
        (f"checkpointing {policy}", {"checkpointing": policy})
        for policy in POLICIES
        if policy != plain.checkpointing
    ]
    return [(name, change) for name, change in (*policies, _COMPILED) if name not in without]
