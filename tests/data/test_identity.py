"""Whether data are those that a network was trained on: by contents, not by names, dates or places."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest

from trifecta.data import DataConfig, is_same_rows, is_same_training, load_data, load_split

from .helpers import grey, hub_source, png, write_classes

CLASSES = ("cat", "dog")


def config(folder: Path, **options: Any) -> DataConfig:
    return DataConfig(source=str(folder), **{"validation": 0.0, "hold_out": 0.25, **options})


def write(folder: Path) -> Path:
    write_classes(folder, {"cat": [grey(k) for k in range(8)], "dog": [grey(100 + k) for k in range(8)]})
    return folder


def swap(one: Path, other: Path) -> None:
    """Swap the contents of two files, and keep their dates."""
    contents, times = other.read_bytes(), (one.stat().st_mtime_ns,) * 2
    other.write_bytes(one.read_bytes())
    one.write_bytes(contents)
    for file in (one, other):
        os.utime(file, ns=times)


def test_a_copy_is_the_same_at_any_date(folder: Path, tmp_path: Path) -> None:
    rows = load_data(config(write(folder))).rows
    copy = shutil.copytree(folder, tmp_path / "copy", copy_function=shutil.copyfile)
    assert load_data(config(copy)).rows == rows
    assert is_same_training(config(folder), str(copy), rows)
    assert len(load_split(config(copy), None, CLASSES, channels=1, trained_on=rows)) == 4


@pytest.mark.parametrize("pair", [("cat/000.png", "cat/001.png"), ("cat/000.png", "dog/000.png")])
def test_contents_that_have_changed_places_are_other_data(folder: Path, tmp_path: Path, pair: Any) -> None:
    rows = load_data(config(write(folder))).rows
    copy = shutil.copytree(folder, tmp_path / "copy")
    swap(*(copy / name for name in pair))
    assert not is_same_training(config(folder), str(copy), rows)
    with pytest.raises(ValueError, match=r"has changed since .*trained \(other images or labels\)"):
        load_split(config(copy), None, CLASSES, channels=1, trained_on=rows)


def test_rows_of_parquet_and_of_the_hub_are_known_by_their_images(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load_data(config(hub_source(folder), hold_out=None)).rows
    assert is_same_rows(first, load_data(config(folder, hold_out=None, skip_unreadable=True)).rows)
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=[*CLASSES])}
    )
    found = []
    for greys in (range(8), range(8), [2, 1, 0, *range(3, 8)]):
        images = [{"bytes": png(grey(k)), "path": None} for k in greys]
        rows = datasets.Dataset.from_dict({"image": images, "label": [0, 1] * 4}, features=features)
        monkeypatch.setattr(
            datasets, "load_dataset", lambda *_, rows=rows: datasets.DatasetDict(train=rows)
        )
        found.append(load_data(DataConfig(source="me/pets", validation=0.0, hold_out=0.25)).rows)
    assert found[0] == found[1] != found[2]


def test_what_earlier_versions_stored_is_compared_by_names(folder: Path) -> None:
    rows = load_data(config(write(folder))).rows
    old = rows.rpartition(", ")[0]
    assert old.startswith("16 rows, ")
    swap(folder / "cat/000.png", folder / "cat/001.png")
    assert is_same_training(config(folder), str(folder), old)
    assert len(load_split(config(folder), None, CLASSES, channels=1, trained_on=old)) == 4
    (folder / "cat/000.png").rename(folder / "cat/new.png")
    with pytest.raises(ValueError, match="has changed since the network was trained"):
        load_split(config(folder), None, CLASSES, channels=1, trained_on=old)


def test_images_that_were_left_out_are_left_out_of_the_comparison(folder: Path, tmp_path: Path) -> None:
    (write(folder) / "cat/broken.png").write_bytes(b"no image")
    skipping: Callable[[Path], DataConfig] = lambda path: config(path, skip_unreadable=True)  # noqa: E731
    with pytest.warns(UserWarning, match="1 of 17 images of split 'train' are left out"):
        rows = load_data(skipping(folder)).rows
    copy = shutil.copytree(folder, tmp_path / "copy")
    assert is_same_training(skipping(folder), str(copy), rows)
    (copy / "cat/broken.png").unlink()
    assert is_same_training(skipping(folder), str(copy), rows)
    (copy / "cat/broken.png").write_bytes(png(grey(50)))
    assert not is_same_training(skipping(folder), str(copy), rows)
