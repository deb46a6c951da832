"""Whole sources: what ends up in which split, with which classes."""

import warnings
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch

from trifecta.data import SOURCES, DataConfig, ImageData, ImageSet, load_data, load_split

from .helpers import colour, grey, hub_source, png, write_classes, write_hub, write_plain

# Classes of one image keep these tests small.
pytestmark = pytest.mark.filterwarnings("ignore:classes with a single training image")


def load(folder: Path, **options: Any) -> ImageData:
    return load_data(DataConfig(source=str(folder), **{"validation": 0.0, **options}))


def test_images_labels_and_order_are_those_of_the_source(folder: Path) -> None:
    data = load(hub_source(folder))
    expected = np.stack([grey(10 * k) for k in range(8)])[:, None]
    assert torch.equal(data.train.images, torch.from_numpy(expected))
    assert data.train.labels.tolist() == [0, 1] * 4
    assert data.test.images[:, 0, 1, 1].tolist() == [100, 101, 102, 103]
    assert data.test.labels.tolist() == [1, 0, 1, 0]
    assert data.classes == ("cat", "dog")
    assert data.sample_shape == (1, 4, 5)
    assert data.validation is None


def test_the_hub_layout_with_a_data_folder(folder: Path) -> None:
    hub_source(folder / "data")
    assert len(load(folder).train) == 8


def test_images_in_a_column_without_metadata(folder: Path) -> None:
    struct = [{"bytes": png(colour(k)), "path": f"{k}.png"} for k in range(6)]
    for split in ("train", "test"):
        write_plain(folder, split, {"picture": struct, "y": [5, 26, 5, 1, 26, 1]})
    data = load(folder)
    assert torch.equal(data.train.images[3], torch.from_numpy(colour(3)).permute(2, 0, 1))
    assert data.classes == ("1", "5", "26")
    assert data.train.labels.tolist() == [1, 2, 1, 0, 2, 0]


def test_images_in_a_binary_column_among_others(folder: Path) -> None:
    columns = {
        "checksum": [b"\x00\x01"] * 4,
        "content": [png(grey(k)) for k in range(4)],
        "id": [9, 8, 7, 6],
        "label": ["dog", "cat", "dog", "ant"],
    }
    write_plain(folder, "train", columns)
    write_plain(folder, "test", columns)
    data = load(folder)
    assert data.train.images[:, 0, 1, 1].tolist() == [0, 1, 2, 3]
    assert data.classes == ("ant", "cat", "dog")
    assert data.train.labels.tolist() == [2, 1, 2, 0]


def test_image_folders_with_splits(folder: Path) -> None:
    write_classes(folder / "train", {"b": [grey(1), grey(2)], "a": [grey(3)]})
    write_classes(folder / "test", {"a": [grey(4)], "b": [grey(5)]})
    data = load(folder)
    assert data.classes == ("a", "b")
    assert data.train.labels.tolist() == [0, 1, 1]
    assert data.train.images[:, 0, 1, 1].tolist() == [3, 1, 2]
    assert data.test.images[:, 0, 1, 1].tolist() == [4, 5]


def test_an_image_folder_without_splits_is_held_out_from(folder: Path) -> None:
    write_classes(folder, {"a": [grey(k) for k in range(20)], "b": [grey(100 + k) for k in range(10)]})
    with pytest.raises(ValueError, match=r"no split 'test', the source has train .* hold_out=0.2"):
        load(folder)
    data = load(folder, hold_out=0.2)
    assert data.test.labels.tolist() == [0] * 4 + [1] * 2
    both = torch.cat([data.train.images, data.test.images])[:, 0, 1, 1]
    assert sorted(both.tolist()) == [*range(20), *range(100, 110)]
    assert torch.equal(data.test.images, load(folder, hold_out=0.2).test.images)


def test_validation_is_a_stratified_part_of_training_and_statistics_leave_it_out(folder: Path) -> None:
    images = [png(grey(k)) for k in range(40)]
    write_hub(folder, "train", images, {"label": [k % 2 for k in range(40)]}, {"label": ["a", "b"]})
    write_hub(folder, "test", images[:2], {"label": [0, 1]}, {"label": ["a", "b"]})
    data = load(folder, validation=0.1)
    assert data.validation is not None
    assert data.validation.labels.bincount().tolist() == [2, 2]
    assert data.train.labels.bincount().tolist() == [18, 18]
    both = torch.cat([data.train.images, data.validation.images])[:, 0, 1, 1]
    assert sorted(both.tolist()) == list(range(40))
    assert data.mean == pytest.approx([data.train.images.double().mean().item() / 255])


