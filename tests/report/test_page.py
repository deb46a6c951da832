"""The run's page: one file that needs nothing else and shows what the run holds."""

import html
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure

from command import run
from trifecta import Run, RunConfig, Trainer, from_module, get_method, train
from trifecta.data import ImageData
from trifecta.report import figures
from trifecta.report import page as insight
from trifecta.report.page import render, write_report
from trifecta.report.terminal import print_run
from trifecta.training import RunFolder
from users_networks import GPT

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


@pytest.fixture(scope="module")
def done(stripes: ImageData, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run on classes with names that a page must not act on."""
    named = replace(stripes, classes=("<script>$\\frac$", "tom & jerry", "esc\x1b[31m nul\x00 bell\x07"))
    return train(SMALL, data=named, out=tmp_path_factory.mktemp("runs") / "done")


@pytest.fixture(scope="module")
def page(done: Run) -> str:
    return render(done)


def test_a_page_loads_nothing_and_escapes_names(done: Run, page: str) -> None:
    reader = Reader()
    reader.feed(page)
    assert reader.loads == []
    # In tables and, as text, in the confusion matrix.
    assert reader.text.count("<script>$\\frac$") > 1
    assert reader.text.count("tom & jerry") > 1
    assert f"{100 * done.test_accuracy:.2f}%" in reader.text
    assert f"log loss {done.result['log_loss']:.3f}, calibration error" in reader.text
    assert f"temperature {done.result['temperature']:.3g}, fitted on validation images" in reader.text
    # Losses, accuracies, scores; what blocks add and hold; a histogram a block; the confusion matrix.
    assert page.count("<svg") == 3 + 2 + 6 + 1
    assert re.search(r"epochs:\s+2", reader.text)
    assert not re.search(r"[\x00-\x08\x0b-\x1f]", page)
    assert "bell\ufffd" in page


def test_each_bar_of_what_blocks_add_names_its_blocks(done: Run, page: str) -> None:
    accuracy = done.test.cumulative_accuracy
    assert f"<title>0: {accuracy[0]:.4g}</title>" in page
    assert f"<title>0–5: {accuracy[5]:.4g}</title>" in page
    assert "those of block 5 alone" in page


def test_blocks_are_shown_in_the_epoch_whose_weights_are_kept(
    done: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(done.trainer, "kept_epoch", 1)
    monkeypatch.setattr(done.network, "readout_blocks", (1, 2))
    page, losses = render(done), done.trainer.history[0]["loss"]
    print_run(done, Path("somewhere"))
    assert "loss, epoch 1<" in page
    assert re.search(r"sum the scores of blocks\s+1, 2", page)
    for text in (page, capsys.readouterr().out):
        assert all(f"{loss:.4f}" in text for loss in losses)


def test_names_with_dollars_and_controls_stand_in_figures_as_they_are() -> None:
    svg = figures.curves({r"$\frac$": [(1, 0.5)], "a_{$": [(1, 0.5)]}, "epoch", "accuracy").svg()
    assert r"$\frac$" in svg
    assert "a_{$" in svg


def test_a_line_goes_through_the_points_that_have_a_value(tmp_path: Path) -> None:
    lines: dict[str, figures.Points] = {
        "block 0": [(1, None), (2, 0.25), (3, None)],
        "block 1": [(1, 0.5), (2, None), (3, 0.125)],
        "block 2": [(1, None)],
    }
    chart = figures.curves(lines, "epoch", "loss")
    chart.save(tmp_path / "loss.svg")
    for svg in (chart.svg(), (tmp_path / "loss.svg").read_text()):
        assert re.findall(r"<title>(.*?)</title>", svg) == [
            *("block 0, epoch 2: 0.25", "block 1, epoch 1: 0.5", "block 1, epoch 3: 0.125"),
        ]
    assert "block 2" not in chart.svg()


def test_only_lines_that_go_together_share_a_colour_and_each_has_a_look_of_its_own() -> None:
    plain, references = [f"block {k}" for k in range(23)], [f"backprop {k}" for k in range(5)]
    lines: dict[str, figures.Points] = {
        name: [(1, 0.5), (2, 0.5)] for name in (*plain, "pair of block 0", *references)
    }
    axes = Figure().add_subplot()
    drawn = figures.curves(lines, "epoch", "loss", dashed=["pair of block 0"], references=references)
    drawn.draw(axes)
    looks = {
        str(line.get_label()): (line.get_color(), line.get_marker(), line.get_linestyle())
        for line in axes.get_lines()
    }
    assert len(set(looks.values())) == len(lines)
    assert looks["pair of block 0"] == (*looks["block 0"][:2], "--")
    assert {looks[name][::2] for name in references} == {("k", "--")}


@pytest.mark.slow
def test_scores_that_a_shortlist_left_out_are_not_drawn(done: Run) -> None:
    left_out = [None if s is None else torch.full_like(s, -torch.inf) for s in done.test.positive]
    without = replace(done, test=replace(done.test, positive=left_out))
    assert render(without).count("<svg") == 3 + 2 + 1


def test_only_the_command_draws(
    done: Run, capsys: pytest.CaptureFixture[str], stripes: ImageData, stripes_folder: Path, tmp_path: Path
) -> None:
    assert done.trainer.folder is not None
    assert not done.trainer.folder.report.exists()
    with pytest.raises(ValueError, match="needs a run folder"):
        write_report(replace(done, trainer=Trainer(SMALL, data=stripes)))
    small = ["--width", "0.05", "--epochs", "1", "--batch-size", "40", "--precision", "fp32"]
    assert run(capsys, "train", "--data", stripes_folder, "--out", tmp_path / "told", *small)[0] == 0
    assert (tmp_path / "told/report.html").stat().st_size > 10_000


@pytest.fixture(scope="module")
def pages(page: str) -> dict[str, str]:
    """A pair method, one epoch of a one-pass method with many classes, and a table without pictures."""
    draw = torch.Generator().manual_seed(0)
    table = (torch.randn(200, 5, generator=draw), torch.arange(200) % 3)
    tokens = torch.randint(0, 10, (200, 7), generator=draw)
    given = (tokens[:, :-1], tokens[:, 1:])
    many = torch.randint(0, 256, (600, 3, 8, 8), generator=draw, dtype=torch.uint8)
    quick = replace(SMALL, method=get_method("pred"), epochs=1)
    plain = replace(quick, network="mlp", width=0.01)
    positions = replace(plain, method=get_method("mono-forward"))
    names = [f"a rather long name {k}" for k in range(30)]
    return {
        "pairs": page,
        "many": render(train(quick, data=(many, torch.arange(600) % 30), classes=names)),
        "table": render(train(plain, data=table)),
        "tokens": render(train(positions, data=given, network=from_module(GPT()))),
    }


@pytest.mark.slow
def test_pages_show_what_there_is_and_nothing_else(pages: dict[str, str]) -> None:
    for name in ("pairs", "many"):
        assert "Most confident mistakes" in pages[name] or "True and wrong" in pages[name]
        assert 'src="data:image/png' in pages[name]
    assert "a rather long name 29" in pages["many"]
    for name in ("table", "tokens"):
        assert "data:image/png;base64" not in re.sub(r"<svg.*?</svg>", "", pages[name], flags=re.DOTALL)
    for each in pages.values():
        assert "Memory by block" in each
        assert re.search(r"<title>block 0, epoch 1: ", each)


def test_maps_are_those_of_a_gradient_by_hand(stripes: ImageData) -> None:
    network = train(replace(SMALL, method=get_method("mono-forward")), data=stripes).network.eval()
    samples, labels = torch.randn(2, *stripes.sample_shape), torch.tensor([0, 2])
    maps = insight.input_maps(network, samples, labels)
    seen = samples.clone().requires_grad_()
    features, _ = network.pass_block(0, seen)
    own = network.head(0).scores(features).gather(1, labels.unsqueeze(1))
    (gradient,) = torch.autograd.grad(own.sum(), seen)
    expected = (gradient * samples).abs().sum(1)
    first = maps[0]
    assert first is not None
    assert torch.allclose(first, expected / expected.amax((1, 2), keepdim=True))


@pytest.mark.slow
def test_a_page_is_written_anew_and_runs_are_put_beside_each_other(
    capsys: pytest.CaptureFixture[str],
    stripes_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    small = ["--width", "0.05", "--epochs", "1", "--batch-size", "40", "--precision", "fp32"]
    runs = [tmp_path / name for name in ("one", "two")]
    assert run(capsys, "train", "--data", stripes_folder, "--out", runs[0], *small)[0] == 0
    shutil.copytree(runs[0], runs[1])
    before = (runs[0] / "report.html").read_text()
    (runs[0] / "report.html").unlink()
    assert run(capsys, "report", runs[0])[:2] == (0, f"{runs[0] / 'report.html'}\n")
    assert (runs[0] / "report.html").read_text() == before
    assert run(capsys, "report", *runs, "--out", tmp_path / "both.html")[0] == 0
    assert run(capsys, "report", *runs)[1] == "compared.html\n"
    assert (tmp_path / "compared.html").read_text() == (tmp_path / "both.html").read_text()
    reader = Reader()
    reader.feed((tmp_path / "both.html").read_text())
    assert reader.loads == []
    assert {"one", "two"} <= set(reader.text.split())
    (runs[1] / "result.json").unlink()
    for arguments in ([runs[1]], runs):
        status, _, error = run(capsys, "report", *arguments)
        assert (status, error.count("\n")) == (2, 1)


def test_settings_that_differ_are_shown_without_those_that_have_a_column(tmp_path: Path) -> None:
    settings = {
        "one": "{seed: 0, keep: last, epochs: 1, method: {name: ff, optimizer: {learning_rate: 0.1}}}",
        "two": "{seed: 1, batch_size: 8, epochs: 2, method: {name: ff, optimizer: {learning_rate: 0.2}}}",
    }
    folders = {name: RunFolder(tmp_path / name) for name in settings}
    for name, folder in folders.items():
        folder.path.mkdir()
        folder.config.write_text(settings[name])
    assert insight.differing(folders) == {
        "keep": ["last", "–"],
        "batch_size": ["–", "8"],
        "method.optimizer.learning_rate": ["0.1", "0.2"],
    }


BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
MEASURE = """<script>document.title = JSON.stringify({
  wide: document.documentElement.scrollWidth, window: window.innerWidth,
  figures: [...document.querySelectorAll("svg, img")].map(e => e.getBoundingClientRect().height)
})</script>"""


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no browser is installed")
@pytest.mark.parametrize(
    ("width", "names"), [(1280, ["pairs"]), (390, ["pairs", "many", "table", "tokens"])]
)
def test_a_browser_draws_every_figure_within_the_window(
    pages: dict[str, str], tmp_path: Path, width: int, names: list[str]
) -> None:
    for name in names:
        file = tmp_path / f"{name}.html"
        file.write_text(pages[name].replace("</body>", f"{MEASURE}</body>"))
        assert BROWSER is not None
        command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},2000"]
        done = subprocess.run(
            [*command, "--enable-logging=stderr", "--dump-dom", file.as_uri()],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        found = re.search(r"<title>(\{.*?\})</title>", done.stdout)
        assert found is not None
        measured = json.loads(html.unescape(found[1]))
        assert measured["wide"] <= measured["window"], name
        assert measured["figures"]
        assert all(height > 10 for height in measured["figures"])
        assert "CONSOLE" not in done.stderr
