"""Sources that cannot be used: what the one line says."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest

from trifecta.data import DataConfig, load_data
from trifecta.data import load as load_module
from trifecta.data.load import open_source
from trifecta.data.rows import NUMBERS

from .helpers import grey, hub_source, png, write_classes, write_hub, write_plain

# Classes of one image keep these tests small.
pytestmark = pytest.mark.filterwarnings("ignore:classes with a single training image")


def refusal(source: Path | str, **options: Any) -> str:
    config = DataConfig(source=str(source), **options)
    with pytest.raises(ValueError) as caught:  # noqa: PT011  (the caller looks at the message)
        load_data(config)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("source", ["./none", "../none", "~/none", "/none", "a/b/c"])
def test_a_path_that_does_not_exist(source: str) -> None:
    message = refusal(source)
    assert message.startswith(f"no folder {source} (")
    assert message.endswith(
        ": give the right one as source; if it has moved, its new place, or put a link to it there"
    )


def test_a_path_that_is_misspelt(folder: Path) -> None:
    (folder / "photos").mkdir()
    assert f"({folder} has no photo, but photos)" in refusal(folder / "photo" / "cats")


def test_a_file(folder: Path) -> None:
    (folder / "train.parquet").touch()
    assert "train.parquet is a file: give the folder that it" in refusal(folder / "train.parquet")
    labels = f"data.source={folder} and data.table=labels.csv"
    for name, advice in (
        ("labels.csv", f"if it labels images give {labels}; {NUMBERS}"),
        ("photos.zip", "unpack it, and give the folder of images"),
    ):
        (folder / name).touch()
        assert refusal(folder / name).endswith(f"is a file: {advice}")


def test_a_name_that_is_nearly_a_source_or_a_folder_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    assert refusal("digts").endswith(": did you mean digits?")
    assert refusal("fotos").endswith(": did you mean photos?")


def test_a_hub_id_without_the_hub() -> None:
    message = refusal("nobody/nothing")
    told = (
        f"no folder 'nobody/nothing' in {Path.cwd()}, and it cannot be loaded from the Hugging Face Hub ("
    )
    assert message.startswith(told)
    assert "): check the spelling and data.subset, connect to the network, or log in" in message


def test_a_name_that_cannot_be_a_hub_id() -> None:
    message = refusal("my photos")
    assert f"no folder 'my photos' in {Path.cwd()}, and it cannot be loaded" in message


def test_an_empty_folder(folder: Path) -> None:
    assert "has no images or Parquet files" in refusal(folder)


def test_a_folder_of_text(folder: Path) -> None:
    (folder / "notes.txt").write_text("nothing to see")
    assert "has no images or Parquet files, only 1 .txt: give a" in refusal(folder)


def test_a_folder_with_nothing_but_an_archive(folder: Path) -> None:
    (folder / "photos.ZIP").touch()
    assert "only 1 .zip: give a folder with images, and unpack an archive" in refusal(folder)


def test_a_table_of_numbers_is_for_python(folder: Path) -> None:
    (folder / "train.csv").write_text("a,b\n1,2")
    assert refusal(folder).endswith(
        f"only 1 .csv: give a folder with images, and unpack an archive; {NUMBERS}"
    )
    (folder / "train.csv").unlink()
    write_plain(folder, "train", {"a": [1.5, 2.5], "label": [0, 1]})
    told = "cannot tell which of a, label are images: choose one with data.image_column"
    assert refusal(folder, hold_out=0.5) == f"{told}; {NUMBERS}"


def test_images_without_class_folders(folder: Path) -> None:
    write_classes(folder, {".": [grey(1), grey(2)]})
    message = refusal(folder)
    assert "lie in the folder itself, and a class is a sub-folder of it" in message
    assert "one folder per class, with two classes or more" in message


def test_broken_parquet(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (folder / "train.parquet").write_bytes(b"PAR1 no more")
    logging = datasets.utils.logging
    logging.set_verbosity(logging.WARNING)  # Its default.
    assert f"cannot read {folder / 'train.parquet'}: " in refusal(folder)
    assert capfd.readouterr() == ("", "")
    assert logging.get_verbosity() == logging.WARNING


def test_missing_splits(folder: Path) -> None:
    hub_source(folder)
    message = refusal(folder, test_split="validation")
    there = "the source has train, test with images"
    fix = "use test_split to name another, or hold_out=0.2"
    assert message == f"no split 'validation', {there}: {fix}"
    message = refusal(folder, train_split="exam")
    assert message == f"no split 'exam', {there}: use train_split to name another"


def test_a_column_that_is_not_there(folder: Path) -> None:
    hub_source(folder)
    for what, others in {"image": ("img", "label"), "label": ("y", "image")}.items():
        for name in others:
            assert refusal(folder, **{f"{what}_column": name}) == (
                f"data.{what}_column: no column '{name}' that can be {what}s; there are image, label"
            )


def test_labels_that_could_be_several_columns(folder: Path) -> None:
    columns = {"image": [png(grey(1))], "age": [3], "id": [7], "w": [0.5]}
    write_plain(folder, "train", columns)
    message = refusal(folder, hold_out=0.5)
    assert "cannot tell which of image, age, id, w are labels: choose" in message
    assert "choose one with data.label_column" in message


@pytest.mark.parametrize("label", [-1, None])
def test_an_unknown_label(folder: Path, label: int | None) -> None:
    hub_source(folder, labels=[0, 1, label, 0])
    message = refusal(folder)
    told = (
        "no label (None): give it one" if label is None else "label -1, which is none of the 2 classes of"
    )
    assert message.startswith(f"split 'test', row 2 (from 0) has {told}")


def test_a_test_label_that_training_lacks(folder: Path) -> None:
    images = [png(grey(k)) for k in range(3)]
    write_plain(folder, "train", {"image": images, "label": ["a", "b", "a"]})
    write_plain(folder, "test", {"image": images, "label": ["a", "c", "b"]})
    message = refusal(folder)
    assert message.startswith(
        "split 'test', row 1 (from 0) has label 'c', which is none of the 2 classes of"
    )


def test_a_test_split_without_labels(folder: Path) -> None:
    write_plain(folder, "train", {"image": [png(grey(k)) for k in range(4)], "label": [0, 1, 0, 1]})
    write_plain(folder, "test", {"image": [png(grey(k)) for k in range(4)]})
    message = refusal(folder)
    assert message.startswith("split 'test' has no column 'label', as the training split has, but image: ")


def test_one_class(folder: Path) -> None:
    for split in ("train", "test"):
        write_plain(folder, split, {"image": [png(grey(1))] * 2, "label": [4, 4]})
    assert "two classes or more, column 'label' has 4 alone" in refusal(folder)


def test_sizes_that_differ_within_a_split(folder: Path) -> None:
    write_classes(folder / "train", {"a": [grey(1)], "b": [grey(2, 6, 7)]})
    write_classes(folder / "test", {"a": [grey(1)], "b": [grey(2)]})
    message = refusal(folder)
    assert "a/000.png is 4×5 pixels and" in message
    assert "b/000.png is 6×7: " in message
    assert "such as data.image_size=4x5" in message
    options = {"image_size": (3, 4), "validation": 0.0}
    assert load_data(DataConfig(source=str(folder), **options)).sample_shape == (1, 3, 4)  # type: ignore[arg-type]


def test_sizes_that_differ_between_splits(folder: Path) -> None:
    hub_source(folder, images=[png(grey(k, 6, 7)) for k in range(4)])
    message = refusal(folder)
    told = "train images are 4×5 pixels, test images are 6×7 pixels"
    assert message == f"{told}: give one size, such as data.image_size=4x5"


def test_a_broken_image_is_named_by_its_row(folder: Path) -> None:
    whole = png(grey(1))
    hub_source(folder, images=[whole, whole, whole[:-20], whole])
    assert refusal(folder).startswith("cannot read image in row 2 of split 'test': ")


def test_a_broken_image_is_named_by_its_file(folder: Path) -> None:
    for split in ("train", "test"):
        write_classes(folder / split, {"a": [grey(1)], "b": [grey(2)]})
    broken = folder / "test" / "b" / "000.png"
    broken.write_bytes(b"not an image")
    assert refusal(folder).startswith(f"cannot read image {broken}: ")


def test_a_row_without_an_image(folder: Path) -> None:
    hub_source(folder, images=[png(grey(1)), None, png(grey(1)), png(grey(1))])
    assert refusal(folder) == "there is no image in row 1 of split 'test'"


def test_an_empty_split(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    splits = open_source(DataConfig(source=str(hub_source(folder))))
    splits["test"] = replace(splits["test"], left_out=frozenset(range(4)))
    monkeypatch.setattr(load_module, "open_source", lambda *_: splits)
    assert refusal(folder).startswith("no split 'test', the source has train with images: use test_split")


def test_too_few_images_to_validate_on(folder: Path) -> None:
    hub_source(folder)
    message = refusal(folder, validation=0.01)
    assert "0.01 of 8 images in 2 classes holds out none" in message
    assert "or a larger share" in message


@pytest.mark.parametrize(("missing", "source"), [("PIL.Image", "FOLDER"), ("sklearn.datasets", "digits")])
def test_a_missing_library_names_the_extra(
    folder: Path, missing: str, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_classes(folder, {"a": [grey(1)], "b": [grey(2)]})
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=r"pip install '\.\[data\]' in a checkout"):
        load_data(DataConfig(source=source.replace("FOLDER", str(folder))))


@pytest.mark.filterwarnings("ignore:not used, of what is in")
def test_one_class_whose_only_neighbour_has_no_images_is_told_by_folder(folder: Path) -> None:
    for split in ("train", "test"):
        write_classes(folder / split, {name: [*map(grey, range(3))] for name in "ab"})
    for file in (folder / "train/b").iterdir():
        file.rename(file.with_suffix(""))
    told = (
        f"{folder / 'train'} has images in the folder a alone, and none with a known extension are in b: "
    )
    assert f"two classes or more, {told}" in refusal(folder)


def test_one_class_where_others_are_only_named(folder: Path) -> None:
    for split in ("train", "test"):
        images = [png(grey(k)) for k in range(20)]
        write_hub(folder, split, images, {"label": [1] * 20}, {"label": ["cat", "dog", "owl"]})
    assert "two classes or more, column 'label' has dog alone" in refusal(folder)


def test_all_images_that_cannot_be_read_are_named_at_once(folder: Path) -> None:
    for split in ("train", "test"):
        write_classes(folder / split, {name: [grey(k) for k in range(4)] for name in "ab"})
    broken = [folder / "train" / name / "001.png" for name in "ab"]
    for file in broken:
        file.write_bytes(file.read_bytes()[:40])
    message = refusal(folder)
    assert all(f"cannot read image {file}: " in message for file in broken)
    assert "data.skip_unreadable=true" in message
    config = DataConfig(source=str(folder), validation=0.0, skip_unreadable=True)
    with pytest.warns(UserWarning, match="2 of 8 images of split 'train' are left out"):
        data = load_data(config)
    assert len(data.train) == 6
    assert data.train.labels.bincount().tolist() == [3, 3]


def test_folders_that_are_too_deep_are_named(folder: Path) -> None:
    for name in "ab":
        write_classes(folder / "train" / name, {"deep": [grey(k) for k in range(3)]})
    assert "lie in train/a/deep, and a class is a sub-folder" in refusal(folder)


@pytest.mark.filterwarnings("default:classes with a single training image")
def test_a_class_with_one_image_is_said(folder: Path) -> None:
    images = {"a": [grey(k) for k in range(3)], "lonely": [grey(9)]}
    for split in ("train", "test"):
        write_classes(folder / split, images)
    with pytest.warns(UserWarning, match="classes with a single training image: lonely"):
        load_data(DataConfig(source=str(folder), validation=0.0))
