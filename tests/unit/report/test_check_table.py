"""The table of problems: cut only where the full list can be read elsewhere."""

import io

import pytest
from rich.console import Console

from aes.records import Problem
from aes.report.check_table import print_check


def make_problems(num: int) -> list[Problem]:
    return [
        Problem(
            code="title_not_in_file",
            id=f"A-{k}",
            file="scores.txt",
            line=k,
            message="[bold]m[/bold]",
            cure="Mend it.",
            action="dropped",
        )
        for k in range(1, num + 1)
    ]


def print_problems(num: int, full_list: str | None) -> str:
    out = io.StringIO()
    counts = {"read": 50, "kept": 50 - num, "dropped": num}
    console = Console(file=out, width=100)
    print_check(console, make_problems(num), counts, full_list=full_list)
    return out.getvalue()


@pytest.mark.parametrize(
    ("num", "full_list", "num_shown"),
    [(35, "see f.json", 30), (30, "see f.json", 30), (35, None, 35), (0, None, 0)],
)
def test_table_is_cut_only_if_the_rest_is_elsewhere(
    num: int, full_list: str | None, num_shown: int
) -> None:
    text = print_problems(num, full_list)
    assert sum(f"scores.txt:{k} " in text for k in range(1, num + 1)) == num_shown
    assert ("... and 5 more; see f.json" in text) == (num_shown < num)


def test_each_cure_is_told_once_and_the_counts_last() -> None:
    text = print_problems(35, None)
    assert text.count("title_not_in_file: Mend it.") == 1 and "[bold]m[/bold]" in text
    assert text.endswith("data check: 50 read, 15 kept, 35 dropped essays, 35 problems\n")
