"""Labels from a table beside the images."""

import json
import re
import warnings
from pathlib import Path
from typing import Any

import pytest

from trifecta.data import DataConfig, ImageData, load_data

from .helpers import grey, png, write_classes, write_plain


def load(folder: Path, **options: Any) -> ImageData:
    return load_data(DataConfig(source=str(folder), **{"validation": 0.0, "hold_out": 0.5, **options}))


def write(folder: Path, count: int = 8) -> Path:
    """Images without classes, of greys from 0."""
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(count):
        (folder / f"{k:03}.png").write_bytes(png(grey(k)))
    return folder


def labels(data: ImageData) -> dict[int, str]:
    """The class of each grey."""
    sets = (data.train, data.test)
    return {
        value: data.classes[label]
        for images in sets
        for value, label in zip(images.images[:, 0, 1, 1].tolist(), images.labels.tolist(), strict=True)
    }


EXPECTED = {k: ("cat", "dog")[k % 2] for k in range(8)}
ROWS = [(f"{k:03}.png", EXPECTED[k]) for k in reversed(range(8))]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("labels.csv", "file_name,label\n" + "".join(f"{file},{label}\n" for file, label in ROWS)),
        ("labels.csv", "\ufefflabel;File\r\n" + "".join(f"{label};./{file}\r\n" for file, label in ROWS)),
        ("train.csv", "id,label\n" + "".join(f"{file[:3]},{label}\n" for file, label in ROWS)),
        ("labels.csv", "file_name, label\n" + "".join(f"{file}, {label} \n" for file, label in ROWS)),
        ("any.tsv", "image\ttarget\n" + "".join(f"{file}\t{label}\n" for file, label in ROWS)),
        (
            "metadata.jsonl",
            "\n".join(json.dumps({"file_name": file, "label": label}) for file, label in ROWS),
        ),
    ],
)
def test_a_table_labels_images_without_folders_of_classes(folder: Path, name: str, text: str) -> None:
    write(folder / ("." if name == "labels.csv" else "images"))
    (folder / name).write_text(text, encoding="utf-8")
    assert labels(load(folder)) == EXPECTED
    assert labels(load(folder, table=name)) == EXPECTED


def test_a_table_in_each_split(folder: Path) -> None:
    for split in ("train", "test"):
        write(folder / split)
        (folder / split / "metadata.csv").write_text(
            "file_name,label\n" + "".join(f"{file},{label}\n" for file, label in ROWS)
        )
    data = load(folder, hold_out=None)
    assert data.train.labels.tolist() == data.test.labels.tolist() == [0, 1] * 4


def test_a_table_a_split_beside_the_images(folder: Path) -> None:
    write(folder / "images")
    for name, rows in (("train.csv", ROWS[:4]), ("test.csv", ROWS[4:])):
        (folder / name).write_text("id,label\n" + "".join(f"{file},{label}\n" for file, label in rows))
    data = load(folder, hold_out=None)
    assert data.train.images[:, 0, 1, 1].tolist() == [4, 5, 6, 7]
    assert data.test.images[:, 0, 1, 1].tolist() == [0, 1, 2, 3]


def test_the_layout_of_a_competition(folder: Path) -> None:
    write(folder / "train")
    write_classes(folder, {"test": [grey(200 + k) for k in range(3)]})
    for name in ("train.csv", "sample_submission.csv"):
        (folder / name).write_text("id,label\n" + "".join(f"{file},{label}\n" for file, label in ROWS))
    for options in ({}, {"table": "train.csv"}):
        with pytest.warns(
            UserWarning, match=r"not used, .*: test/000.png, test/001.png, test/002.png; 1 .csv"
        ):
            assert labels(load(folder, **options)) == EXPECTED


def test_a_table_of_images_to_label_is_no_test_split(folder: Path) -> None:
    write(folder / "images", 10)
    (folder / "train.csv").write_text("id,label\n" + "".join(f"{file},{label}\n" for file, label in ROWS))
    (folder / "test.csv").write_text("id\n008\n009\n")
    fix = r"take the table that has them, such as data.table=train.csv, and data.hold_out=0.2$"
    with pytest.raises(ValueError, match=f"no image of split 'test' has a label in column 'label': {fix}"):
        load(folder, hold_out=None)
    with pytest.warns(UserWarning, match=r"not used, .*: images/008.png, images/009.png; 1 .csv"):
        assert labels(load(folder, table="train.csv")) == EXPECTED


