"""The command line as a person meets it: what works, and what every mistake gets."""

import contextlib
import io
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
import torch
from PIL import Image
from rich.console import Console

from command import run
from run_files import edit_config
from trifecta import METHODS, NETWORKS, RunConfig, Threshold, __version__, get_method, load, train
from trifecta.cli import command, main
from trifecta.launch import watched
from trifecta.options import Terminated
from trifecta.recipes import RECIPES, TABLES
from trifecta.training import RunFolder, read_config, to_plain
from trifecta.training.config import changed, parse_yaml

QUICK = ["--width", "0.05", "--epochs", "1", "--batch-size", "20", "--precision", "fp32"]


def called(*arguments: str | Path) -> str:
    """Call a command for several tests; what it prints."""
    with pytest.raises(SystemExit) as stop, contextlib.redirect_stdout(io.StringIO()) as printed:
        main([str(argument) for argument in arguments])
    assert stop.value.code == 0
    return printed.getvalue()


@pytest.fixture(scope="module")
def printed(stripes_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run folder, and what the command printed that made it."""
    out = tmp_path_factory.mktemp("trained") / "run"
    return out, called("train", "--data", stripes_folder, "--out", out, *QUICK)


@pytest.fixture(scope="module")
def trained(printed: tuple[Path, str]) -> Path:
    return printed[0]


def test_train_prints_each_blocks_accuracy_and_last_the_run_folder(printed: tuple[Path, str]) -> None:
    run, out = printed
    lines = [line.strip() for line in out.splitlines() if line.strip()]
    assert lines[-1] == f"run folder {run}"
    result = json.loads((run / "result.json").read_text())
    for block, accuracy in enumerate(result["block_accuracy"]):
        assert any(
            line.startswith(f"{block} ") and line.endswith(f"{100 * accuracy:.2f}%") for line in lines
        )
    assert any(line.startswith(f"test accuracy {100 * result['test_accuracy']:.2f}%") for line in lines)


def test_a_run_without_out_is_numbered_and_its_json_is_the_result_and_nothing_else(
    capsys: pytest.CaptureFixture[str],
    stripes_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The settings of the command line are those of the run."""
    monkeypatch.chdir(tmp_path)
    name = f"{stripes_folder.name}-ff-mlp"
    (tmp_path / "runs" / f"{name}-1").mkdir(parents=True)
    settings = ["--set", "method.objective=threshold", "--set", "method.objective.threshold=1.5"]
    own = ["--method", "ff", "--network", "mlp", *QUICK, *settings]
    status, out, err = run(capsys, "train", "--data", stripes_folder, *own, "--json")
    folder = RunFolder(Path("runs") / f"{name}-2")
    assert (status, err) == (0, "")
    assert json.loads(out) == folder.read_result() | {"run": str(folder.path)}
    assert read_config(folder.config).method.objective == Threshold(threshold=1.5)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (["objective=threshold", "objective.threshold=1.5"], {"kind": "threshold", "threshold": 1.5}),
        (["normalization=layer"], "layer"),
        (["schedule=layer-wise"], {"size": 1, "overlapping": False}),
        (["schedule=blockwise:3"], {"size": 3, "overlapping": False}),
        (["schedule=end-to-end"], {"size": 0}),
        (["schedule.trains_remainder=false"], {"size": 2, "overlapping": True, "trains_remainder": False}),
        (["label_input=overlay", "readout=1,3", "optimizer.ownership=objective"], "overlay"),
        (["objective.goodness=sum-square"], {"goodness": "sum-square"}),
        (
            ["optimizer.algorithm=torch.optim:SGD", "optimizer.arguments.momentum=0.9"],
            {"arguments": {"momentum": 0.9}},
        ),
    ],
)
def test_each_technique_is_a_setting(settings: list[str], expected: object) -> None:
    config = RunConfig(method=get_method("trifecta"))
    pairs = [setting.split("=") for setting in settings]
    varied = changed(config, {f"method.{path}": parse_yaml(value) for path, value in pairs})
    values = list(to_plain(varied)["method"].values())
    if isinstance(expected, dict):
        assert any(isinstance(v, dict) and expected.items() <= v.items() for v in values)
    else:
        assert expected in values