@pytest.mark.filterwarnings("ignore:splits of")
def test_hold_out_is_refused_where_there_is_a_test_split(folder: Path) -> None:
    hub_source(folder)
    with pytest.raises(ValueError, match=r"has a split 'test' of its own: drop data\.hold_out"):
        load(folder, hold_out=0.5)
    assert len(load(folder, hold_out=0.5, test_split="none").test) == 4


def svhn(folder: Path) -> None:
    digits = [str(k) for k in range(10)]
    for split, count in (("train", 20), ("test", 10), ("extra", 30)):
        images: list[bytes | None] = [png(colour(count + k, 32, 32)) for k in range(count)]
        labels = {"label": [k % 10 for k in range(count)]}
        write_hub(folder / "cropped_digits", split, images, labels, {"label": digits})


def test_the_layout_of_svhn(folder: Path) -> None:
    svhn(folder)
    with pytest.warns(UserWarning, match=r"splits of .* that are not used: extra \(30 images\)"):
        data = load(folder, subset="cropped_digits")
    assert (len(data.train), len(data.test)) == (20, 10)
    assert data.sample_shape == (3, 32, 32)
    assert data.classes == tuple("0123456789")
    assert data.train.labels.tolist() == [*range(10)] * 2


@pytest.mark.filterwarnings("ignore:splits of")
def test_the_only_data_set_of_a_folder_is_taken_and_of_several_one_is_asked_for(folder: Path) -> None:
    svhn(folder)
    assert len(load(folder).train) == 20
    assert len(load(folder, train_split="Extra").train) == 30
    hub_source(folder / "full_numbers")
    with pytest.raises(
        ValueError, match=r"has cropped_digits, full_numbers: choose a data set with data.subset"
    ):
        load(folder)
    with pytest.raises(ValueError, match=r"no folder digits, .* has cropped_digits, "):
        load(folder, subset="digits")


def test_the_finest_labels_are_taken_and_said(folder: Path) -> None:
    names = {"coarse_label": ["x", "y"], "fine_label": ["a", "b", "c"]}
    labels = {"coarse_label": [0, 1, 1, 0], "fine_label": [0, 1, 2, 0]}
    for split in ("train", "test"):
        write_hub(folder, split, [png(grey(k)) for k in range(4)], labels, names)
    with pytest.warns(UserWarning, match="column 'fine_label'.* data.label_column"):
        data = load(folder)
    assert data.classes == ("a", "b", "c")
    assert data.train.labels.tolist() == [0, 1, 2, 0]
    coarse = load(folder, label_column="coarse_label")
    assert coarse.classes == ("x", "y")
    assert coarse.train.labels.tolist() == [0, 1, 1, 0]


def test_a_usual_name_decides_between_images(folder: Path) -> None:
    columns = {
        "thumbnail": [png(grey(200))] * 2,
        "img": [png(grey(7)), png(grey(8))],
        "label": [0, 1],
    }
    for split in ("train", "test"):
        write_plain(folder, split, columns)
    assert load(folder).train.images[:, 0, 1, 1].tolist() == [7, 8]
    assert load(folder, image_column="thumbnail").train.images[:, 0, 1, 1].tolist() == [200, 200]


def test_an_arbitrary_choice_between_images_is_said(folder: Path) -> None:
    columns = {"left": [png(grey(7))] * 2, "right": [png(grey(8))] * 2, "label": [0, 1]}
    for split in ("train", "test"):
        write_plain(folder, split, columns)
    with pytest.warns(UserWarning, match="column 'left', of left, right: .* data.image_column"):
        assert load(folder).train.images[0, 0, 1, 1] == 7


def test_a_grey_split_becomes_colour_where_the_other_has_colour(folder: Path) -> None:
    data = load(hub_source(folder, images=[png(colour(k)) for k in range(4)]))
    assert data.sample_shape == (3, 4, 5)
    assert data.test.images.shape[1:] == (3, 4, 5)
    assert (data.train.images == data.train.images[:, :1]).all()
    assert torch.equal(data.train.images[3, 0], torch.from_numpy(grey(30)))


