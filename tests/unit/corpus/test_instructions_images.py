"""Images stand where they are marked, and lie below the root."""

from pathlib import Path

import pytest

from aes.records import Message


@pytest.fixture
def root(tmp_path: Path, encode_image) -> Path:
    """A folder with two images, and one outside it."""
    root = tmp_path / "root"
    (root / "img").mkdir(parents=True)
    (root / "img" / "a.png").write_bytes(encode_image("red"))
    (root / "img" / "b.png").write_bytes(encode_image("blue"))
    (tmp_path / "outside.png").write_bytes(encode_image("green"))
    return root


def record(text: str, images) -> dict:
    return {"instruction": text, "output": "答", "images": images}


@pytest.mark.parametrize(
    ("text", "images", "parts"),
    [
        ("<image>这是什么?", "img/a.png", ("a", "这是什么?")),
        ("<image>", ["img/a.png"], ("a",)),
        ("<image>\n问", ["img/a.png"], ("a", "\n问")),
        ("前<image>中<image>后", ["img/b.png", "img/a.png"], ("前", "b", "中", "a", "后")),
        ("<image><image>问", ["img/a.png", "img/a.png"], ("a", "a", "问")),
        ("<image>", [{"path": "img/a.png"}], ("a",)),
        ("没有图", [], ("没有图",)),
        ("没有图", "", ("没有图",)),
        ("没有图", None, ("没有图",)),
    ],
)
def test_an_image_stands_where_its_mark_stood(
    read, write_json, root: Path, text: str, images, parts
) -> None:
    named = {name: root / "img" / f"{name}.png" for name in ("a", "b")}
    (sample,) = read("alpaca", path=write_json([record(text, images)]), root=root)
    assert sample.findings == ()
    assert sample.example.messages == (
        Message("user", tuple(named.get(part, part) for part in parts)),
    )


def test_images_of_earlier_turns_come_first(read, write_json, root: Path) -> None:
    turns = [
        {"from": "human", "value": "<image>一"},
        {"from": "gpt", "value": "二"},
        {"from": "human", "value": "三<image>"},
        {"from": "gpt", "value": "四"},
    ]
    path = write_json([{"conversations": turns, "images": ["img/a.png", "img/b.png"]}])
    (sample,) = read("sharegpt", path=path, root=root)
    first, _, second = sample.example.messages
    assert first.parts == (root / "img" / "a.png", "一")
    assert second.parts == ("三", root / "img" / "b.png")


def test_without_a_root_paths_are_relative_to_the_file(read, write_json, root: Path) -> None:
    path = write_json([record("<image>", "img/a.png")], "root/data.json")
    (sample,) = read("alpaca", path=path)
    assert sample.example.pages == (root / "img" / "a.png",)
    (sample,) = read("alpaca", path=write_json([record("<image>", str(root / "img" / "a.png"))]))
    assert sample.example.pages == (root / "img" / "a.png",), (
        "absolute, and below the file's folder"
    )


@pytest.mark.parametrize(
    ("text", "images", "code", "message"),
    [
        ("问", ["img/a.png"], "markers_and_images", "has 1 image and 0 times <image>"),
        (
            "<image><image>",
            ["img/a.png"],
            "markers_and_images",
            "has 1 image and 2 times <image>",
        ),
        ("<image>", None, "markers_and_images", "has 0 images and 1 times <image>"),
        ("<image>", "img/c.png", "missing_image", "names img/c.png, which is not in {root}"),
        ("<image>", "img", "missing_image", "names img, which is not in {root}"),
        ("<image>", "a\0b", "missing_image", "names a\0b, which is not in {root}"),
        ("<image>", [None], "missing_image", "names no file for an image"),
        ("<image>", [3], "missing_image", "names no file for an image"),
        (
            "<image>",
            "https://example.org/a.png",
            "missing_image",
            "names an image by an address, and nothing is fetched",
        ),
        (
            "<image>",
            "../outside.png",
            "image_outside_root",
            "names ../outside.png, which is outside {root}",
        ),
        (
            "<image>",
            "{outside}",
            "image_outside_root",
            "names {outside}, which is outside {root}",
        ),
        (
            "<image>",
            "../nowhere.png",
            "image_outside_root",
            "names ../nowhere.png, which is outside {root}",
        ),
        (
            "<image>",
            "img/link.png",
            "image_outside_root",
            "names img/link.png, which is outside {root}",
        ),
        (
            "<image>",
            "linked/outside.png",
            "image_outside_root",
            "names linked/outside.png, which is outside {root}",
        ),
        ("<image>", "data.txt", "unreadable_image", "has bytes in data.txt that are no image"),
    ],
)
def test_what_is_wrong_with_an_image_is_named(
    read, write_json, root: Path, text, images, code, message
) -> None:
    outside = root.parent / "outside.png"
    (root / "img" / "link.png").symlink_to(outside)
    (root / "linked").symlink_to(root.parent)
    (root / "data.txt").write_text("no image")
    if isinstance(images, str):
        images = images.format(outside=outside)
    (sample,) = read("alpaca", path=write_json([record(text, images)]), root=root)
    assert sample.example is None
    assert [found.code for found in sample.findings] == [code]
    expected = message.format(root=root, outside=outside)
    assert sample.findings[0].message == f"Sample 1 {expected}."


def test_a_link_within_the_root_and_a_linked_root_are_followed(
    read, write_json, root: Path
) -> None:
    (root / "link.png").symlink_to(root / "img" / "a.png")
    (root.parent / "alias").symlink_to(root)
    path = write_json([record("<image>", "link.png")])
    (sample,) = read("alpaca", path=path, root=root.parent / "alias")
    assert sample.findings == ()


def test_an_image_in_an_answer_is_refused(read, write_json, root: Path) -> None:
    path = write_json([{"instruction": "<image>", "output": "<image>", "images": "img/a.png"}])
    (sample,) = read("alpaca", path=path, root=root)
    assert sample.findings[0].code == "markers_and_images"


def test_a_root_that_is_no_folder_is_refused(read, write_json, tmp_path: Path) -> None:
    path = write_json([record("问", None)])
    with pytest.raises(ValueError, match=r"data\.root .*gone is no folder"):
        read("alpaca", path=path, root=tmp_path / "gone")


def test_samples_with_one_image_share_a_key_whatever_it_is_called(
    read, write_json, root: Path, encode_image
) -> None:
    (root / "copy.png").write_bytes(encode_image("red"))
    records = [
        record("<image>问", "img/a.png"),
        record("<image>另问", "copy.png"),
        record("<image>问", "img/b.png"),
    ]
    first, same_image, same_text = read("alpaca", path=write_json(records), root=root)
    assert len(set(first.keys) & set(same_image.keys)) == 1
    assert not set(first.keys) & set(same_text.keys), "one question asked of all relates nothing"
    assert first.twin != same_text.twin
