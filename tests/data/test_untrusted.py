"""Folders and images of strangers: nothing outside the folder is read, nothing is run, nothing dropped."""

import os
from pathlib import Path
from typing import Any

import pytest
from PIL import EpsImagePlugin, Image

from trifecta.data import DataConfig, ImageData, cache, load_data

from .helpers import decode, grey, png, write_classes, write_hub, write_plain

POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"


@pytest.fixture
def classes(folder: Path) -> Path:
    """Two classes of four images."""
    write_classes(folder, {name: [grey(10 * k) for k in range(4)] for name in ("cat", "dog")})
    return folder


def load(folder: Path, **options: Any) -> ImageData:
    return load_data(DataConfig(source=str(folder), hold_out=0.25, validation=0.0, **options))


def test_an_image_starts_no_program(classes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[object] = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *call, **_: started.append(call))
    (classes / "cat/000.png").write_bytes(POSTSCRIPT)
    with pytest.raises(ValueError, match=r"cannot read image .*000.png: cannot identify"):
        load(classes)
    assert not started


@pytest.mark.slow
def test_an_image_of_too_many_pixels_is_refused(tmp_path: Path) -> None:
    Image.new("1", (20_000, 20_000)).save(tmp_path / "huge.png")
    with pytest.raises(ValueError, match=r"huge.png: Image size \(400000000 pixels\) exceeds limit"):
        decode(("huge.png", tmp_path / "huge.png"))


@pytest.mark.parametrize("name", ["README.md", ".huggingface.yaml", "dataset_infos.json"])
def test_what_a_folder_says_about_itself_is_not_read(classes: Path, name: str) -> None:
    text = "configs:\n- config_name: default\n  data_files: ['../secret/*.png', 'https://example.com/x']\n"
    (classes / name).write_text(f"---\n{text}---\n" + "[" * 2**20)
    assert len(load(classes).train) == 6


def test_a_row_that_names_a_file_elsewhere_is_refused(folder: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(png(grey(7)))
    rows = [{"bytes": png(grey(9)), "path": None}] * 7 + [{"bytes": None, "path": str(secret)}]
    write_plain(folder, "train", {"image": rows, "label": [0, 1] * 4})
    with pytest.raises(ValueError, match=r"row 7 of split 'train' is a file outside the source, .*secret"):
        load(folder)


def test_a_table_cannot_name_a_file_elsewhere(classes: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(png(grey(7)))
    lines = [f"{name}/{k:03}.png,{name}" for name in ("cat", "dog") for k in range(4)]
    for elsewhere in (os.path.relpath(tmp_path / "secret.png", classes), str(tmp_path / "secret.png")):
        text = "\n".join(["file_name,label", *lines, f"{elsewhere},cat"])
        (classes / "metadata.csv").write_text(f"{text}\n")
        with pytest.raises(ValueError, match=r"metadata.csv has '.*secret.png', which is no image in its"):
            load(classes, table="metadata.csv")


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("labels.jsonl", "[" * 100_000, "recursion"),
        ("labels.jsonl", '{"file_name": "' + "x" * 2**20, "Unterminated string"),
        ("labels.csv", "file_name,label\na\n", "line 2 has 1 values for 2 columns"),
        ("labels.csv", "file_name,file_name\na,b\n", "two columns have the same name"),
    ],
)
def test_a_table_is_bounded_before_it_is_read(classes: Path, name: str, text: str, reason: str) -> None:
    (classes / name).write_text(text)
    with pytest.raises(ValueError, match=f"cannot read table .*{name}: .*{reason}"):
        load(classes, table=name)


def test_a_sparse_file_of_gigabytes_is_refused_by_name(classes: Path, folder: Path) -> None:
    with (classes / "cat/000.png").open("wb") as file:
        file.write(b"RIFF\xff\xff\xff\xffWEBPVP8 ")
        file.truncate(2**33)
    with pytest.raises(ValueError, match=r"cat/000.png: it has 8,589,934,592 bytes, and an image may"):
        load(classes)


def test_a_parquet_file_with_a_description_of_gigabytes_is_refused(folder: Path) -> None:
    with (folder / "train.parquet").open("wb") as file:
        file.write(b"PAR1")
        file.truncate(2**33)
        file.seek(0, os.SEEK_END)
        file.write((2**32 - 1).to_bytes(4, "little") + b"PAR1")
    with pytest.raises(ValueError, match=r"train.parquet: its description takes 4,294,967,295 bytes"):
        load(folder)


def test_a_million_classes_of_which_two_are_used_are_refused(folder: Path) -> None:
    names = {"label": [str(k) for k in range(2_000)]}
    write_hub(folder, "train", [png(grey(k)) for k in range(4)], {"label": [0, 7, 0, 7]}, names)
    with pytest.raises(ValueError, match="names 2,000 classes, and the images are of 2: name"):
        load(folder)


def test_links_in_a_circle_and_what_is_no_file_are_told(classes: Path) -> None:
    (classes / "cat/again").symlink_to(classes)
    os.mkfifo(classes / "dog/pipe.png")
    with pytest.warns(UserWarning, match=r"not used, of what is in .*: cat/again/, dog/pipe.png$"):
        assert load(classes).classes == ("cat", "dog")


def test_a_link_to_itself_is_named(classes: Path) -> None:
    (classes / "cat/loop.png").symlink_to(classes / "cat/loop.png")
    with pytest.raises(ValueError, match=r"cannot read folder '.*cat/loop.png': Too many levels"):
        load(classes)


@pytest.mark.parametrize("name", [b"a\nb", b"a\\b", b"a\xff"])
def test_a_class_that_cannot_be_shown_is_refused_and_a_file_read(classes: Path, name: bytes) -> None:
    inside = os.fsencode(classes)
    Path(os.fsdecode(inside + b"/cat/" + name + b".png")).write_bytes(png(grey(1)))
    assert len(load(classes).train) == 7
    Path(os.fsdecode(inside + b"/" + name)).mkdir()
    with pytest.raises(ValueError, match=r"folder .* has a name that cannot be shown: rename it"):
        load(classes)


@pytest.mark.parametrize("name", ["a b", "é", "日本", "[a]*", "a%20b", "a#b?c"])
def test_other_names_are_as_good_as_any(classes: Path, name: str) -> None:
    (classes / "dog").rename(classes / name)
    assert set(load(classes).classes) == {"cat", name}


def test_images_that_are_not_used_are_told(classes: Path) -> None:
    (classes / "nothing").mkdir()
    (classes / "cat/notes.txt").write_text("beside")
    with pytest.warns(UserWarning, match=r"not used, of what is in .*: nothing/; 1 .txt$"):
        assert len(load(classes).train) == 6


def test_a_set_larger_than_memory_gives_the_same_images(
    classes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = load(classes)
    monkeypatch.setattr(cache, "MOST_OF_MEMORY", 0.0)
    mapped = load(classes)
    assert mapped.train.rows is not None
    assert (mapped.mean, mapped.std) == (whole.mean, whole.std)
    for one, other in ((whole.train, mapped.train), (whole.test, mapped.test)):
        (every,) = other.in_order(100)
        assert one.images.equal(every.images)
        assert one.labels.equal(every.labels)
