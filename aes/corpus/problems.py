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
noted      kept              kept                     kept
========== ================= ======================== =====================

"Mended" is what costs nothing to put right: a stray control or private-use character is removed
(in AES-Dataset three essays carry them behind their paragraphs; dropping those would lose good
data), a row that stands twice counts once, near-duplicates are put on one side of every split.
"Noted" is what does no harm and yet should be known, as a setting of another tool's that is not
used here.
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
Fate = Literal["unusable", "doubtful", "mended", "noted"]

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
    "conflicting_labels": (
        "doubtful",
        "Find out which label is right and delete the samples with another.",
    ),
    "several_answers": ("mended", "Nothing, if all answers are right; they stay on one side."),
    "near_duplicate": ("mended", "Delete one of the two if they are versions of one essay."),
    "broken_json": ("unusable", "Mend the line, or delete it."),
    "malformed_sample": ("unusable", "Write the sample as the format has it, or delete it."),
    "other_format": ("unusable", "Keep samples of one format in a file, and choose data for it."),
    "roles_out_of_turn": ("unusable", "Let user and assistant take turns, the user first."),
    "tool_turns": ("unusable", "Delete the sample: calls of tools are not trained here."),
    "unsupported_media": ("unusable", "Delete the sample: only images go with text here."),
    "special_token": ("unusable", "Remove the token, which belongs to the chat template."),
    "no_answer": ("unusable", "Add the answer, or delete the sample."),
    "empty_answer": ("unusable", "Add the answer, or delete the sample."),
    "empty_question": ("doubtful", "Add the question, or delete the sample."),
    "unknown_label": ("unusable", "Correct the answer, or add it to data.labels."),
    "markers_and_images": ("unusable", "Write one <image> in a question for each image."),
    "missing_image": ("unusable", "Add the image, or correct its path or data.root."),
    "image_outside_root": (
        "unusable",
        "Put the image below data.root, or set data.root to a folder that holds it.",
    ),
    "unreadable_image": ("unusable", "Save the image anew as PNG or JPEG."),
    "image_for_text_model": (
        "unusable",
        "Choose a model that reads images, such as model=qwen3_vl_4b, or leave these samples out.",
    ),
    "repeated_id": ("mended", "Give each sample an id of its own."),
    "unused_setting": ("noted", "Nothing need be done; delete it if you like."),
    "not_chosen": ("noted", "Take num_samples out of the registry to read all."),
}
"""What can be wrong: its code, what it means for the essay or sample, and its cure."""

_HARMLESS: frozenset[Fate] = frozenset({"mended", "noted"})


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


def act(fate: Fate, on_problem: OnProblem) -> Action:
    """What becomes of an essay or sample with a problem."""
    if fate == "noted":
        return "kept"
    if on_problem == "error":
        return "error"
    if fate == "mended" or (fate == "doubtful" and on_problem == "keep"):
        return "kept"
    return "dropped"


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
        action = act(fate, self._on_problem)
        self.problems.append(
            Problem(
                code=code, id=id, file=file, line=line, message=message, cure=cure, action=action
            )
        )

    def is_sound(self, id: str) -> bool:
        """Whether nothing speaks against the essay so far, whatever the policy makes of it."""
        return self._fates.get(id, set()) <= _HARMLESS

    def keeps(self, id: str) -> bool:
        """Whether the policy leaves an essay or sample in; under ``error`` as under ``drop``."""
        spared = _HARMLESS | {"doubtful"} if self._on_problem == "keep" else _HARMLESS
        return self._fates.get(id, set()) <= spared

    def close(self, essays: Iterable[Essay]) -> Reading:
        """Applies the policy: the essays that stay, with the list of problems.

        Under ``error`` the essays are those that ``drop`` would leave.
        """
        given = list(essays)
        kept = tuple(e for e in given if self.keeps(e.id))
        num_read = len({e.id for e in given} | set(self._fates))
        return self.close_counted(kept, num_read=num_read, num_kept=len(kept))

    def close_counted(
        self, kept: tuple[Essay, ...] = (), *, num_read: int, num_kept: int
    ) -> Reading:
        """The list of problems with counts; of samples, which are kept elsewhere, these alone."""
        counts = {"read": num_read, "kept": num_kept, "dropped": num_read - num_kept}
        codes = Counter(problem.code for problem in self.problems)
        return Reading(kept, tuple(self.problems), counts | dict(sorted(codes.items())))


def write_check(reading: Reading, path: Path) -> None:
    """Writes ``check.json``: problems and counts. A reader never sees half a file."""
    check = {"problems": [asdict(p) for p in reading.problems], "counts": reading.counts}
    write_atomically(path, (json.dumps(check, ensure_ascii=False, indent=1) + "\n").encode())