def test_one_of_several_tables_is_asked_for(folder: Path) -> None:
    write(folder)
    for name in ("labels.csv", "makers.csv"):
        (folder / name).write_text("id,label\n" + "".join(f"{file},{label}\n" for file, label in ROWS))
    with pytest.raises(
        ValueError, match=r"has labels.csv, makers.csv, not one of labels: data.table names"
    ):
        load(folder)
    with pytest.raises(ValueError, match=r"has no table others.csv, not one of labels: data.table names"):
        load(folder, table="others.csv")


def test_folders_win_unless_a_table_is_asked_for(folder: Path) -> None:
    write_classes(
        folder, {name: [grey(10 * k + i) for i in range(4)] for k, name in enumerate(("cat", "dog"))}
    )
    rows = [f"{name}/00{k}.png,{'ab'[k % 2]}" for name in ("cat", "dog") for k in range(4)]
    (folder / "metadata.csv").write_text("\n".join(["file_name,photographer", *rows]) + "\n")
    with pytest.warns(UserWarning, match=r"1 .csv \(data.table takes labels from a table\)"):
        assert load(folder).classes == ("cat", "dog")
    assert labels(load(folder, table="metadata.csv")) == {
        10 * k + i: "ab"[i % 2] for k in range(2) for i in range(4)
    }


def table(folder: Path, text: str) -> str:
    """What is said of a table with this text."""
    write(folder, 2)
    (folder / "labels.csv").write_text(text)
    with pytest.raises(ValueError) as caught:  # noqa: PT011  (the caller looks at the message)
        load(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file_name,label\n000.png,a\n999.png,b\n", "has '999.png', which is no image in its folder"),
        (
            "file_name,label\n000.png,a\n000.png,b\n",
            "has two lines for 000.png in labels.csv: keep one",
        ),
        (
            "photo,label\n000.png,a\n",
            "no column of file names, such as file_name: photo, label",
        ),
        ("file_name,w\n000.png,a\n001.png,a\n", "two classes or more, column 'w' has a alone"),
        ("", "no column of file names, such as file_name: "),
    ],
)
def test_a_table_that_cannot_be_used(folder: Path, text: str, message: str) -> None:
    assert message in table(folder, text)


@pytest.mark.parametrize("missing", ["", "NA", "nan", "NaN", "None", "null"])
@pytest.mark.parametrize("classes", ["ab", "12"])
def test_a_row_without_a_label_is_named_by_its_file(folder: Path, missing: str, classes: str) -> None:
    write(folder, 4)
    first, second = [*classes]
    (folder / "labels.csv").write_text(f"id,label\n003,{missing}\n000,{first}\n001,{second}\n002,{first}\n")
    with pytest.raises(ValueError, match=r"split 'train', 003\.png has no label \(None\): give .* rename"):
        load(folder)


def test_a_class_may_be_named_none_in_a_folder_and_in_lower_case_in_a_table(folder: Path) -> None:
    write_classes(folder / "folders", {name: [*map(grey, range(4))] for name in ("NA", "None")})
    assert load(folder / "folders").classes == ("NA", "None")
    write(folder / "table")
    lines = [f"{k:03},{('none', 'scratch')[k % 2]}\n" for k in range(8)]
    (folder / "table/labels.csv").write_text("id,label\n" + "".join(lines))
    assert load(folder / "table").classes == ("none", "scratch")


@pytest.mark.parametrize("labelled", ["label", "species"])
def test_a_column_tells_the_split_of_each_row(folder: Path, labelled: str) -> None:
    write(folder)
    splits = ["train", "Test", "train", "val"]
    lines = [f"{k:03},{splits[k // 2]},{EXPECTED[k]}\n" for k in range(8)]
    (folder / "labels.csv").write_text(f"id,split,{labelled}\n" + "".join(lines))
    data = load(folder, hold_out=None, validation=0.1)
    assert data.validation is not None
    found = [images.images[:, 0, 1, 1].tolist() for images in (data.train, data.validation, data.test)]
    assert found == [[0, 1, 4, 5], [6, 7], [2, 3]]


