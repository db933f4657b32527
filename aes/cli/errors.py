"""Turns what went wrong into one sentence, where it was the user's doing.

Knows exceptions and names that look alike; knows neither Hydra nor the settings.
"""

from __future__ import annotations

import dis
import errno
import sys
from collections.abc import Collection
from difflib import get_close_matches
from pathlib import Path

_OUR_CODE = str(Path(__file__).resolve().parents[1])
_RAISE = {dis.opmap["RAISE_VARARGS"], dis.opmap["RERAISE"]}

_DISK_CURES = {
    errno.ENOSPC: "free some space, or keep the run elsewhere with run_dir=DIR",
    errno.EDQUOT: "free some space, or keep the run elsewhere with run_dir=DIR",
    errno.EACCES: "choose a path that you may use, for a run with run_dir=DIR",
    errno.EPERM: "choose a path that you may use, for a run with run_dir=DIR",
    errno.EROFS: "choose a path that can be written, for a run with run_dir=DIR",
}


def explain(error: BaseException) -> str | None:
    """One sentence for a user's mistake; None for a bug, which deserves its traceback."""
    if isinstance(error, ValueError) and _was_raised_here(error):
        return one_line(str(error))
    if isinstance(error, OSError) and error.errno in _DISK_CURES:
        path = error.filename if error.filename is not None else "a file"
        return f"{path}: {error.strerror}; {_DISK_CURES[error.errno]}"
    return None


def lost_contact(error: BaseException) -> bool:
    """Whether this rank failed only because another one is gone."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.distributed.is_available():
        return False
    if isinstance(error, torch.distributed.DistError):
        return True
    told = str(error)
    return isinstance(error, RuntimeError) and "gloo" in told and "peer" in told


def _was_raised_here(error: BaseException) -> bool:
    """Whether a ``raise`` statement of this project raised it.

    A ValueError out of another library is a bug, and so is one that the interpreter itself
    raised in our code, e.g. from ``int("x")``: only what we wrote down is meant for users.
    """
    place = error.__traceback__
    if place is None:
        return False
    while place.tb_next is not None:
        place = place.tb_next
    code = place.tb_frame.f_code
    return code.co_filename.startswith(_OUR_CODE) and code.co_code[place.tb_lasti] in _RAISE


def one_line(text: str) -> str:
    """The text without line breaks."""
    return " ".join(text.split())


def nearest(name: str, candidates: Collection[str], *, cutoff: float = 0.6) -> str | None:
    """The candidate that looks most like a misspelt name; None if none looks like it."""
    extended = [candidate for candidate in candidates if name and candidate.startswith(name)]
    if extended:
        return min(extended, key=len)
    matches = get_close_matches(name, candidates, n=1, cutoff=cutoff)
    return matches[0] if matches else None


def nearest_key(wrong: str, known: Collection[str]) -> str | None:
    """The dotted key that was probably meant.

    In this order: a sibling that looks alike (``optim.lrr``), the same last name elsewhere
    (``lr``), a whole path that looks alike (``optm.lrr``), a last name that looks alike.
    """
    parent, _, leaf = wrong.rpartition(".")
    siblings = {_leaf(key): key for key in known if key.rpartition(".")[0] == parent}
    alike = nearest(leaf, siblings)
    if alike is not None:
        return siblings[alike]
    elsewhere = [key for key in known if _leaf(key) == leaf]
    if elsewhere:
        return elsewhere[0]
    alike = nearest(wrong, known, cutoff=0.75)
    if alike is not None:
        return alike
    leaves = {_leaf(key): key for key in known}
    alike = nearest(leaf, leaves, cutoff=0.75)
    return None if alike is None else leaves[alike]


def _leaf(key: str) -> str:
    return key.rpartition(".")[2]
