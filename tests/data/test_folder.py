"""Local folders: which file is of which split and class, and what is said of the rest."""

import os
import shutil
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import datasets
import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
import torch
from PIL import Image

from trifecta.data import DataConfig, ImageData, load_data, load_split, read_images
from trifecta.data.folder import list_folder

from .helpers import grey, hub_source, png, write_classes, write_hub, write_plain

WORDS = [
    *("train", "bullet train", "0_train", "training", "crash-test", "testing", "test.tube", "eval", "val"),
    *("__background__", ".cat", "[a]*", "a%20b", "dev", "日本"),
]


def load(folder: Path, **options: Any) -> ImageData:
    return load_data(DataConfig(source=str(folder), **{"validation": 0.0, **options}))


def greys(data: ImageData) -> tuple[list[int], list[int]]:
    """What tells the images of ``write``, of the training and of the test split."""
    return data.train.images[:, 0, 1, 1].tolist(), data.test.images[:, 0, 1, 1].tolist()


def write(folder: Path, *classes: str, splits: tuple[str, ...] = ("train", "test"), count: int = 2) -> Path:
    """Every image is of another grey, counted from 0."""
    value = 0
    for split in splits:
        for name in classes:
            write_classes(folder / split, {name: [grey(value + k) for k in range(count)]})
            value += count
    return folder


def counts(folder: Path, **options: str) -> dict[str, int]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {name: len(rows) for name, rows in list_folder(folder, **options).items()}


def test_names_of_classes_mean_nothing(folder: Path) -> None:
    data = load(write(folder, *WORDS))
    assert data.classes == tuple(sorted(WORDS))
    assert [sorted(values) for values in greys(data)] == [[*range(30)], [*range(30, 60)]]


def test_nor_do_they_without_splits(folder: Path) -> None:
    data = load(write(folder, *WORDS, splits=(".",), count=5), hold_out=0.2)
    assert data.classes == tuple(sorted(WORDS))
    assert (len(data.train), len(data.test)) == (60, 15)


def test_names_of_files_mean_nothing(folder: Path) -> None:
    for name in ("cat", "dog"):
        (folder / name).mkdir()
        for k in range(20):
            file = folder / name / f"{('train', 'test', 'val', '.hidden')[k % 4]}-{k}.PNG"
            file.write_bytes(png(grey(k)))
    assert counts(folder) == {"train": 40}


@pytest.mark.parametrize(
    ("split", "names"),
    [
        ("train", ["train", "Train", "TRAIN", "training"]),
        ("test", ["test", "Testing"]),
        ("validation", ["val", "Val", "valid", "validation", "dev"]),
        ("exam", ["exam"]),
        ("eval", ["eval"]),
    ],
)
def test_folders_at_the_top_are_splits_in_any_case(folder: Path, split: str, names: list[str]) -> None:
    other = "test" if split == "train" else "train"
    write(folder, "cat", "dog", splits=(names[0], other), count=3)
    for before, name in zip([names[0], *names], names, strict=False):
        (folder / before).rename(folder / name)
        assert counts(folder) == {split: 6, other: 6}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = load(folder, train_split=name, test_split=other)
    assert greys(data) == ([*range(6)], [*range(6, 12)])


def test_a_validation_split_is_used_and_nothing_is_taken_from_training(folder: Path) -> None:
    write(folder, "cat", "dog", splits=("train", "val", "test"), count=3)
    data = load(folder, validation=0.1)
    assert data.validation is not None
    assert data.validation.images[:, 0, 1, 1].tolist() == [*range(6, 12)]
    assert greys(data) == ([*range(6)], [*range(12, 18)])
    with pytest.warns(UserWarning, match=r"that are not used: validation \(6 images\)"):
        assert load(folder, validation=0.0).validation is None


def test_a_validation_split_may_be_the_test_split(folder: Path) -> None:
    write(folder, "cat", "dog", splits=("train", "val"), count=3)
    data = load(folder, test_split="val", validation=0.4)
    assert data.validation is not None
    assert (len(data.train), len(data.validation)) == (4, 2)
    assert greys(data)[1] == [*range(6, 12)]


def test_a_split_twice_is_refused(folder: Path) -> None:
    write(folder, "cat", "dog", splits=("TRAIN", "train", "test"))
    with pytest.raises(
        ValueError, match="the folders TRAIN and train are the same split, train: make them one"
    ):
        load(folder)


def test_images_that_lie_in_a_split_itself_have_no_class(folder: Path) -> None:
    write(folder, "train", "test", splits=(".",))
    with pytest.raises(ValueError, match=r"images of .* lie in test, and a class is a sub-folder of it"):
        load(folder, hold_out=0.5)