def test_evaluate_repeats_the_test_accuracy(capsys: pytest.CaptureFixture[str], trained: Path) -> None:
    status, out, _ = run(capsys, "evaluate", trained, "--json")
    measured = json.loads(out)
    result = json.loads((trained / "result.json").read_text())
    assert status == 0
    assert measured["accuracy"] == result["test_accuracy"]
    assert measured["block_accuracy"] == result["block_accuracy"]
    assert measured["log_loss"] == pytest.approx(result["log_loss"])
    assert measured["calibration_error"] == pytest.approx(result["calibration_error"])
    assert sum(map(sum, measured["confusion"])) == measured["images"] == 60
    status, out, _ = run(capsys, "evaluate", trained)
    assert f"accuracy {100 * result['test_accuracy']:.2f}% on 60 images" in out


def test_predict_gives_a_label_and_the_probability_of_every_class(
    capsys: pytest.CaptureFixture[str], trained: Path, stripes_folder: Path
) -> None:
    folder = stripes_folder / "test/diagonal"
    status, out, _ = run(capsys, "predict", trained, folder, "--json")
    rows = json.loads(out)
    assert status == 0
    assert [row["file"] for row in rows] == [str(file) for file in sorted(folder.iterdir())]
    for row in rows:
        assert set(row["scores"]) == {"vertical", "horizontal", "diagonal"}
        assert row["label"] == max(row["scores"], key=row["scores"].__getitem__)
        odds = {name: math.exp(score) for name, score in row["scores"].items()}
        shares = {name: value / sum(odds.values()) for name, value in odds.items()}
        assert row["probabilities"] == pytest.approx(shares)
    status, out, _ = run(capsys, "predict", trained, sorted(folder.iterdir())[0])
    assert status == 0
    assert rows[0]["label"] in out
    assert f"{100 * rows[0]['probabilities'][rows[0]['label']]:.2f}%" in out
    in_python = load(trained).predict_proba([Path(row["file"]) for row in rows])
    assert [list(row["probabilities"].values()) for row in rows] == in_python.tolist()


def test_predict_agrees_with_evaluate(
    capsys: pytest.CaptureFixture[str], trained: Path, stripes_folder: Path
) -> None:
    rows = json.loads(run(capsys, "predict", trained, stripes_folder / "test", "--json")[1])
    right = sum(Path(row["file"]).parent.name == row["label"] for row in rows)
    assert right / len(rows) == json.loads((trained / "result.json").read_text())["test_accuracy"]


def test_list_has_every_name_with_a_description(capsys: pytest.CaptureFixture[str]) -> None:
    tables = json.loads(run(capsys, "list", "--json")[1])
    assert set(tables["methods"]) == set(METHODS)
    assert set(tables["networks"]) == set(NETWORKS)
    assert set(tables["recipes"]) == set(RECIPES)
    assert all(len(text) > 10 for table in tables.values() for text in table.values())
    status, out, _ = run(capsys, "list")
    assert status == 0
    assert all(name in out for name in [*METHODS, *NETWORKS, *TABLES])
    assert "without heads" in out
    only = run(capsys, "list", "--recipes")[1]
    assert only.split()[0] == "recipes"
    assert all(name in only for name in RECIPES)


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "--version") == (0, f"trifecta, version {__version__}\n", "")
    for name in ("train", "evaluate", "predict", "list"):
        status, out, _ = run(capsys, name, "--help")
        assert status == 0
        assert "Usage: trifecta" in out
    commands: list[click.Command] = [command]
    for each in commands:
        commands += each.commands.values() if isinstance(each, click.Group) else []
        options = (own for own in each.params if isinstance(own, click.Option))
        assert [own.opts for own in options if not own.help] == [], each.name


