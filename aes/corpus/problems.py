"""Findings about data -> Problems with a cure and an action, and the file that lists them.

``PROBLEMS`` is the table of everything that a data set check can find. This module knows neither
how something is found nor what an essay is; it keeps the list and applies ``on_problem``.

What becomes of an essay depends on the kind of problem and on the policy:

========== ================= ======================== =====================
Fate       ``error``         ``drop``                 ``keep``
========== ================= ======================== =====================
unusable   the run stops     dropped                  dropped, impossible to keep
doubtful   the run stops     dropped                  kept
mended     the run stops     kept, harm undone        kept, harm undone
========== ================= ======================== =====================

"Mended" is what costs nothing to put right: a stray control or private-use character is removed
(in AES-Dataset three essays carry them behind their paragraphs; dropping those would lose good
data), a row that stands twice counts once, near-duplicates are put on one side of every split.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from aes.files import write_atomically
from aes.records import Action, Essay, Problem

OnProblem = Literal["error", "drop", "keep"]
Fate = Literal["unusable", "doubtful", "mended"]

PROBLEMS: dict[str, tuple[Fate, str]] = {
    "undecodable_row": ("unusable", "Save the list of scores in GB18030 and retype this row."),
    "malformed_row": ("unusable", "Write the row as id, title and score with a tab between them."),
    "duplicate_row": ("mended", "Delete one of the rows."),
    "conflicting_rows": ("doubtful", "Delete all rows of this id but the right one."),
    "score_not_a_number": ("unusable", "Write the score in digits."),
    "score_not_whole": ("unusable", "Round the score to a whole number."),
    "score_out_of_range": ("unusable", "Correct the score, or choose the rubric it belongs to."),
    "missing_essay_file": ("unusable", "Add the file, or delete the row."),
    "essay_without_row": ("unusable", "Add a row for this file, or delete the file."),
    "undecodable_essay": ("unusable", "Save the file in UTF-8."),
    "empty_essay": ("unusable", "Add the essay's text, or delete the file and its row."),
    "ambiguous_files": ("doubtful", "Keep the text or the images, and one file a page."),
    "missing_page": ("doubtful", "Add the page, or number the pages from 1 without a gap."),
    "unreadable_page": (
        "unusable",
        "Save, photograph or scan the page anew, as a PNG or JPEG file.",
    ),
    "title_not_in_file": (
        "doubtful",
        "Put the essay with this title into the file, or mend the row.",
    ),
    "too_short": ("doubtful", "Complete the text, or lower data.min_chars."),
    "too_long": ("doubtful", "Split or shorten the text, or raise data.max_chars."),
    "stray_character": ("mended", "Remove the characters from the file."),
    "lost_character": ("mended", "Look up in the original what stood there."),
    "undrawable_character": (
        "doubtful",
        "Replace the characters, or set page.font to a font file that has them.",
    ),
    "duplicate": ("doubtful", "Delete one of the copies."),
    "conflicting_scores": ("doubtful", "Find out which score is right and delete the other copy."),
    "near_duplicate": ("mended", "Delete one of the two if they are versions of one essay."),
}
"""What can be wrong: its code, what it means for the essay, and its cure."""


@dataclass(frozen=True)
class Reading:
    """What reading a corpus gave.

    Attributes:
        essays: The essays to go on with, in the corpus's order.
        problems: All that is wrong, dropped essays included.
        counts: ``read`` = ``kept`` + ``dropped`` essays, and the number of problems of each code.
            An essay counts as read if a row or a file names it.
    """

    essays: tuple[Essay, ...]
    problems: tuple[Problem, ...]
    counts: dict[str, int]

    @property
    def stops_run(self) -> bool:
        """Whether the policy asks to stop: every problem is listed before."""
        return any(problem.action == "error" for problem in self.problems)


class Ledger:
    """Takes down problems and what they mean for each essay.

    Args:
        on_problem: The policy.
    """

    def __init__(self, on_problem: OnProblem) -> None:
        self.problems: list[Problem] = []
        self._on_problem = on_problem
        self._fates: dict[str, set[Fate]] = {}

    def report(self, code: str, *, id: str, file: str, line: int = 0, message: str) -> None:
        """Adds one problem; ``code`` is a key of ``PROBLEMS``, the rest as in ``Problem``."""
        fate, cure = PROBLEMS[code]
        if id:
            self._fates.setdefault(id, set()).add(fate)
        action = self._act(fate)
        self.problems.append(
            Problem(
                code=code, id=id, file=file, line=line, message=message, cure=cure, action=action
            )
        )

    def is_sound(self, id: str) -> bool:
        """Whether nothing speaks against the essay so far, whatever the policy makes of it."""
        return self._fates.get(id, set()) <= {"mended"}

    def close(self, essays: Iterable[Essay]) -> Reading:
        """Applies the policy: the essays that stay, with the list of problems.

        Under ``error`` the essays are those that ``drop`` would leave.
        """
        given = list(essays)
        spared: set[Fate] = {"mended", "doubtful"} if self._on_problem == "keep" else {"mended"}
        kept = tuple(e for e in given if self._fates.get(e.id, set()) <= spared)
        num_read = len({e.id for e in given} | set(self._fates))
        counts = {"read": num_read, "kept": len(kept), "dropped": num_read - len(kept)}
        codes = Counter(problem.code for problem in self.problems)
        return Reading(kept, tuple(self.problems), counts | dict(sorted(codes.items())))

    def _act(self, fate: Fate) -> Action:
        if self._on_problem == "error":
            return "error"
        if fate == "mended" or (fate == "doubtful" and self._on_problem == "keep"):
            return "kept"
        return "dropped"


def write_check(reading: Reading, path: Path) -> None:
    """Writes ``check.json``: problems and counts. A reader never sees half a file."""
    check = {"problems": [asdict(p) for p in reading.problems], "counts": reading.counts}
    write_atomically(path, (json.dumps(check, ensure_ascii=False, indent=1) + "\n").encode())
