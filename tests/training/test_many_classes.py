"""Pair methods on many classes: predictions are cut short, say so, and can be asked for in full."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from command import run
from trifecta import Callback, RunConfig, Trainer, get_method, load, train

CLASSES = 25
CONFIG = RunConfig(
    method=get_method("trifecta"), network="mlp", width=0.01, epochs=1, batch_size=25, precision="fp32"
)


def images(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(count)
    return torch.randint(0, 256, (count, 1, 6, 6), generator=draw, dtype=torch.uint8), torch.arange(
        count
    ) % CLASSES


class Counting(Callback):
    """How many images were to be scored, and how many were."""

    def __init__(self) -> None:
        self.announced, self.scored = 0, 0

    def on_evaluation_begin(self, trainer: Trainer, images: int) -> None:
        self.announced += images

    def on_evaluation_step(self, trainer: Trainer, images: int) -> None:
        self.scored += images


def test_a_run_says_what_it_leaves_out_and_leaves_whole_files(tmp_path: Path) -> None:
    counting = Counting()
    with pytest.warns(UserWarning, match="tries each of 25 labels to predict; behind block 1 it continues"):
        done = train(
            CONFIG,
            data=images(100),
            validation=images(50),
            test=images(75),
            out=tmp_path / "run",
            callbacks=[counting],
        )
    assert done.result["shortlist"] == {"labels": 20, "after": 1}
    assert counting.scored == counting.announced == 2 * 50 + 75
    lines = (tmp_path / "run/history.jsonl").read_text().splitlines()
    assert all("Infinity" not in line and "NaN" not in line for line in lines)
    assert json.loads(lines[-1])["positive_score"][-1] is not None
    model = load(tmp_path / "run")
    scores = model.scores(images(3)[0])
    assert scores.isfinite().sum(1).tolist() == [20] * 3


@pytest.mark.filterwarnings("ignore:.* are training:UserWarning")
def test_few_classes_and_one_pass_need_no_shortlist() -> None:
    few = (images(60)[0], torch.arange(60) % 3)
    assert train(CONFIG, data=few, test=few).result["shortlist"] is None
    one_pass = replace(CONFIG, method=get_method("superfecta"))
    assert train(one_pass, data=images(100), test=images(50)).result["shortlist"] is None


@pytest.mark.slow
@pytest.mark.filterwarnings("always:method trifecta tries each")
def test_the_command_line_tries_all_labels_where_it_is_told_to(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for split, count in (("train", 100), ("test", 50)):
        for index, (image, label) in enumerate(zip(*images(count), strict=True)):
            folder = tmp_path / "data" / split / f"{int(label):02}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.squeeze(0).numpy()).save(folder / f"{index:03}.png")
    small = ["--network", "mlp", "--width", "0.01", "--epochs", "1", "--batch-size", "25"]
    given = ["--method", "trifecta", "--precision", "fp32", "--out", str(tmp_path / "run"), *small]
    status, _, error = run(capsys, "train", "--data", tmp_path / "data", *given)
    assert (status, error.count("tries each of 25 labels")) == (0, 1)
    image = next((tmp_path / "data/test").rglob("*.png"))
    for options, count in (((), 20), (("--shortlist", "5"), 5), (("--shortlist", "0"), 25)):
        status, out, error = run(capsys, "predict", tmp_path / "run", image, "--json", *options)
        assert status == 0
        goodness = json.loads(out)[0]["goodness"].values()
        assert sum(value is not None for value in goodness) == count
        assert (f"with the {count} likeliest" in error) == (count < 25)
        status, _, error = run(capsys, "evaluate", tmp_path / "run", *options)
        assert status == 0
        assert (f"with the {count} likeliest" in error) == (count < 25)