def test_a_test_class_without_a_training_image_is_refused(folder: Path) -> None:
    write_classes(folder / "train", {"a": [grey(1)], "b": [grey(2)]})
    write_classes(folder / "test", {"a": [grey(3)], "b": [grey(4)], "c": [grey(5)]})
    with pytest.raises(ValueError, match=r"split 'test', test/c/000.png has label 'c'"):
        load(folder)


def test_test_images_that_are_trained_on_are_said(folder: Path) -> None:
    write_classes(folder / "train", {"a": [*map(grey, range(20))], "b": [*map(grey, range(20, 40))]})
    write_classes(folder / "test", {"a": [*map(grey, range(10))], "b": [*map(grey, range(40, 44))]})
    with pytest.warns(UserWarning, match="10 of 14 test images are training images too"):
        load(folder)


def test_classes_without_an_image_are_said(folder: Path) -> None:
    names = {"label": ["a", "b", "c"]}
    write_hub(folder, "train", [png(grey(k)) for k in range(4)], {"label": [0, 1, 0, 1]}, names)
    write_hub(folder, "test", [png(grey(k)) for k in range(5, 7)], {"label": [0, 0]}, names)
    with (
        pytest.warns(UserWarning, match="classes without a training image: c"),
        pytest.warns(UserWarning, match="classes without a test image: b"),
    ):
        load(folder)
    write_hub(folder, "test", [png(grey(k)) for k in range(5, 7)], {"label": [0, 2]}, names)
    with pytest.raises(ValueError, match=r"row 1 .* has label 'c', which is none of the 2 classes"):
        load(folder)


def test_the_digits_need_no_files() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = load_data(DataConfig(source="digits"))
    assert data.validation is not None
    assert (len(data.test), len(data.validation)) == (359, 144)
    assert len(data.train) + 359 + 144 == 1797
    assert data.sample_shape == (1, 8, 8)
    assert data.classes == tuple("0123456789")
    assert data.train.images.max() == 255
    assert 33 <= data.test.labels.bincount().min() <= data.test.labels.bincount().max() <= 37


def test_the_digits_can_be_resized_and_held_out_otherwise() -> None:
    data = load_data(DataConfig(source="digits", image_size=(12, 16), hold_out=0.5, validation=0))
    assert data.sample_shape == (1, 12, 16)
    assert len(data.test) == 898


@pytest.mark.parametrize("name", ["subset", "label_column", "train_split", "test_split"])
def test_settings_that_the_digits_have_no_use_for_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"no columns and no splits: received data.{name}"):
        load_data(DataConfig(source="digits", **{name: "nope"}))  # type: ignore[arg-type]


def test_progress_bars_stay_off_and_the_setting_as_it_was(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    hub_source(folder)
    assert not datasets.are_progress_bars_disabled()
    load(folder)
    assert not datasets.are_progress_bars_disabled()
    assert capfd.readouterr() == ("", "")


def test_a_source_with_a_name_is_one_function(monkeypatch: pytest.MonkeyPatch) -> None:
    def stripes(config: DataConfig) -> ImageData:
        images = ImageSet(torch.arange(20, dtype=torch.uint8).view(20, 1, 1, 1), torch.arange(20) % 2)
        test = images.part(torch.arange(4))
        return ImageData(train=images, validation=None, test=test, classes=("even", "odd"))

    monkeypatch.setitem(SOURCES, "stripes", stripes)
    data = load_data(DataConfig(source="stripes", validation=0.5))
    assert (data.classes, len(data.train), len(data.test)) == (("even", "odd"), 10, 4)
    config = DataConfig(source="stripes")
    assert load_split(config, None, ("odd", "even"), channels=1).labels.tolist() == [1, 0, 1, 0]
    with pytest.raises(ValueError, match="stripes has no split 'exam': leave it out"):
        load_split(config, "exam", ("odd", "even"), channels=1)


def test_a_data_set_of_the_hub_is_read_as_its_library_loads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
    )
    splits = datasets.DatasetDict()
    for split, first in (("train", 0), ("test", 100)):
        images = [{"bytes": png(grey(first + k)), "path": None} for k in range(6)]
        rows = {"image": images, "label": [0, 1] * 3}
        splits[split] = datasets.Dataset.from_dict(rows, features=features)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: splits)
    data = load_data(DataConfig(source="me/pets", validation=0.0))
    assert data.classes == ("cat", "dog")
    assert data.train.labels.tolist() == [0, 1] * 3
    assert data.test.images[:, 0, 1, 1].tolist() == [100, 101, 102, 103, 104, 105]
