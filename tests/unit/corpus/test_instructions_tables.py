"""Tables give samples whose images are places in a mapped file; Parquet is converted once."""

import json
import os
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import pytest
from datasets import Dataset, DatasetDict, Features, Image, List, Value
from pyarrow import parquet

from aes.page import image_bytes
from aes.records import FREE, Message, TableImage

QUESTION = "图片中的诊断结果是怎样?"


@pytest.fixture
def captions(encode_image) -> Dataset:
    """Three images with captions, and a column that nobody asks for."""
    return Dataset.from_dict(
        {
            "id": ["a", "b", "c"],
            "image": [{"bytes": encode_image(c)} for c in ("red", "green", "blue")],
            "caption": ["一", "二", "三"],
            "source": ["x", "y", "z"],
        },
        features=Features(
            {
                "id": Value("string"),
                "image": Image(),
                "caption": Value("string"),
                "source": Value("string"),
            }
        ),
    )


def save(rows: Dataset, path: Path) -> Path:
    """As Parquet, or as Arrow as ``datasets`` writes it."""
    if path.suffix == ".parquet":
        rows.to_parquet(str(path))
        return path
    rows.save_to_disk(str(path.parent / "written"))
    return (path.parent / "written" / "data-00000-of-00001.arrow").replace(path)


def with_images(cells: list, feature) -> Dataset:
    columns = {
        "image": cells,
        "id": [str(i) for i in range(len(cells))],
        "caption": ["答"] * len(cells),
    }
    features = {"image": feature, "id": Value("string"), "caption": Value("string")}
    return Dataset.from_dict(columns, features=Features(features))


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_a_caption_answers_the_question_below_its_image(
    read, captions: Dataset, tmp_path: Path, encode_image, name: str
) -> None:
    samples = read("medtrinity", path=save(captions, tmp_path / name))
    assert [sample.id for sample in samples] == ["a", "b", "c"]
    assert [sample.number for sample in samples] == [1, 2, 3]
    for row, (sample, colour) in enumerate(zip(samples, ("red", "green", "blue"), strict=True)):
        assert sample.findings == ()
        (message,) = sample.example.messages
        page, question = message.parts
        assert (message.role, question) == ("user", QUESTION)
        assert (page.row, page.column, page.number) == (row, "image", 0)
        assert image_bytes(page) == encode_image(colour)
        assert sample.example.answer == (("一二三"[row], FREE),)


def test_parquet_is_converted_once_and_anew_when_it_changed(
    make_data, captions: Dataset, tmp_path: Path
) -> None:
    data = make_data("medtrinity", path=save(captions, tmp_path / "a.parquet"))
    cache = tmp_path / "cache"

    def arrow_of_first() -> Path:
        return next(data.samples(cache=cache)).example.pages[0].path

    arrow = arrow_of_first()
    written_ns = arrow.stat().st_mtime_ns
    assert (arrow_of_first(), arrow.stat().st_mtime_ns) == (arrow, written_ns)
    assert [path.suffix for path in arrow.parent.iterdir()] == [".arrow"], "no draft is left"
    assert "source" not in Dataset.from_file(str(arrow)).column_names
    save(captions.select([2, 1]), tmp_path / "a.parquet")
    assert [sample.id for sample in data.samples(cache=cache)] == ["c", "b"]


def test_several_files_are_one_set(read, captions: Dataset, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    save(captions.select([0]), folder / "train-00000-of-00002.parquet")
    save(captions.select([1, 2]), folder / "train-00001-of-00002.parquet")
    samples = read("medtrinity", path=folder)
    assert [sample.id for sample in samples] == ["a", "b", "c"]
    assert [sample.example.pages[0].row for sample in samples] == [0, 0, 1]
    save(captions, folder / "test-00000-of-00001.parquet")
    with pytest.raises(ValueError, match=r"holds test, train: name one by data\.path"):
        read("medtrinity", path=folder)
    assert len(read("medtrinity", path=folder / "train-*.parquet")) == 3


def test_what_datasets_saved_is_read_where_it_lies(read, captions: Dataset, tmp_path: Path) -> None:
    captions.save_to_disk(str(tmp_path / "saved"), num_shards=2)
    samples = read("medtrinity", path=tmp_path / "saved")
    assert [sample.id for sample in samples] == ["a", "b", "c"]
    assert {sample.example.pages[0].path.parent for sample in samples} == {tmp_path / "saved"}
    DatasetDict(train=captions, test=captions).save_to_disk(str(tmp_path / "parts"))
    with pytest.raises(ValueError, match=r"holds test, train: name one of them by data\.path"):
        read("medtrinity", path=tmp_path / "parts")


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ("{", "is not as datasets writes it"),
        ("[]", "is not as datasets writes it"),
        ("{}", "is not as datasets writes it"),
        ('{"_data_files": [{}]}', "is not as datasets writes it"),
        ('{"_data_files": [{"filename": 1}]}', "is not as datasets writes it"),
        ('{"_data_files": [{"filename": "../a.arrow"}]}', "which is not in its folder"),
        ('{"_data_files": [{"filename": "gone.arrow"}]}', "which is not in its folder"),
        ('{"_data_files": [{"filename": "/a.arrow"}]}', "which is not in its folder"),
    ],
)
def test_a_state_that_names_no_tables_beside_it_is_refused(
    read, captions: Dataset, tmp_path: Path, state: str, message: str
) -> None:
    captions.save_to_disk(str(tmp_path / "saved"))
    save(captions, tmp_path / "a.arrow")
    (tmp_path / "saved" / "state.json").write_text(state)
    with pytest.raises(ValueError, match=rf"state\.json .*{message}") as caught:
        read("medtrinity", path=tmp_path / "saved")
    assert "\n" not in str(caught.value)


