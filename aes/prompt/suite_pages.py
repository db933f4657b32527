"""An Example with pages -> the same question with something changed on the pages.

Planned pages are planned anew; an image file is painted on and kept as a new file. Knows no
attack's name and no score.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

from PIL import Image

from aes.page import PageRenderer
from aes.page.font import font_path
from aes.page.overlay import Place, note_on_image, note_on_layouts
from aes.records import Example, Message, Page, PageLayout

PNG_COMPRESS_LEVEL = 1


class PageEditor:
    """Changes the pages of Examples.

    Args:
        renderer: Opens image files, and says how pages are set.
        image_dir: Folder for the images that are made; it must outlive the Examples.
    """

    def __init__(self, renderer: PageRenderer, image_dir: Path) -> None:
        self.renderer = renderer
        self.image_dir = image_dir
        self._num_written = 0

    def write_note(self, example: Example, note: str, *, place: Place, ink: int) -> Example:
        """The Example with ``note`` on its pages; see ``aes.page.overlay``."""
        font = font_path(self.renderer.spec.font or "sans")
        pages = example.pages
        if all(isinstance(page, PageLayout) for page in pages):
            layouts = cast(Sequence[PageLayout], pages)
            spec = self.renderer.spec
            return with_pages(
                example,
                note_on_layouts(layouts, note, place=place, spec=spec, font=font, ink=ink),
            )
        at = {"begin": 0, "middle": (len(pages) - 1) // 2, "end": len(pages) - 1}[place]
        return self._edit_images(
            example, [at], lambda image: note_on_image(image, note, place=place, font=font, ink=ink)
        )

    def scale_images(self, example: Example, factor: float) -> Example:
        """The Example with its image files scaled, as if taken from further away."""
        return self._edit_images(
            example,
            range(len(example.pages)),
            lambda image: image.resize(
                (round(image.width * factor), round(image.height * factor)),
                Image.Resampling.LANCZOS,
            ),
        )

    def _edit_images(
        self,
        example: Example,
        numbers: Sequence[int],
        edit: Callable[[Image.Image], Image.Image],
    ) -> Example:
        pages = list(example.pages)
        for i in numbers:
            page = pages[i]
            assert not isinstance(page, PageLayout), "a page is planned or an image, not both"
            pages[i] = self._keep(edit(self.renderer.open(page)))
        return with_pages(example, pages)

    def _keep(self, image: Image.Image) -> Path:
        self.image_dir.mkdir(parents=True, exist_ok=True)
        self._num_written += 1
        path = self.image_dir / f"{self._num_written:06d}.png"
        image.save(path, compress_level=PNG_COMPRESS_LEVEL)
        return path


def reseed(example: Example) -> Example:
    """The Example with another noise on every planned page."""
    return with_pages(
        example,
        [
            dataclasses.replace(page, seed=page.seed + 1) if isinstance(page, PageLayout) else page
            for page in example.pages
        ],
    )


def with_pages(example: Example, pages: Sequence[Page]) -> Example:
    """The Example with other pages, however many, where the first of its own stood."""
    messages = []
    for message in example.messages:
        texts = [part for part in message.parts if isinstance(part, str)]
        if len(texts) == len(message.parts):
            messages.append(message)
            continue
        assert not isinstance(message.parts[0], str), "pages stand before the question"
        messages.append(Message(message.role, (*pages, *texts)))
    return dataclasses.replace(example, messages=tuple(messages))
