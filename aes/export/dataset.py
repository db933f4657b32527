"""Parts of a data set as Examples -> a folder that LLaMA-Factory loads as it stands.

    FOLDER/dataset_info.json      a data set for each part: <name>_train, <name>_val, <name>_test
    FOLDER/<part>.json            its records, sharegpt
    FOLDER/images/<part>/N-P.png  page P of record N, in the size and with the pixels that the model
                                  sees
    FOLDER/llamafactory.yaml      what LLaMA-Factory has to be told, so that nothing is cut

Written record by record, so that memory does not grow with their number. Knows no corpus and no
model; whoever calls has checked, split and measured.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from aes.export.sharegpt import record, registry_entry
from aes.records import Example

if TYPE_CHECKING:
    from aes.data.processor import Processor
    from aes.page import PageRenderer

REGISTRY_FILE = "dataset_info.json"
SETTINGS_FILE = "llamafactory.yaml"


@dataclass
class WrittenPart:
    """What became of one part; counts grow while it is written.

    Attributes:
        num_samples: Records written.
        num_images: Of all records.
        num_unanswered: Examples without an answer, left out: there is nothing to learn from them.
        num_broken_marks: Marks in texts that a space was put into; see ``record``.
        max_pixels: Of the largest image; 0 without one.
        learns_last_only: Whether some record has earlier answers that are not to be learned.
    """

    num_samples: int = 0
    num_images: int = 0
    num_unanswered: int = 0
    num_broken_marks: int = 0
    max_pixels: int = 0
    learns_last_only: bool = False


class DatasetWriter:
    """Writes parts into a folder, one after the other, and closes it with the registry.

    Args:
        folder: Exists and is empty.
        name: Of the data set; a part's is ``<name>_<part>``.
        has_images: Whether any part has some; then every record names its images, even if none.
        renderer: Draws or opens the pages.
        processor: Writes texts as they are tokenised.
    """

    def __init__(
        self,
        folder: Path,
        *,
        name: str,
        has_images: bool,
        renderer: PageRenderer,
        processor: Processor,
    ) -> None:
        self.folder, self.name, self.has_images = folder, name, has_images
        self.renderer, self.processor = renderer, processor
        self.parts: dict[str, WrittenPart] = {}

    def write(self, part: str, examples: Iterable[Example]) -> WrittenPart:
        """Write one part; an empty one leaves no file.

        Raises:
            ValueError: If a page cannot be opened.
        """
        written = self.parts[part] = WrittenPart()
        path = self.folder / f"{part}.json"
        with path.open("w", encoding="utf-8") as file:
            for example in examples:
                if not example.answer:
                    written.num_unanswered += 1
                    continue
                file.write(",\n" if written.num_samples else "[\n")
                json.dump(self._record(example, part), file, ensure_ascii=False)
            file.write("\n]\n")
        if not written.num_samples:
            path.unlink()
        return written

    def _record(self, example: Example, part: str) -> dict[str, Any]:
        """The example's record, its pages saved and everything counted."""
        written = self.parts[part]
        written.num_samples += 1
        images = []
        for place, page in enumerate(example.pages, start=1):
            # By number, since an id may hold what no file name can.
            name = f"{written.num_samples:06d}-{place}"
            path = self.renderer.save(page, self.folder / "images" / part, name)
            width_px, height_px = self.renderer.size(page)
            written.max_pixels = max(written.max_pixels, width_px * height_px)
            images.append(path.relative_to(self.folder).as_posix())
        found, num_broken = record(example, images, processor=self.processor)
        written.num_images += len(images)
        written.num_broken_marks += num_broken
        has_history = any(message.role == "assistant" for message in example.messages)
        written.learns_last_only |= has_history and not example.learns_all_turns
        if not self.has_images:
            del found["images"]
        return found

    def close(self, *, template: str, max_tokens: int) -> None:
        """Write the registry, and the settings that keep every sample whole.

        Args:
            template: LLaMA-Factory's name of the model's chat format.
            max_tokens: Of the longest sample, as we count them.
        """
        names = {part: f"{self.name}_{part}" for part, w in self.parts.items() if w.num_samples}
        registry = {
            name: registry_entry(f"{part}.json", has_images=self.has_images)
            for part, name in names.items()
        }
        text = json.dumps(registry, ensure_ascii=False, indent=2)
        (self.folder / REGISTRY_FILE).write_text(f"{text}\n", encoding="utf-8")
        largest = max(part.max_pixels for part in self.parts.values())
        settings = {
            "dataset_dir": ".",  # the folder may be moved
            "dataset": names.get("train"),
            "eval_dataset": names.get("val"),
            "template": template,
            "cutoff_len": max_tokens + 1,  # it learns a line feed behind each answer's end
            "image_max_pixels": largest or None,
            "mask_history": any(p.learns_last_only for p in self.parts.values()) or None,
        }
        text = yaml.safe_dump(
            {key: value for key, value in settings.items() if value is not None},
            allow_unicode=True,
            sort_keys=False,
        )
        (self.folder / SETTINGS_FILE).write_text(f"{_SETTINGS_HEAD}\n{text}", encoding="utf-8")


_SETTINGS_HEAD = (
    "# With these LLaMA-Factory resizes no page and cuts no sample; add the model and the rest.\n"
    "# Start it in this folder, or name the folder in dataset_dir."
)