@pytest.mark.parametrize("classes", [("control", "test"), ("bus", "Train")])
def test_two_classes_one_of_which_is_named_like_a_split(folder: Path, classes: tuple[str, str]) -> None:
    write(folder, *classes, splits=(".",), count=5)
    with pytest.warns(UserWarning, match=f"the folders {', '.join(sorted(classes))} are taken for classes"):
        data = load(folder, hold_out=0.2)
    assert data.classes == tuple(sorted(classes))
    assert data.counts == {"train": (4, 4), "test": (1, 1)}


def test_images_beside_splits_and_classes_are_told(folder: Path) -> None:
    write(folder, "cat", "dog", splits=("train", "test", "other"))
    for place in (".", "train"):
        write_classes(folder, {place: [grey(99)]})
    with (
        pytest.warns(UserWarning, match=": 000.png, train/000.png$"),
        pytest.warns(UserWarning, match=r"not used: other \(4 images\)$"),
    ):
        assert greys(load(folder)) == ([*range(4)], [*range(4, 8)])


def test_classes_in_deeper_folders_are_refused(folder: Path) -> None:
    write(folder, "cat", "dog")
    write_classes(folder / "train/cat", {"more": [grey(1)]})
    with pytest.raises(ValueError, match=r"images of .* lie in train/cat/more, and a class is"):
        load(folder)


def test_links_are_followed(folder: Path, tmp_path: Path) -> None:
    there = write(tmp_path / "there", "cat", "dog")
    for split in ("train", "test"):
        (folder / split).symlink_to(there / split)
    assert greys(load(folder)) == ([*range(4)], [*range(4, 8)])
    (there / "train/bird").symlink_to(there / "test/dog")
    assert len(list_folder(folder)["train"]) == 6


def test_a_link_to_nothing_is_an_image_that_cannot_be_read(folder: Path) -> None:
    write(folder, "cat", "dog")
    (folder / "train/cat/gone.png").symlink_to(folder / "nowhere.png")
    with pytest.raises(ValueError, match=r"cannot read image .*/train/cat/gone.png: .*No such file"):
        load(folder)
    with pytest.warns(UserWarning, match=r"1 of 5 images of split 'train' are left out: .*gone.png"):
        assert greys(load(folder, skip_unreadable=True)) == ([*range(4)], [*range(4, 8)])


def test_a_closed_folder_is_named() -> None:
    with TemporaryDirectory() as name:
        folder = write(Path(name), "cat", "dog")
        folder.chmod(0o755)
        (folder / "train/cat").chmod(0)
        was = os.geteuid()
        os.seteuid(was or 65534)  # root may read everything
        try:
            with pytest.raises(ValueError, match=r"cannot read folder '.*train/cat/?': Permission denied"):
                list_folder(folder)
        finally:
            os.seteuid(was)
            (folder / "train/cat").chmod(0o755)


def test_what_programs_leave_behind_is_left_alone(folder: Path) -> None:
    write(folder, "cat", "dog")
    write_classes(folder / "train", {".ipynb_checkpoints": [grey(99)]})
    write_classes(folder, {"__MACOSX": [grey(99)]})
    for name in ("._000.png", ".DS_Store", "Thumbs.db"):
        (folder / "train/cat" / name).write_bytes(b"no image")
    assert greys(load(folder)) == ([*range(4)], [*range(4, 8)])


def test_names_in_other_bytes_of_unicode_are_one_class(folder: Path) -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    write(folder, composed, "dog", splits=("train",))
    write(folder, decomposed, "dog", splits=("test",))
    data = load(folder)
    assert data.classes == (composed, "dog")
    assert data.test.labels.tolist() == [0, 0, 1, 1]


PATHS = ("set [AB]", "run*", "who?", "a{b,c}", "#1 100%", "~", "$HOME", "a::b")


def test_paths_are_paths(tmp_path: Path) -> None:
    for beside in ("set A", "run-old", "whoa", "ab"):
        hub_source(write(tmp_path / beside, "x", "y", splits=("train",), count=1))
    for k, name in enumerate(PATHS):
        place = tmp_path / name / "inner" if k % 2 else tmp_path / name
        assert greys(load(write(place, "cat", "dog"))) == ([*range(4)], [*range(4, 8)])
        assert len(load(hub_source(place / "rows")).train) == 8


