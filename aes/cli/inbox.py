"""Submissions -> Examples for the Grader, one after the other as it asks for them.

What cannot be graded is written down instead, and the others go on. Wiring only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from PIL import Image

from aes.corpus.submissions import Submission, check_submission
from aes.page import PageRenderer, PageSpec
from aes.records import Essay, Example, Picture
from aes.report.prediction_lines import LineWriter

if TYPE_CHECKING:
    from aes.data.processor import Processor
    from aes.prompt.build import ExampleBuilder


class OpenedPages(PageRenderer):
    """Opens a page once, though its check, its length and the model each ask for it.

    What becomes of the file in between does no harm either.
    """

    def __init__(self, spec: PageSpec) -> None:
        super().__init__(spec)
        self._opened: dict[Picture, Image.Image] = {}

    def open(self, source: Picture) -> Image.Image:
        """As ``PageRenderer.open``, but the same image each time: not to be changed."""
        if source not in self._opened:
            self._opened[source] = super().open(source)
        return self._opened[source]

    def forget(self) -> None:
        """Give the memory back."""
        self._opened.clear()


@dataclass
class Inbox:
    """Submissions on their way to the Grader: what cannot be graded is written down instead.

    Attributes:
        pages: What the Engine opens pages with, too.
        warnings: What was mended, by the ids of essays that are being graded.
        errors: Why some could not be, by their ids.
        num_warned: Essays graded with warnings.
    """

    submissions: list[Submission]
    builder: ExampleBuilder
    pages: OpenedPages
    processor: Processor
    max_tokens: int
    writer: LineWriter
    warnings: dict[str, tuple[str, ...]] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    num_warned: int = 0

    @property
    def num_essays(self) -> int:
        """How many will come, but for those whose pages turn out to be bad."""
        return sum(submission.essay is not None for submission in self.submissions)

    def examples(self) -> Iterator[Example]:
        """Questions about the essays that can be graded.

        Each is to be opened by the Engine before the next is taken.
        """
        for submission in self.submissions:
            self.pages.forget()
            checked = check_submission(submission, self.pages)
            error, example = checked.error, None
            if checked.essay is not None:
                try:
                    example = self._fit(checked.essay)
                except ValueError as reason:
                    error = f"{checked.place}: {reason}"
            if example is None:
                self.errors[checked.id] = error
                self.writer.write_error(checked.id, error, warnings=checked.warnings)
            else:
                self.warnings[checked.id] = checked.warnings
                yield example

    def _fit(self, essay: Essay) -> Example:
        """The essay within the limit of tokens, in smaller type if need be."""
        from aes.data.prepare import fit_essay

        fitted = fit_essay(
            essay,
            builder=self.builder,
            processor=self.processor,
            max_tokens=self.max_tokens,
            may_shrink=True,
        )
        require_room(len(fitted.encoded.input_ids), self.max_tokens)
        return fitted.example


def require_room(num_tokens: int, max_tokens: int) -> None:
    """Refuse what is longer than the limit.

    Raises:
        ValueError: If it is.
    """
    if num_tokens > max_tokens:
        raise ValueError(
            f"it takes {num_tokens} tokens, more than data.max_tokens={max_tokens}: "
            "raise that, or hand in less."
        )
