from __future__ import annotations

import pytest

from aes.cli.entry import quote_value


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ("data.root=/data/作文", "data.root='/data/作文'"),
        ("data.root=~/essays", "data.root='~/essays'"),
        ("data.root=/data/a(1)", "data.root='/data/a(1)'"),
        ("data.root=/data/essays", "data.root=/data/essays"),
        ("adapter.targets=[attention,vision]", "adapter.targets=[attention,vision]"),
        ("data.labels=[天气, 体育]", "data.labels=['天气','体育']"),
        ("data.labels=['天气',体育]", "data.labels=['天气',体育]"),
        ("adapter.targets=[attention", "adapter.targets=[attention"),
        ("nonsense", "nonsense"),
    ],
)
def test_a_value_is_quoted_only_where_it_has_to_be(given: str, taken: str) -> None:
    assert quote_value(given) == taken