def test_files_beside_images_are_counted(folder: Path) -> None:
    write(folder, "cat", "dog")
    for image in list(folder.rglob("*.png")):
        image.with_suffix(".json").write_text("{}")
    (folder / "train/dog/odd.heic").touch()
    (folder / "README.md").write_text("Cats and dogs.")
    with pytest.warns(UserWarning, match=r"not used, .*: 8 .json, 1 .heic$"):
        assert greys(load(folder)) == ([*range(4)], [*range(4, 8)])


def test_images_beside_parquet_are_refused(folder: Path) -> None:
    write(hub_source(folder), "cat", "dog")
    with pytest.raises(
        ValueError, match=r"has images, such as test/cat/000.png, and test-00.*: give one kind"
    ):
        load(folder)


@pytest.mark.parametrize(
    ("files", "splits"),
    [
        (["train.parquet", "test.parquet"], {"train": 1, "test": 1}),
        (["data/train-00000-of-00001-ab12.parquet", "data/test-0.parquet"], {"train": 1, "test": 1}),
        (["Train/0.parquet", "Train/1.parquet", "dev/train.parquet"], {"train": 2, "validation": 1}),
        (["mnist-train.parquet", "mnist_test.parquet"], {"train": 1, "test": 1}),
        (["part-0.parquet", "part-1.parquet"], {"train": 2}),
        (["default/train/0.parquet", "default/test/0.parquet"], {"train": 1, "test": 1}),
        (["train-00000-of-00001.parquet", "extra-00000-of-00001.parquet"], {"train": 1, "extra": 1}),
    ],
)
def test_parquet_files_are_of_the_split_that_they_say(
    folder: Path, files: list[str], splits: dict[str, int]
) -> None:
    for name in files:
        write_plain((folder / name).parent, Path(name).stem, {"image": [png(grey(1))], "label": [0]})
    assert counts(folder) == splits


def test_a_column_that_contradicts_the_names_of_files_is_told(folder: Path) -> None:
    for split, told in (("train", ["train", "test"] * 2), ("test", ["test"] * 4)):
        images = [png(grey(k + 50 * len(split))) for k in range(4)]
        write_plain(folder, split, {"image": images, "label": [0, 1, 1, 0], "split": told})
    with pytest.warns(
        UserWarning, match="'split' of split 'train' names test, train: it is not used"
    ) as said:
        assert load(folder).counts == {"train": (2, 2), "test": (2, 2)}
    assert len(said) == 1


@pytest.mark.parametrize(("scaled", "shape"), [("train", (8, 8)), ("test", (8, 8)), ("test", (8, 8, 3))])
def test_bytes_of_another_range_than_training_are_refused(folder: Path, scaled: str, shape: Any) -> None:
    draw = np.random.default_rng(0)
    for split in ("train", "test"):
        size, most = (shape, 1) if split == scaled else ((8, 8), 255)
        images = {
            name: [draw.integers(0, 2, size, np.uint8) * most for _ in range(2)] for name in ("a", "b")
        }
        write_classes(folder / split, images)
    with pytest.raises(ValueError, match="split 'test' is on another scale than train: channel 0 is"):
        load(folder)


def test_parquet_files_of_one_split_with_other_classes_are_refused(folder: Path, tmp_path: Path) -> None:
    hub_source(folder)
    write_plain(folder, "train-1", {"image": [png(grey(1))], "label": [0]})
    with pytest.raises(
        ValueError, match=r"train-1.parquet has other columns or classes than .*train-00000"
    ):
        load(folder)


def test_images_of_many_row_groups_keep_their_order(folder: Path) -> None:
    for split, start in (("train", 0), ("test", 100)):
        rows: dict[str, list[Any]] = {
            "image": [png(grey(start + k)) for k in range(90)],
            "label": [k % 2 for k in range(90)],
        }
        for shard, part in enumerate((slice(0, 37), slice(37, 90))):
            table = pa.table({name: values[part] for name, values in rows.items()})
            pq.write_table(table, folder / f"{split}-{shard:05}-of-00002.parquet", row_group_size=7)
    data = load(folder)
    assert greys(data) == ([*range(90)], [*range(100, 190)])
    assert data.train.labels.tolist() == [k % 2 for k in range(90)]


def test_splits_that_name_their_classes_in_another_order_are_matched(folder: Path) -> None:
    for split, names in (("train", ["cat", "dog"]), ("test", ["dog", "cat"])):
        images = [png(grey(k)) for k in range(4)]
        write_hub(folder, split, images, {"label": [0, 1, 0, 1]}, {"label": names})
    assert load(folder).test.labels.tolist() == [1, 0, 1, 0]