def test_columns_have_any_form_of_image(read, tmp_path: Path, encode_image) -> None:
    red, blue = encode_image("red"), encode_image("blue")
    (tmp_path / "a.png").write_bytes(red)
    forms = [
        (Image(), {"bytes": red}, [TableImage]),
        (Value("binary"), red, [TableImage]),
        (Value("string"), "a.png", [type(tmp_path)]),
        (List(Value("binary")), [red, blue], [TableImage, TableImage]),
        (List(Image()), [{"bytes": red}, {"bytes": blue}], [TableImage, TableImage]),
        (
            List({"bytes": Value("binary"), "path": Value("string")}),
            [{"bytes": None, "path": "a.png"}, {"bytes": blue, "path": "b.png"}],
            [type(tmp_path), TableImage],
        ),
        (List(Value("string")), ["a.png"], [type(tmp_path)]),
        ({"bytes": Value("binary")}, {"bytes": red}, [TableImage]),
        (
            {"bytes": Value("large_binary"), "path": Value("string"), "width": Value("int32")},
            {"bytes": red, "path": None, "width": 40},
            [TableImage],
        ),
        (Value("binary_view"), red, [TableImage]),
        (List(Value("binary"), length=2), [red, blue], [TableImage, TableImage]),
    ]
    keys = set()
    for number, (feature, cell, kinds) in enumerate(forms):
        path = save(with_images([cell], feature), tmp_path / f"{number}.parquet")
        (sample,) = read("medtrinity", path=path)
        assert sample.findings == (), feature
        pages = sample.example.pages
        assert [type(page) for page in pages] == kinds
        assert [image_bytes(page) for page in pages] == [red, blue][: len(kinds)]
        assert sample.example.messages == (Message("user", (*pages, QUESTION)),)
        keys.add(sample.keys)
    assert len(keys) == 2, "what an image is kept in makes no difference"


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        ({"image": None}, "missing_image", "has no image"),
        ({"image": {"bytes": b"GIF9"}}, "unreadable_image", "has bytes in image that are no image"),
        ({"image": {"bytes": b""}}, "unreadable_image", "has bytes in image that are no image"),
        (
            {"image": {"bytes": None, "path": "../x.png"}},
            "image_outside_root",
            "names ../x.png, which is outside {root}",
        ),
        (
            {"image": {"bytes": None, "path": "x.png"}},
            "missing_image",
            "names x.png, which is not in {root}",
        ),
        ({"caption": None}, "no_answer", "has no caption"),
        ({"caption": " "}, "empty_answer", "has an empty answer"),
    ],
)
def test_what_is_wrong_with_a_row_is_named(
    read, captions: Dataset, tmp_path: Path, changes: dict, code: str, message: str
) -> None:
    plain = captions.cast_column("image", Image(decode=False))
    rows = [*plain.select([0, 1]), {**plain[2], **changes}]
    table = Dataset.from_list(rows, features=captions.features).with_format("arrow")[:]
    path = tmp_path / "a.parquet"
    parquet.write_table(table, path)  # datasets would look for the files that are named
    *good, bad = read("medtrinity", path=path)
    assert all(sample.findings == () for sample in good)
    assert (bad.id, bad.example) == ("c", None)
    assert [found.code for found in bad.findings] == [code]
    assert bad.findings[0].message == f"Sample 3 {message.format(root=tmp_path)}."
    assert bad.findings[0].file == "a.parquet"


def test_a_caption_that_is_a_number_is_no_answer(read, tmp_path: Path, encode_image) -> None:
    rows = Dataset.from_dict({"id": [7], "image": [encode_image()], "caption": [1.5]})
    (sample,) = read("medtrinity", path=save(rows, tmp_path / "a.parquet"))
    assert (sample.id, sample.findings[0].code) == ("7", "malformed_sample")


def test_ids_are_made_different(read, captions: Dataset, tmp_path: Path) -> None:
    plain = captions.cast_column("image", Image(decode=False))
    rows = [{**row, "id": id_} for row, id_ in zip(plain, ("a", "a", None), strict=True)]
    path = save(Dataset.from_list(rows, features=captions.features), tmp_path / "a.parquet")
    first, second, third = read("medtrinity", path=path)
    assert (first.id, second.id, third.id) == ("a", "a#2", "3")
    assert [found.code for found in second.findings] == ["repeated_id"]
    numbered = read("medtrinity", path=path, columns={"id": None})
    assert [sample.id for sample in numbered] == ["1", "2", "3"]


