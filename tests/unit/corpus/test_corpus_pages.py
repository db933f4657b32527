"""Essays that came as images: found, grouped into pages, opened once, compared by bytes, split."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from aes.corpus import AesDataset, Reading, split_essays
from aes.corpus.duplicates import find_shared_pages
from aes.records import Essay

CONF = Path(__file__).parents[3] / "conf" / "data" / "aes_dataset.yaml"
TEXT = "春天\n" + "".join(chr(0x4E00 + i * 7) for i in range(300))
DEFAULTS = yaml.safe_load(CONF.read_text(encoding="utf-8"))


class Opener:
    """Opens with Pillow and counts."""

    def __init__(self) -> None:
        self.opened: Counter[str] = Counter()

    def __call__(self, path: Path) -> object:
        self.opened[path.name] += 1
        try:
            with Image.open(path) as image:
                return image.convert("RGB")
        except OSError as error:
            raise ValueError(f"{path} cannot be read as an image: save it anew.") from error


def write_folder(
    root: Path, rows: Mapping[str, int], names: Mapping[str, int | str | bytes]
) -> Path:
    """``names`` maps a file to the grey level of an image, to a text, or to its bytes."""
    (root / "essays").mkdir(parents=True)
    lines = "".join(f"{id}\t春天\t{score}\n" for id, score in rows.items())
    (root / "scores.txt").write_bytes(lines.encode("gb18030"))
    for name, content in names.items():
        path = root / "essays" / name
        if isinstance(content, int):
            Image.new("L", (8 + content, 8), content).save(path)
        else:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def read(root: Path, opener: Opener | None = None, **keys: Any) -> Reading:
    conf = {k: v for k, v in DEFAULTS.items() if k not in ("defaults", "_target_", "root")}
    return AesDataset(root=root, **(conf | {"split_seed": 1} | keys)).read(
        find_undrawable=lambda text: list("春"),
        open_page=opener or Opener(),
        ranges={"holistic": (0, 100)},
    )


def found(reading: Reading) -> list[tuple[str, str, str, str]]:
    return [(p.code, p.id, p.file, p.action) for p in reading.problems]


def names_of(essay: Essay) -> list[str]:
    return [page.name for page in essay.pages]


@pytest.mark.parametrize("suffix", ["png", "jpg", "JPEG", "webp", "tif", "TIFF", "bmp"])
def test_one_page_of_any_format(suffix: str, tmp_path: Path) -> None:
    root = write_folder(tmp_path / "d", {"A-0001": 75}, {f"A-0001.{suffix}": 7})
    reading = read(root)
    assert found(reading) == []
    (essay,) = reading.essays
    assert (essay.title, essay.text, essay.scores) == ("春天", "", {"holistic": 75})
    assert essay.pages == (root / "essays" / f"A-0001.{suffix}",)
    assert essay.file == f"essays/A-0001.{suffix}" and essay.source == "A-0001"


def test_pages_are_absolute_and_in_natural_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(tmp_path / "d", {"A": 75}, {f"A-{n}.png": n for n in range(1, 12)})
    monkeypatch.chdir(tmp_path)
    opener = Opener()
    (essay,) = read(Path("d"), opener).essays
    assert names_of(essay) == [f"A-{n}.png" for n in range(1, 12)]
    assert all(page.is_absolute() for page in essay.pages)
    assert opener.opened == dict.fromkeys(names_of(essay), 1)


def test_a_listed_id_is_not_taken_for_a_page_number(tmp_path: Path) -> None:
    root = write_folder(
        tmp_path / "d",
        {"A": 70, "A-2": 75},
        {"A-1.png": 1, "A-2.png": 2, "A-2-1.png": 3, "A-2-2.png": 4},
    )
    essays = read(root, on_problem="keep").essays
    assert [names_of(essay) for essay in essays] == [["A-1.png"], ["A-2-1.png", "A-2-2.png"]]


def test_files_that_are_no_essays_are_no_problem(tmp_path: Path) -> None:
    junk: dict[str, int | str | bytes] = dict.fromkeys(
        (".DS_Store", "Thumbs.db", "README", "._A-1.png", "notes.docx"), b"x"
    )
    root = write_folder(tmp_path / "d", {"A-1": 75}, junk | {"A-1.png": 7})
    assert found(read(root)) == []


DEFECTS: dict[str, tuple[dict[str, int | str | bytes], list[str], tuple[str, str, str, str]]] = {
    "image without a row": (
        {"A-1.png": 1, "B.jpg": 2},
        ["A-1.png"],
        ("essay_without_row", "B", "essays/B.jpg", "dropped"),
    ),
    "gap": (
        {"A-1-1.png": 1, "A-1-3.png": 3},
        ["A-1-1.png", "A-1-3.png"],
        ("missing_page", "A-1", "essays/A-1-1.png", "kept"),
    ),
    "first page missing": (
        {"A-1-2.png": 2},
        ["A-1-2.png"],
        ("missing_page", "A-1", "essays/A-1-2.png", "kept"),
    ),
    "two files for one page": (
        {"A-1-1.jpg": 1, "A-1-01.png": 2, "A-1-2.png": 3},
        ["A-1-01.png", "A-1-2.png"],
        ("ambiguous_files", "A-1", "essays/A-1-01.png", "kept"),
    ),
    "with and without a number": (
        {"A-1.png": 1, "A-1-1.png": 2},
        ["A-1-1.png"],
        ("ambiguous_files", "A-1", "essays/A-1-1.png", "kept"),
    ),
    "broken": (
        {"A-1.png": b"\x89PNG\r\n\x1a\nnonsense"},
        [],
        ("unreadable_page", "A-1", "essays/A-1.png", "dropped"),
    ),
    "second page broken": (
        {"A-1-1.png": 1, "A-1-2.jpg": b""},
        [],
        ("unreadable_page", "A-1", "essays/A-1-2.jpg", "dropped"),
    ),
}


@pytest.mark.parametrize("name", DEFECTS)
def test_defect_is_found_once_and_alone(name: str, tmp_path: Path) -> None:
    files, kept, expected = DEFECTS[name]
    root = write_folder(tmp_path / "d", {"A-1": 75}, files)
    reading = read(root, on_problem="keep")
    assert found(reading) == [expected]
    assert [n for e in reading.essays if e.id == "A-1" for n in names_of(e)] == kept
    assert str(tmp_path) not in reading.problems[0].message and reading.problems[0].cure
    dropped = read(root, on_problem="drop")
    assert {p.action for p in dropped.problems} == {"dropped"}
    assert dropped.counts["read"] == dropped.counts["kept"] + dropped.counts["dropped"]
    assert read(root, on_problem="error").stops_run


def test_of_text_and_image_the_text_counts(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "d", {"A-1": 75}, {"A-1.txt": TEXT, "A-1.png": 1})
    reading = read(root, on_problem="keep")
    assert reading.essays[0].text and not reading.essays[0].pages
    assert ("ambiguous_files", "A-1", "essays/A-1.txt", "kept") in found(reading)
    assert read(root).essays == ()


def test_broken_twins_are_broken_and_not_copies(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "d", {"A": 70, "B": 80}, {"A.png": b"x", "B.png": b"x"})
    assert [p.code for p in read(root).problems] == ["unreadable_page"] * 2


@pytest.mark.parametrize(("score", "code"), [(70, "duplicate"), (80, "conflicting_scores")])
def test_equal_files_are_copies(score: int, code: str, tmp_path: Path) -> None:
    pages = {"A-1.png": 1, "A-2.png": 2, "B-1.png": 1, "B-2.png": 2, "C.png": 3, "D.png": 4}
    root = write_folder(tmp_path / "d", {"A": 70, "B": score, "C": 70, "D": 80}, pages)
    reading = read(root)
    assert {p.code for p in reading.problems} == {code}
    assert [e.id for e in reading.essays] == (["A", "C", "D"] if score == 70 else ["C", "D"])


def test_one_shared_page_is_a_near_copy(tmp_path: Path) -> None:
    pages = {"A-1.png": 1, "A-2.png": 2, "B-1.png": 1, "B-2.png": 3}
    reading = read(write_folder(tmp_path / "d", {"A": 70, "B": 70}, pages))
    assert found(reading) == [("near_duplicate", "B", "essays/B-1.png", "kept")]
    assert "50%" in reading.problems[0].message


def test_split_parts_images_but_not_equal_ones(tmp_path: Path) -> None:
    levels = {f"E{i}": i // 2 for i in range(40)}  # each image stands under two ids
    names = {f"{id}.png": grey for id, grey in levels.items()}
    root = write_folder(tmp_path / "d", dict.fromkeys(levels, 70), names)
    essays = [Essay(id=id, pages=(root / "essays" / f"{id}.png",)) for id in levels]
    split = split_essays(essays, val_fraction=0.25, test_fraction=0.0, seed=1)
    assert (len(split.train), len(split.val)) == (30, 10)
    assert not {levels[e.id] for e in split.train} & {levels[e.id] for e in split.val}


def test_copies_find_each_other_past_those_that_share_a_page(tmp_path: Path) -> None:
    for grey in (1, 2):
        Image.new("L", (8, 8), grey).save(tmp_path / f"{grey}.png")
    one, two = tmp_path / "1.png", tmp_path / "2.png"
    overlaps = find_shared_pages([(one, two), (one,), (), (two,), (two, one)])
    assert [(o.first, o.second) for o in overlaps if o.is_same] == [(0, 4)]
    assert {o.shared for o in overlaps} == {1.0}