def test_a_folder_of_save_to_disk_is_read(folder: Path) -> None:
    source = hub_source(folder / "parquet")
    before = load(source)
    splits = datasets.load_dataset(
        "parquet", data_files={name: [str(*source.glob(f"{name}-*"))] for name in ("train", "test")}
    )
    splits.save_to_disk(str(folder / "saved"))
    data = load(folder / "saved")
    assert data.train.images.equal(before.train.images)
    assert data.test.labels.equal(before.test.labels)
    assert data.classes == ("cat", "dog")
    with pytest.raises(ValueError, match=r"has files .arrow and .parquet: give one kind"):
        load(folder)


@pytest.mark.parametrize("has_state", [True, False])
def test_what_map_leaves_beside_saved_data_is_not_read(folder: Path, *, has_state: bool) -> None:
    source = hub_source(folder / "parquet")
    files = {name: [str(*source.glob(f"{name}-*"))] for name in ("train", "test")}
    saved = folder / "saved"
    datasets.load_dataset("parquet", data_files=files).save_to_disk(str(saved))
    datasets.load_from_disk(str(saved))["train"].map(lambda row: {"label": 1 - row["label"]})
    (copy,) = saved.glob("train/cache-*.arrow")
    if has_state:
        copy = copy.rename(copy.with_name("other.arrow"))
    else:
        (saved / "train/state.json").unlink()
    with pytest.warns(UserWarning, match=rf"not used, .*: train/{copy.name}$"):
        data = load(saved)
    assert data.train.labels.tolist() == [0, 1] * 4
    if has_state:
        (saved / "train/data-00000-of-00001.arrow").unlink()
        with pytest.raises(ValueError, match=r"state.json names data-00000-of-00001.arrow, not there: "):
            load(saved)


@pytest.mark.parametrize(
    "shards",
    [["00000-of-00003", "00002-of-00003-ab"], ["00000-of-00001", "00000-of-00002", "00001-of-00002"]],
)
def test_shards_that_are_not_as_many_as_they_say_are_refused(folder: Path, shards: list[str]) -> None:
    for name in [*(f"train-{shard}" for shard in shards), "test-00000-of-00001"]:
        write_plain(folder, name, {"image": [png(grey(1))], "label": [0]})
    received = ", ".join(f"train-{shard}.parquet" for shard in shards)
    with pytest.raises(ValueError, match=f"as many as they say, each once: received {received}; add what"):
        load(folder)


def test_a_broken_arrow_file_is_named(folder: Path) -> None:
    (folder / "train").mkdir()
    (folder / "train/data-00000-of-00001.arrow").write_bytes(b"ARROW1" + bytes(100))
    with pytest.raises(ValueError, match=r"cannot read .*data-00000-of-00001.arrow: "):
        load(folder)


def test_images_in_both_splits_are_counted(folder: Path) -> None:
    write(folder, "cat", "dog", count=10)
    for k in range(6):
        for name in ("cat", "dog"):
            image = folder / f"train/{name}/00{k}.png"
            (folder / f"test/{name}/copy-{k}.png").write_bytes(image.read_bytes())
    with pytest.warns(UserWarning, match="12 of 32 test images are training images too, value by value"):
        load(folder)


def test_files_replaced_under_their_name_size_and_date_are_read_anew(folder: Path) -> None:
    write(folder, "cat", "dog")
    file = folder / "train/cat/000.png"
    for value in (60, 61):
        file.write_bytes(png(grey(value)))
        os.utime(file, ns=(10**18, 10**18))
        assert file.stat().st_size == len(png(grey(60)))
        assert greys(load(folder))[0][0] == value


def test_a_parquet_file_replaced_under_its_name_and_date_is_read_anew(folder: Path, tmp_path: Path) -> None:
    load(hub_source(folder))
    other = hub_source(tmp_path / "other", images=[png(grey(104 - k)) for k in range(1, 5)])
    file = folder / "test-00000-of-00001.parquet"
    before = file.stat()
    file.write_bytes((other / file.name).read_bytes())
    assert file.stat().st_size == before.st_size
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert greys(load(folder))[1] == [103, 102, 101, 100]


def deep(folder: Path, name: str, values: list[int]) -> None:
    """Two images of 16-bit greys in a class."""
    (folder / name).mkdir(parents=True)
    for number, value in enumerate(values):
        pixels = np.full((4, 5), value, np.uint16)
        pixels[0, 0] = values[0]
        Image.fromarray(pixels).save(folder / name / f"{number}.png")


def test_greys_of_sixteen_bits_are_scaled_by_the_range_of_the_training_images(folder: Path) -> None:
    for split, values in (("train", [1000, 1510, 2020]), ("test", [1000, 1102, 4000])):
        for name in ("cat", "dog"):
            deep(folder / split, name, values)
    for _ in range(2):  # decoded, and from the cache
        data = load(folder)
        assert data.grey_range == (1000, 2020)
        assert greys(data) == ([0, 128, 255] * 2, [0, 26, 255] * 2)