def test_no_two_samples_have_one_id(read, tmp_path: Path, encode_image) -> None:
    given = ["2", None, "a#4", "a", "a", "a#5", "\ud800"]
    records = [{"id": id_, "image": "a.png", "caption": "答"} for id_ in given]
    (tmp_path / "a.png").write_bytes(encode_image())
    (tmp_path / "a.json").write_text(json.dumps(records))
    samples = read("medtrinity", path=tmp_path / "a.json")
    assert [s.id for s in samples] == ["2", "2#2", "a#4", "a", "a#5", "a#5#6", "\\ud800"]
    repeated = [s.number for s in samples if "repeated_id" in [f.code for f in s.findings]]
    assert repeated == [5, 6]


def test_one_answer_an_image_is_all_that_can_be_learned(make_data, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="train_on=all would do nothing here"):
        make_data("medtrinity", path=tmp_path, train_on="all")


def test_a_table_without_the_columns_names_those_it_has(
    read, captions: Dataset, tmp_path: Path
) -> None:
    for name in ("a.parquet", "a.arrow"):
        path = save(captions.rename_column("caption", "text"), tmp_path / name)
        message = r"has no column caption, but id, image, text, source: name the right ones"
        with pytest.raises(ValueError, match=message):
            read("medtrinity", path=path)
        assert len(read("medtrinity", path=path, columns={"answer": "text"})) == 3


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
@pytest.mark.parametrize("part", [0.0, 0.5])
def test_a_broken_table_is_refused(
    read, captions: Dataset, tmp_path: Path, name: str, part: float
) -> None:
    path = save(captions, tmp_path / name)
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    with pytest.raises(ValueError, match=r"a\.(parquet|arrow) is no .*get it anew"):
        read("medtrinity", path=path)


def test_a_table_that_is_broken_within_leaves_nothing_in_the_cache(
    read, captions: Dataset, tmp_path: Path
) -> None:
    path = save(captions, tmp_path / "a.parquet")
    content = path.read_bytes()
    path.write_bytes(content[:100] + bytes(len(content) // 4) + content[100 + len(content) // 4 :])
    with pytest.raises(ValueError, match=r"a\.parquet is broken within its rows: get it anew"):
        read("medtrinity", path=path)
    assert list((tmp_path / "cache" / "tables").rglob("*.*")) == []


def test_without_room_nothing_is_written(
    read, captions: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(captions, tmp_path / "a.parquet")
    full = SimpleNamespace(total=100, used=100, free=path.stat().st_size - 1)
    monkeypatch.setattr("aes.corpus.instructions.tables.shutil.disk_usage", lambda _: full)
    with pytest.raises(ValueError, match=r"a\.parquet takes about .* GiB in the cache"):
        read("medtrinity", path=path)
    assert list((tmp_path / "cache" / "tables").rglob("*.*")) == []


def test_tables_that_nobody_used_for_long_make_room(
    read, captions: Dataset, tmp_path: Path
) -> None:
    path = save(captions, tmp_path / "a.parquet")
    read("medtrinity", path=path)
    (folder,) = (tmp_path / "cache" / "tables").iterdir()
    os.utime(folder, (0, 0))
    read("medtrinity", path=path)  # which uses it, so that it stays
    other = save(captions.select([0]), tmp_path / "b.parquet")
    read("medtrinity", path=other)
    assert folder.is_dir()
    os.utime(folder, (0, 0))
    read("medtrinity", path=other)
    assert not folder.exists()


def test_a_question_must_not_mark_the_image(make_data) -> None:
    with pytest.raises(ValueError, match="question must not hold <image>"):
        make_data("medtrinity", path=Path("a.parquet"), question="<image>?")


def test_the_other_formats_are_read_from_tables_too(read, tmp_path: Path, encode_image) -> None:
    turns = [{"from": "human", "value": "<image>一"}, {"from": "gpt", "value": "二"}]
    chat = Dataset.from_dict({"conversations": [turns], "images": [[encode_image()]]})
    (sample,) = read("sharegpt", path=save(chat, tmp_path / "chat.parquet"))
    assert isinstance(sample.example.pages[0], TableImage)
    asked = Dataset.from_list(
        [{"instruction": "问", "input": None, "output": "答", "history": [["甲", "乙"]]}]
    )
    (sample,) = read("alpaca", path=save(asked, tmp_path / "asked.parquet"))
    assert sample.findings == ()
    assert [message.parts[0] for message in sample.example.messages] == ["甲", "乙", "问"]


def test_memory_does_not_grow_with_the_table(make_data, tmp_path: Path, encode_image) -> None:
    """30 MB of images, of which Python holds a few at a time."""
    large = encode_image() + bytes(100_000)
    rows = with_images([large] * 300, Value("binary"))
    data = make_data("medtrinity", path=save(rows, tmp_path / "a.arrow"))
    tracemalloc.start()
    assert sum(1 for _ in data.samples(cache=tmp_path)) == 300
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6 * 2**20
