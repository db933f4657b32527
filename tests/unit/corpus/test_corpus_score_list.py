from __future__ import annotations

import pytest

from aes.corpus.score_list import find_encoding

ROWS = "A-0001\t那一次，我找回了自尊\t75\n"


@pytest.mark.parametrize(
    ("written", "read"),
    [("gb18030", "gb18030"), ("utf-8", "utf-8"), ("utf-8-sig", "utf-8"), ("ascii", "utf-8")],
)
def test_the_encoding_of_a_list_is_found(written: str, read: str) -> None:
    content = ROWS.encode(written, errors="ignore")
    assert find_encoding(content) == read
    assert content.decode(read).lstrip("\ufeff") == ROWS.encode(written, "ignore").decode(
        written
    ).lstrip("\ufeff")