def test_train_shows_few_options_and_all_on_demand(capsys: pytest.CaptureFixture[str]) -> None:
    few, everything = (run(capsys, "train", word)[1] for word in ("--help", "--help-all"))
    shown = re.findall(r"^  (?:-h, )?(--[a-z-]+)", few, re.MULTILINE)
    assert len(shown) <= 24
    assert "--epochs N" in few
    assert "[default: 10]" in few
    for option in (
        *shown,
        "--on-nan",
        "--sync-batch-norm",
        "--timeout",
        "method.schedule.trains_remainder",
    ):
        assert option in everything


MISTAKES = {
    "unknown method": (["--method", "trifect"], r"unknown method 'trifect': did you mean trifecta"),
    "unknown network": (["--network", "smal"], r"unknown network 'smal': did you mean small"),
    "unknown loss": (["--set", "method.objective=symetric"], r"'symetric': did you mean symmetric"),
    "unknown setting": (["--set", "method.schedul.size=2"], r"'schedul': did you mean schedule"),
    "setting without value": (["--set", "method.dropout"], r"--set takes setting=value"),
    "setting of a number": (["--set", "width.x=1"], r"expected float, received {'x': 1} \(in width\)"),
    "setting of another type": (
        ["--set", "method.schedule.size=two"],
        r"expected int, received 'two' \(in method.schedule.size\)",
    ),
    "unknown option": (["--lerning-rate", "1"], r"--lerning-rate.*--learning-rate"),
    "unknown schedule": (["--set", "method.schedule=olu"], r"unknown schedule 'olu': use layer-wise"),
    "unknown normalisation": (["--set", "method.normalization=group"], r"unknown normalization 'group'"),
    "unknown augmentation": (["--augment", "flop"], r"unknown augmentation 'flop'"),
    "not a number": (["--epochs", "many"], r"'many' is not a valid integer"),
    "no epochs": (["--epochs", "0"], r"epochs is a whole number, 1 or more: received 0"),
    "no threads": (["--set", "pipeline=0"], r"pipeline is a whole number, 1 or more: received 0"),
    "learning rate of zero": (["--learning-rate", "0"], r"learning rate must be above 0"),
    "width that leaves nothing": (["--width", "1e-9"], r"width 1e-09 leaves none of 128 channels"),
    "width beyond all memory": (["--width", "2000"], r"a network of .* weights would take .* GiB"),
    "a layout of one process": (
        ["--parallel", "layers"],
        r"--parallel layers is for several processes: received one",
    ),
    "replicas of one process": (
        ["--sync-batch-norm"],
        r"--sync-batch-norm is for several processes: received one",
    ),
    "width beyond all numbers": (["--width", "1e17"], r"a block has 1,048,576 channels at most"),
    "rate without end": (["--learning-rate", "inf"], r"--learning-rate is a finite number: received inf"),
    "alpha that is no number": (
        ["--method", "trifecta", "--set", "method.objective.alpha=.nan"],
        r"method.objective.alpha is a finite number: received nan",
    ),
    "no such recipe": (
        ["--recipe", "nosuch"],
        r"unknown recipe 'nosuch': known: one of \d+, see trifecta list --recipes",
    ),
    "no such device": (["--device", "cuda:9"], r"no such device 'cuda:9': this machine has cpu"),
    "nonsense device": (["--device", "gpu"], r"no such device 'gpu'"),
    "read-out without scores": (["--set", "method.readout='9'"], r"choose from \[0, 1, 2, 3, 4, 5\]"),
    "alpha of another loss": (
        ["--set", "method.objective=threshold", "--set", "method.objective.alpha=2"],
        r"unknown setting of objective 'alpha'",
    ),
    "pairs without labels": (["--method", "ff", "--set", "method.label_input=none"], r"change one of them"),
    "validation of everything": (["--validation", "1"], r"--validation is 0 or more and below 1"),
    "image size": (["--image-size", "big"], r"'big' is not HxW in pixels, such as 32x32"),
    "images too small": (["--image-size", "4"], r"use --image-size 8 or more"),
    "test split missing": (
        ["--set", "data.test_split=exam"],
        r"no split 'exam', the source has train, test",
    ),
    "column missing": (
        ["--set", "data.label_column=grade"],
        r"no column 'grade' that can be labels; there are image, label",
    ),
    "no such config": (["--recipe", "x.yaml"], r"cannot read settings from x.yaml"),
    "module not named": (["--network", "my_parts:tiny"], r"name it with --import my_parts"),
    "module not there": (["--import", "no_such_module"], r"cannot import no_such_module"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_gets_one_line_and_loses_nothing(
    capsys: pytest.CaptureFixture[str], stripes_folder: Path, tmp_path: Path, mistake: str
) -> None:
    options, message = MISTAKES[mistake]
    out = tmp_path / "run"
    arguments = ["train", "--data", str(stripes_folder), "--out", str(out), *QUICK, *options]
    check_complaint(*run(capsys, *arguments), message)
    assert not out.exists()


def check_complaint(status: int, out: str, err: str, message: str) -> None:
    assert status == 2
    assert out == ""
    assert err.startswith("trifecta: ")
    assert err.count("\n") == 1, err
    assert re.search(message, err), err


def test_data_mistakes_get_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    empty, one, mixed = tmp_path / "empty", tmp_path / "one", tmp_path / "mixed"
    empty.mkdir()
    (empty / "readme.txt").write_text("no images here")
    for split in ("train", "test"):
        for index in range(4):
            for root, name in ((one, "cat"), (mixed, "cat"), (mixed, "dog")):
                folder = root / split / name
                folder.mkdir(parents=True, exist_ok=True)
                Image.new("L", (8, 8), index * 9).save(folder / f"{index}.png")
    broken = mixed / "train/dog/2.png"
    broken.write_bytes(broken.read_bytes()[:40])
    for folder, message in (
        (tmp_path / "absent", "no folder .*absent"),
        (empty, "no (column of )?images"),
        (one, "two classes or more"),
        (mixed, r"cannot .*train/dog/2\.png"),
    ):
        out = tmp_path / "run"
        check_complaint(*run(capsys, "train", "--data", folder, "--out", out, *QUICK), message)
        assert not out.exists()


def test_a_folder_that_cannot_be_made_is_named(
    capsys: pytest.CaptureFixture[str], stripes_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("not a folder")
    out = tmp_path / "file/run"
    complaint = run(capsys, "train", "--data", stripes_folder, "--out", out, *QUICK)
    check_complaint(*complaint, r"cannot write to the run folder .*file/run .*choose another one")


def test_a_run_folder_is_never_overwritten(
    capsys: pytest.CaptureFixture[str], stripes_folder: Path, trained: Path
) -> None:
    before = {p: p.read_bytes() for p in trained.rglob("*") if p.is_file()}
    arguments = ["train", "--data", str(stripes_folder), "--out", str(trained), *QUICK]
    check_complaint(*run(capsys, *arguments), r"not empty; choose another one, or resume")
    assert {p: p.read_bytes() for p in trained.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize(
    "command",
    [["evaluate", "{}"], ["predict", "{}", "x.png"], ["train", "--resume", "{}"], ["report", "{}", "{}-2"]],
)
def test_what_is_not_a_run_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, command: list[str]
) -> None:
    (tmp_path / "first").mkdir()
    (tmp_path / "first/config.yaml").touch()
    arguments = [word.format(tmp_path / "absent") for word in command]
    told = rf"absent is not a run folder: there is no such folder; runs in {tmp_path}: {tmp_path}/first$"
    check_complaint(*run(capsys, *arguments), told)


def test_a_run_on_data_given_in_python_asks_for_them_again(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    samples, folder = (torch.rand(60, 1, 8, 8), torch.arange(60) % 2), str(tmp_path / "run")
    train(RunConfig(network="mlp", width=0.01, epochs=1, batch_size=20), data=samples, out=folder)
    told = r"was trained on data given in Python: hand them over again, trifecta.resume\('.*run', data=…\)"
    for words in (["report"], ["train", "--resume"]):
        check_complaint(*run(capsys, *words, folder), told)


def test_a_resumed_run_keeps_its_settings(capsys: pytest.CaptureFixture[str], trained: Path) -> None:
    arguments = ["train", "--resume", str(trained), "--network", "mlp"]
    check_complaint(*run(capsys, *arguments), r"received --network; drop it")


def test_evaluate_takes_any_split_of_any_size_with_the_same_classes(
    capsys: pytest.CaptureFixture[str], trained: Path, stripes_folder: Path, tmp_path: Path
) -> None:
    result = json.loads((trained / "result.json").read_text())
    for file in (stripes_folder / "test").rglob("*.png"):
        copy = tmp_path / file.parent.name / file.name
        copy.parent.mkdir(exist_ok=True)
        with Image.open(file) as image:
            image.resize((16, 16), Image.Resampling.NEAREST).save(copy)
    other = json.loads(run(capsys, "evaluate", trained, "--data", tmp_path, "--json")[1])
    assert other["images"] == 60
    assert other["accuracy"] == pytest.approx(result["test_accuracy"], abs=0.2)
    assert json.loads(run(capsys, "evaluate", trained, "--split", "train", "--json")[1])["images"] == 240
    complaint = run(capsys, "evaluate", trained, "--split", "exam")
    check_complaint(*complaint, r"no split 'exam', the source has train, test")
    for copy in tmp_path.rglob("*.png"):
        with Image.open(copy) as image:
            image.point(lambda value: value // 128).save(copy)
    complaint = run(capsys, "evaluate", trained, "--data", tmp_path)
    check_complaint(*complaint, r"is on another scale than train: channel 0 is")


def test_evaluate_refuses_classes_that_the_network_does_not_know(
    capsys: pytest.CaptureFixture[str], trained: Path, tmp_path: Path
) -> None:
    for name in ("cat", "diagonal"):
        (tmp_path / name).mkdir()
        for index in range(3):
            Image.new("L", (8, 8), index * 9).save(tmp_path / name / f"{index}.png")
    complaint = run(capsys, "evaluate", trained, "--data", tmp_path)
    check_complaint(*complaint, r"knows 3 classes .*: received cat too")


def test_predict_names_the_file_that_is_no_image(
    capsys: pytest.CaptureFixture[str], trained: Path, tmp_path: Path
) -> None:
    fake = tmp_path / "fake.png"
    fake.write_text("hello")
    check_complaint(*run(capsys, "predict", trained, fake), r"fake\.png")
    check_complaint(*run(capsys, "predict", trained, tmp_path / "absent.png"), r"absent\.png")


def test_divergence_names_the_block_with_status_one(
    capsys: pytest.CaptureFixture[str], stripes_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    arguments = ["--learning-rate", "1e30", "--method", "symba", *QUICK]
    status, _, err = run(capsys, "train", "--data", stripes_folder, "--out", out, *arguments)
    assert status == 1
    assert "the loss of block" in err
    assert err.strip().count("\n") == 0
    assert (out / "checkpoint/state.pt").exists()


@pytest.mark.slow
def test_ctrl_c_leaves_a_checkpoint_that_continues_to_the_same_result(
    capsys: pytest.CaptureFixture[str], stripes_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "stopped"
    longer = [*QUICK, "--method", "pred", "--network", "mlp", "--epochs", "12"]
    command = [sys.executable, "-m", "trifecta", "train", "--data", str(stripes_folder), "--out", str(out)]
    with subprocess.Popen([*command, *longer], stderr=subprocess.PIPE, text=True) as process:
        while not (out / "history.jsonl").is_file() or not (out / "history.jsonl").read_text():
            assert process.poll() is None
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGINT)
        _, err = process.communicate()
    assert process.returncode == 130, err
    assert f"continue with: trifecta train --resume {out}" in err
    assert not (out / "result.json").exists()
    assert run(capsys, "train", "--resume", out)[0] == 0
    assert run(capsys, "train", "--data", stripes_folder, "--out", tmp_path / "whole", *longer)[0] == 0
    states = [
        torch.load(tmp_path / name / "checkpoint/state.pt", weights_only=True)["network"]
        for name in ("stopped", "whole")
    ]
    assert all(torch.equal(states[0][name], tensor) for name, tensor in states[1].items())


def test_a_help_text_imports_no_library() -> None:
    program = """
import sys
from trifecta.cli import command, main
for line in ("--help", "--version", "train --help", "bench speed --help", "nosuch"):
    try:
        main(line.split())
    except SystemExit:
        print({"torch", "numpy", "rich", "sklearn"} & set(sys.modules) or "light")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.splitlines().count("light") == 5


def test_the_shell_completes_commands_and_options_without_a_library() -> None:
    for words, expected in (
        ("trifecta tr", "train"),
        ("trifecta train --ep", "--epochs"),
    ):
        asked = {
            "_TRIFECTA_COMPLETE": "bash_complete",
            "COMP_WORDS": words,
            "COMP_CWORD": str(words.count(" ")),
        }
        program = (
            "import sys\nfrom trifecta.cli import command\n"
            "try:\n    command(prog_name='trifecta')\n"
            "finally:\n    print('torch' in sys.modules)\n"
        )
        environment = os.environ | asked
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, env=environment
        )
        assert f"plain,{expected}" in done.stdout.split(), done.stderr
        assert done.stdout.splitlines()[-1] == "False"


SIGNALLED = """
import os, signal, time
from trifecta import cli

def wait(*_, **__):
    os.kill(os.getpid(), {number})
    time.sleep(60)

# What runs in the background inherits that Ctrl-C is ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
{place} = wait
cli.main({arguments})
"""


@pytest.mark.parametrize(("number", "status", "line"), [(2, 130, "interrupted"), (15, 143, "terminated")])
def test_a_signal_before_there_is_a_run_ends_with_one_line(number: int, status: int, line: str) -> None:
    place = "cli.command.commands['list'].callback"
    program = SIGNALLED.format(number=number, place=place, arguments=["list"])
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    # A terminal shows ^C before it: click begins a line of its own.
    assert (done.returncode, done.stderr.strip()) == (status, f"trifecta: {line}")


def test_a_signal_while_an_error_is_told_ends_without_a_traceback() -> None:
    program = SIGNALLED.format(number=15, place="cli.tell", arguments=["nosuch"])
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (143, "")


@pytest.mark.parametrize(("number", "kind"), [(2, KeyboardInterrupt), (15, Terminated)])
def test_the_first_signal_stops_a_training_after_its_batch_and_the_second_at_once(
    number: int, kind: type[BaseException]
) -> None:
    trainer: Any = SimpleNamespace(config=RunConfig(), callbacks=[], stop_requested=False)
    before = signal.getsignal(number)

    def twice() -> None:
        with watched(trainer, Console(quiet=True)):
            os.kill(os.getpid(), number)
            assert trainer.stop_requested
            os.kill(os.getpid(), number)
            time.sleep(1)

    with pytest.raises(kind):
        twice()
    assert signal.getsignal(number) is before


def test_a_config_that_was_cut_short_is_refused_wherever_it_was_cut(
    capsys: pytest.CaptureFixture[str], trained: Path, tmp_path: Path
) -> None:
    lines = (trained / "config.yaml").read_text().splitlines(keepends=True)
    copy = tmp_path / "run"
    shutil.copytree(trained, copy)
    for kept in range(0, lines.index("dataset:\n"), 7):
        (copy / "config.yaml").write_text("".join(lines[:kept]))
        status, _, error = run(capsys, "evaluate", copy)
        assert (status, error.count("\n")) == (2, 1), lines[kept]
        assert str(copy) in error


@pytest.mark.filterwarnings("default:.*of 99 epochs")
def test_evaluating_a_run_that_goes_on_says_so(
    capsys: pytest.CaptureFixture[str], trained: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(trained, copy)
    edit_config(copy, r"(?m)^epochs: \d+$", "epochs: 99")
    (copy / "result.json").unlink()
    status, _, error = run(capsys, "evaluate", copy)
    assert status == 0
    assert re.search(r"warning: .* has trained \d+ of 99 epochs: these are its weights so far", error)