@pytest.mark.parametrize("is_parquet", [False, True])
@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("set", ["test", "train"]),
        ("Group", ["test", "train"]),
        ("is_test", [0, 1]),
        ("split", [0, 1]),
        ("cv_fold", [1, 2]),
        ("group", ["control", "test"]),
    ],
)
def test_a_column_that_seems_to_divide_the_rows_is_told_when_some_are_held_out(
    folder: Path, name: str, values: list[Any], *, is_parquet: bool
) -> None:
    told = [values[k // 4] for k in range(8)]
    if is_parquet:
        images = [png(grey(k)) for k in range(8)]
        write_plain(folder, "train", {"image": images, name: told, "label": [*EXPECTED.values()]})
    else:
        write(folder)
        lines = [f"{k:03},{told[k]},{EXPECTED[k]}\n" for k in range(8)]
        (folder / "labels.csv").write_text(f"id,{name},label\n" + "".join(lines))
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        assert labels(load(folder)) == EXPECTED
    column = f"column '{name}' ({values[0]}, {values[1]}) looks like a split of its own and is not used: "
    expected = f"{column}to use it, call it split, give each row train, validation or test, and drop"
    assert [str(each.message)[: len(expected)] for each in heard] == [expected] * ("control" not in values)


def test_images_that_a_table_leaves_out_are_told(folder: Path) -> None:
    write(folder, 10)
    (folder / "labels.csv").write_text(
        "file_name,label\n" + "".join(f"{file},{label}\n" for file, label in ROWS)
    )
    with pytest.warns(UserWarning, match=r"not used, .*: 008.png, 009.png$"):
        assert labels(load(folder)) == EXPECTED


def test_numbers_are_sorted_as_such_and_names_are_kept(folder: Path) -> None:
    write(folder, 8)
    for values, classes in ((["9", "10"], ("9", "10")), (["09", "9"], ("09", "9"))):
        lines = [f"{k:03}.png,{values[k % 2]}" for k in range(8)]
        (folder / "labels.csv").write_text("\n".join(["file_name,label", *lines]))
        assert load(folder).classes == classes


def test_a_column_that_numbers_the_rows_is_no_label(folder: Path) -> None:
    images = [png(grey(k)) for k in range(8)]
    species = ["cat", "dog"] * 4
    for split in ("train", "test"):
        write_plain(folder, split, {"image": images, "id": [*range(8)], "species": species})
    with pytest.warns(
        UserWarning, match="labels are taken from column 'species', of species, id: choose another with"
    ):
        assert load(folder, hold_out=None).classes == ("cat", "dog")
    for split in ("train", "test"):
        write_plain(folder, split, {"image": images, "year": [1, 2] * 4, "species": species})
    with pytest.raises(
        ValueError, match=r"cannot tell which of .* are labels: choose one with data.label_column"
    ):
        load(folder, hold_out=None)
    for split in ("train", "test"):
        write_plain(folder, split, {"image": images, "id": [*range(8)]})
    with pytest.raises(
        ValueError, match=r"cannot tell which of .* are labels: choose one with data.label_column"
    ):
        load(folder, hold_out=None)


def test_whole_floats_are_labels_and_others_are_refused(folder: Path) -> None:
    images = [png(grey(k)) for k in range(8)]
    columns = {"image": images, "label": [0.0, 2.0] * 4, "year": [1990, 1991] * 4, "weight": [0.5] * 8}
    write_plain(folder, "train", columns)
    assert labels(load(folder)) == {k: str(k % 2 * 2) for k in range(8)}
    for wrong, told in ((0.5, "has label 0.5, which is none of"), (float("nan"), r"has no label \(nan\)")):
        write_plain(folder, "train", columns | {"label": [0.0, 2.0, wrong, 2.0] * 2})
        with pytest.raises(ValueError, match=rf"split 'train', row 2 \(from 0\) {told}"):
            load(folder)
    with pytest.raises(ValueError, match=r"row 0 \(from 0\) has label 0.5, which is no class"):
        load(folder, label_column="weight")


def test_columns_are_found_in_any_case(folder: Path) -> None:
    names = {"train": ("Image", "Label"), "test": ("image", "label")}
    for (split, (image, label)), start in zip(names.items(), (0, 100), strict=True):
        images = [png(grey(start + k)) for k in range(4)]
        write_plain(folder, split, {image: images, label: ["a", "b"] * 2, "year": [1, 2] * 2})
    for options in ({}, {"label_column": "LABEL", "image_column": "IMAGE"}):
        data = load(folder, hold_out=None, **options)
        assert data.train.labels.tolist() == data.test.labels.tolist() == [0, 1, 0, 1]
    assert load(folder, hold_out=None, label_column="Year").classes == ("1", "2")


@pytest.mark.parametrize("is_parquet", [False, True])
@pytest.mark.parametrize(
    ("names", "right"),
    [
        (["x", "y", "label"], "label"),
        (["Target", "Class", "photographer"], "Class"),
        (["photographer", "Label"], "Label"),
        (["y", "target"], "target"),
    ],
)
def test_the_likeliest_name_of_labels_wins_and_others_are_said(
    folder: Path, names: list[str], right: str, *, is_parquet: bool
) -> None:
    usual = {"label", "class", "target", "y"}
    columns: dict[str, list[Any]] = {name: [k % 3 for k in range(8)] for name in names}
    columns[right] = list(EXPECTED.values())
    if is_parquet:
        write_plain(folder, "train", {"image": [png(grey(k)) for k in range(8)], **columns})
    else:
        write(folder)
        files = [f"{k:03}.png" for k in range(8)]
        lines = [["file_name", *names], *map(list, zip(files, *columns.values(), strict=True))]
        (folder / "metadata.csv").write_text("\n".join(",".join(map(str, line)) for line in lines))
    others = [name for name in names if name.lower() in usual]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert labels(load(folder)) == EXPECTED
    told = [str(each.message) for each in said if "labels are taken" in str(each.message)]
    assert len(told) == (len(others) > 1)
    assert all(
        f"from column '{right}'" in text and set(others) <= set(re.findall(r"\w+", text)) for text in told
    )


@pytest.mark.parametrize("name", ["labels.csv", "train.csv", "train.parquet", "photos.parquet"])
def test_a_column_divides_the_rows_into_splits(folder: Path, name: str) -> None:
    splits = ["Train", "Train", "val", "Train", "Train", "TEST", "test", "val"]
    if name.endswith("parquet"):
        pixels = [png(grey(k)) for k in range(8)]
        write_plain(
            folder,
            name.partition(".")[0],
            {"image": pixels, "label": list(EXPECTED.values()), "Split": splits},
        )
    else:
        write(folder)
        lines = [f"{k:03}.png,{EXPECTED[k]},{splits[k]}" for k in range(8)]
        (folder / name).write_text("\n".join(["file_name,label,Split", *lines]))
    data = load(folder, hold_out=None, validation=0.1)
    assert data.validation is not None
    for part, ours in ((data.train, [0, 1, 3, 4]), (data.validation, [2, 7]), (data.test, [5, 6])):
        assert part.images[:, 0, 1, 1].tolist() == ours
        assert [data.classes[k] for k in part.labels.tolist()] == [EXPECTED[k] for k in ours]
    with pytest.raises(ValueError, match="has a split 'test' of its own"):
        load(folder)


def test_rows_of_a_split_that_cannot_be_read_are_left_out(folder: Path) -> None:
    pixels = [b"\x89PNG broken" if k == 5 else png(grey(k)) for k in range(8)]
    columns = {"image": pixels, "label": list(EXPECTED.values()), "split": ["train", "test"] * 4}
    columns["label"] = ["cat", "cat", "dog", "dog"] * 2
    write_plain(folder, "photos", columns)
    with pytest.warns(UserWarning, match="1 of 4 images of split 'test' are left out"):
        data = load(folder, hold_out=None, skip_unreadable=True)
    assert data.train.images[:, 0, 1, 1].tolist() == [0, 2, 4, 6]
    assert data.test.images[:, 0, 1, 1].tolist() == [1, 3, 7]
    assert data.test.labels.tolist() == [0, 1, 1]