@pytest.mark.filterwarnings("ignore:.* test images are training images too")
@pytest.mark.parametrize(("train", "test"), [(4095, 65535), (65535, 1023)])
def test_greys_of_another_range_than_training_are_refused(folder: Path, train: int, test: int) -> None:
    for split, most in (("train", train), ("test", test)):
        for name in ("cat", "dog"):
            deep(folder / split, name, [most * k // 8 for k in range(9)])
    for _ in range(2):
        with pytest.raises(ValueError, match=rf"images have greys of another range than .* 0 to {train}\b"):
            load(folder)


def test_a_few_levels_are_said(folder: Path) -> None:
    pixels = np.array([0, 65535, *range(3000, 3070)], np.uint16).reshape(8, 9)
    for name in ("cat", "dog"):
        for split in ("train", "test"):
            (folder / split / name).mkdir(parents=True)
            Image.fromarray(pixels).save(folder / split / name / "0.png")
    for _ in range(2):
        with (
            pytest.warns(UserWarning, match=r"of 72 greys from 0 to 65535, 3 are left in 8 bits: clip"),
            pytest.warns(UserWarning, match="classes with a single training image"),
        ):
            load(folder)


@pytest.mark.parametrize("deep_split", ["train", "test"])
def test_splits_of_other_depths_are_refused(folder: Path, deep_split: str) -> None:
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            if split == deep_split:
                deep(folder / split, name, [1000, 2000])
            else:
                write_classes(folder / split, {name: [grey(1), grey(2)]})
    for _ in range(2):
        with pytest.raises(ValueError, match="save all alike"):
            load(folder)


@pytest.mark.parametrize(("trained", "other"), [((0, 4095), 65535), ((0, 65535), 1023)])
def test_other_data_with_greys_of_another_range_than_training_are_refused(
    folder: Path, trained: tuple[int, int], other: int
) -> None:
    for name in ("cat", "dog"):
        deep(folder / name, ".", [other * k // 50 for k in range(51)])
    for _ in range(2):
        with pytest.raises(ValueError, match="images have greys of another range than the training images"):
            load_split(DataConfig(source=str(folder)), None, ("cat", "dog"), channels=1, grey_range=trained)
    files = sorted(folder.rglob("*.png"))
    if other > trained[1]:
        with pytest.raises(ValueError, match=r"88% of their pixels lie outside; save all with one scale"):
            read_images(files, image_shape=(1, 4, 5), grey_range=trained)
    else:  # a single dark image may be right
        with pytest.warns(
            UserWarning, match="0 to 65535 of 16 bits: they use less than a 16th of it: are they"
        ):
            read_images(files, image_shape=(1, 4, 5), grey_range=trained)


def test_other_data_with_greys_of_the_range_of_training_are_read(folder: Path) -> None:
    for name in ("cat", "dog"):
        deep(folder / name, ".", [4095 * k // 50 for k in range(51)])
    config = DataConfig(source=str(folder))
    images = load_split(config, None, ("cat", "dog"), channels=1, grey_range=(0, 4095))
    assert images.images.max() == 255
    files = sorted(folder.rglob("*.png"))
    read = read_images(files, image_shape=(1, 4, 5), grey_range=(0, 4095))
    assert torch.equal(read, images.images)


def test_class_folders_beside_a_folder_that_looks_like_a_split_are_refused(folder: Path) -> None:
    write(folder, "car", "ship", splits=(".",))
    write(folder, "steam", "diesel", splits=("train",))
    with pytest.raises(ValueError, match=r"images of .* lie in train/diesel, and a class is a sub-folder"):
        load(folder, hold_out=0.5)


def test_images_of_a_folder_beside_splits_are_told(folder: Path) -> None:
    write(folder, "cat", "dog")
    write(folder, "spare", splits=(".",))
    with pytest.warns(UserWarning, match=r"not used, .*: spare/000.png, spare/001.png$"):
        assert greys(load(folder)) == ([*range(4)], [*range(4, 8)])


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_class_that_a_split_lacks_is_said_in_one_line(folder: Path, split: str) -> None:
    write(folder, "cat", "dog", "eel", splits=("train", "val", "test"))
    shutil.rmtree(folder / split / "dog")
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        assert load(folder, validation=0.1).classes == ("cat", "dog", "eel")
    name = {"val": "validation"}.get(split, split)
    assert [str(one.message) for one in heard] == [f"classes without a {name} image: dog"]
