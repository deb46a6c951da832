"""A run on a folder of images, after the folder or the machine's view of it has changed."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from command import run
from trifecta import DataConfig, RunConfig, load, load_data, train

QUICK = [
    "--width",
    "0.05",
    "--epochs",
    "1",
    "--batch-size",
    "20",
    "--precision",
    "fp32",
    "--network",
    "mlp",
]


def write(folder: Path, numbers: range, top: int = 255) -> Path:
    """Images of two classes, of noise with a stripe on the left or right, as 16-bit greys above 255."""
    for number in numbers:
        for side, name in enumerate(("left", "right")):
            pixels = np.random.default_rng((number, side)).integers(0, top // 2, (8, 8))
            pixels[:, 4 * side : 4 * side + 4] += top // 2
            (folder / name).mkdir(parents=True, exist_ok=True)
            dtype = np.uint8 if top < 256 else np.uint16
            Image.fromarray(pixels.astype(dtype)).save(folder / name / f"{number:03}.png")
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos and the run that held a part of them out."""
    folder = tmp_path_factory.mktemp("own")
    data = DataConfig(source=str(write(folder / "photos", range(20))), hold_out=0.25)
    train(RunConfig(data=data, width=0.05, epochs=1, batch_size=10, network="mlp"), out=folder / "run")
    return folder


@pytest.fixture
def own(trained: Path, tmp_path: Path) -> Path:
    """A copy of them, whose run names the photos of the original."""
    shutil.copytree(trained, tmp_path / "own")
    return tmp_path / "own"


def test_a_folder_that_has_grown_is_refused(
    trained: Path, own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluated = run(capsys, "evaluate", trained / "run", "--json")
    assert json.loads(evaluated[1])["images"] == 10
    grown = write(own / "photos", range(20, 25))
    for action in ("evaluate", "named", "resume"):
        arguments: dict[str, list[str | Path]] = {
            "evaluate": ["evaluate", own / "run"],
            "named": ["evaluate", own / "run", "--data", trained / "photos"],
            "resume": ["train", "--resume", own / "run"],
        }
        photos = trained / "photos"
        photos.rename(trained / "away")
        photos.symlink_to(grown)
        try:
            status, out, err = run(capsys, *arguments[action])
        finally:
            photos.unlink()
            (trained / "away").rename(photos)
        assert (status, out) == (2, "")
        assert "40 rows" in err
        assert "50 rows" in err


def test_photos_that_have_moved_are_found_by_their_new_place(
    trained: Path, own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = json.loads(run(capsys, "evaluate", trained / "run", "--json")[1])
    (trained / "photos").rename(trained / "away")
    try:
        status, _, err = run(capsys, "evaluate", trained / "run")
        moved = json.loads(run(capsys, "evaluate", trained / "run", "--data", own / "photos", "--json")[1])
    finally:
        (trained / "away").rename(trained / "photos")
    assert status == 2
    assert f"was trained on {trained / 'photos'}, no folder" in err
    assert "--data takes its new place" in err
    assert moved["images"] == 10
    assert moved["confusion"] == before["confusion"]


@pytest.mark.parametrize("kept", ["grown", "one class"])
def test_training_images_that_lie_elsewhere_are_refused(
    own: Path, capsys: pytest.CaptureFixture[str], kept: str
) -> None:
    config = own / "run/config.yaml"
    config.write_text(config.read_text().replace("/photos", "/nowhere"))
    if kept == "grown":
        write(own / "photos", range(20, 25))
    else:
        shutil.rmtree(own / "photos/left")
    arguments: list[str | Path] = ["evaluate", own / "run", "--data", own / "photos"]
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (2, "")
    assert "has images that the network was trained on, and no test split" in err
    status, out, _ = run(capsys, *arguments, "--split", "train", "--json")
    assert json.loads(out)["images"] == (50 if kept == "grown" else 20)


def test_other_images_are_all_measured(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    others = write(own / "others", range(30, 35))
    # One of the training images is there by chance.
    shutil.copy(own / "photos/left/000.png", others / "left/copy.png")
    assert json.loads(run(capsys, "evaluate", own / "run", "--data", others, "--json")[1])["images"] == 11


def test_a_run_keeps_the_share_that_it_held_out(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments: list[str | Path] = ["evaluate", trained / "run", "--json"]
    before = json.loads(run(capsys, *arguments)[1])
    named: list[str | Path] = ["--data", trained / "photos"]
    for where in (named[:0], named):
        status, out, err = run(capsys, *arguments, *where, "--set", "data.hold_out=0.5")
        assert (status, out) == (2, "")
        assert "data.hold_out=0.5 would measure" in err
        # The share to validate on is taken from the others.
        again = run(capsys, *arguments, *where, "--set", "data.validation=0.5")[1]
        assert json.loads(again) == before


def test_images_that_were_trained_on_are_measured_only_by_their_name(
    own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = write(own / "other/train", range(20)).parent
    arguments: list[str | Path] = [
        "train",
        "--data",
        photos,
        "--set",
        "data.test_split=test",
        "--out",
        own / "new",
        *QUICK,
    ]
    write(photos / "test", range(30, 35))
    assert run(capsys, *arguments)[0] == 0
    shutil.rmtree(photos / "test")
    status, _, err = run(capsys, "evaluate", own / "new", "--data", photos)
    assert status == 2
    assert "no test split" in err or "no split 'test'" in err
    status, out, _ = run(capsys, "evaluate", own / "new", "--data", photos, "--split", "train", "--json")
    assert json.loads(out)["images"] == 40


def test_greys_of_twelve_bits_are_scaled_alike_in_training_evaluation_and_prediction(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = tmp_path / "deep", tmp_path / "run"
    for split, numbers in (("train", range(20)), ("test", range(20, 30))):
        write(folder / split, numbers, top=4095)
    config = DataConfig(source=str(folder))
    result = train(RunConfig(data=config, width=0.05, epochs=2, batch_size=10, network="mlp"), out=out)
    assert len(np.unique(load_data(config).train.images.numpy())) > 200
    evaluated = json.loads(run(capsys, "evaluate", out, "--json")[1])
    assert evaluated["accuracy"] == pytest.approx(result.test_accuracy)
    files = sorted((folder / "test").rglob("*.png"))
    scores = load(out, device="cpu").scores(files)
    model = load(out, device="cpu")
    assert torch.equal(scores, model.scores(load_data(config).test.images))
    eight = tmp_path / "eight.png"
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(eight)
    with pytest.raises(
        ValueError, match=r"eight.png: it has 8 bits, and others of its data set have greys"
    ):
        model.predict([eight])


def test_a_table_of_labels_takes_one_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file in sorted(write(tmp_path / "classes", range(20)).rglob("*.png")):
        (tmp_path / "photos").mkdir(exist_ok=True)
        file.rename(tmp_path / "photos" / f"{file.parent.name}-{file.name}")
    table = tmp_path / "photos/labels.csv"
    names = [file.name for file in sorted((tmp_path / "photos").iterdir())]
    table.write_text("\n".join(["id,label", *(f"{name},{name.partition('-')[0]}" for name in names)]))
    status, _, err = run(capsys, "train", "--data", table, "--out", tmp_path / "run", *QUICK)
    assert status == 2
    assert f"give --data {table.parent} and --set data.table=labels.csv" in err
    options = ["--set", "data.table=labels.csv", "--set", "data.hold_out=0.2", *QUICK]
    status, _, err = run(capsys, "train", "--data", table.parent, "--out", tmp_path / "run", *options)
    assert (status, json.loads((tmp_path / "run/result.json").read_text())["epochs"]) == (0, 1), err
