"""The run's page: one file that needs nothing else and shows what the run holds."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from command import run
from trifecta import RunConfig, Trainer, get_method, train
from trifecta.data import ImageData
from trifecta.report.page import render, write_report

SMALL = RunConfig(method=get_method("trifecta"), width=0.05, epochs=2, batch_size=40, precision="fp32")


class Reader(HTMLParser):
    """Collects what a page would load, and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        wanted = {"src", "href", "xlink:href"}
        values = [value for name, value in attrs if name in wanted and value]
        self.loads += [value for value in values if not value.startswith(("#", "data:"))]
        assert tag != "script"

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_page_loads_nothing_and_escapes_names(stripes: ImageData) -> None:
    named = replace(stripes, classes=("<b>bold</b>", "tom & jerry", "plain"))
    done = train(SMALL, data=named)
    page = render(done)
    reader = Reader()
    reader.feed(page)
    assert reader.loads == []
    assert "<b>bold" not in page
    assert "tom & jerry" in reader.text
    assert f"{100 * done.test_accuracy:.2f}%" in reader.text
    # Losses, accuracies, scores, a histogram a block, the confusion matrix.
    assert page.count("<svg") == 3 + 6 + 1
    assert re.search(r"epochs:\s+2", reader.text)


def test_only_the_command_draws(
    capsys: pytest.CaptureFixture[str], stripes: ImageData, stripes_folder: Path, tmp_path: Path
) -> None:
    done = train(SMALL, data=stripes, out=tmp_path / "run")
    assert not (tmp_path / "run/report.html").exists()
    with pytest.raises(ValueError, match="needs a run folder"):
        write_report(replace(done, trainer=Trainer(SMALL, data=stripes)))
    small = ["--width", "0.05", "--epochs", "1", "--batch-size", "40", "--precision", "fp32"]
    assert run(capsys, "train", "--data", stripes_folder, "--out", tmp_path / "told", *small)[0] == 0
    assert (tmp_path / "told/report.html").stat().st_size > 10_000
