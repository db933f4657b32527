"""The dataset check as a table on the terminal: what is wrong, where, and what became of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from aes.records import Problem

_MOST_ROWS = 30


def print_check(
    console: Console,
    problems: Sequence[Problem],
    counts: Mapping[str, int],
    *,
    full_list: str | None,
    what: str = "essays",
) -> None:
    """Print problems by file and line, and what they amount to.

    Args:
        counts: ``read``, ``kept`` and ``dropped``.
        full_list: Where all problems are listed, so that the table may be cut short; None if
            nowhere else, and the table lists them all.
        what: ``essays`` or ``samples``.
    """
    if problems:
        shown = problems if full_list is None else problems[:_MOST_ROWS]
        console.print(_table(shown, what))
        if hidden := len(problems) - len(shown):
            console.print(f"... and {hidden} more; {full_list}", markup=False)
        cures = dict.fromkeys((p.code, p.cure) for p in problems)
        for code, cure in cures:
            console.print(Text.assemble((code, "bold"), f": {cure}"))
    told = ", ".join(f"{counts[name]} {name}" for name in ("read", "kept", "dropped"))
    console.print(f"data check: {told} {what}, {len(problems)} problems", highlight=False)


def _table(problems: Sequence[Problem], what: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column(what.removesuffix("s"), no_wrap=True)
    table.add_column("where", overflow="fold")
    table.add_column("problem", overflow="fold")
    table.add_column("action", no_wrap=True)
    for problem in problems:
        where = f"{problem.file}:{problem.line}" if problem.line else problem.file
        table.add_row(*(Text(t) for t in (problem.id, where, problem.message, problem.action)))
    return table
