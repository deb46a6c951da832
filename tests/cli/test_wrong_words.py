"""What is typed wrong: the nearest right word, and advice that the command can follow."""

from pathlib import Path

import click
import pytest

from command import run
from trifecta import get_method
from trifecta._utils.references import nearest
from trifecta.options import in_options

TRAIN = ("train", "--data", "digits")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["trian"], "no command 'trian': did you mean train?"),
        (["help"], "no command 'help': did you mean --help?"),
        (["bench", "sped"], "no command 'sped': did you mean speed?"),
        ([*TRAIN, "--lr", "0.1"], "has no option --lr: did you mean --learning-rate?"),
        ([*TRAIN, "--batch_size", "8"], "has no option --batch_size: did you mean --batch-size?"),
        ([*TRAIN, "--epoch", "1"], "has no option --epoch: did you mean --epochs?"),
        ([*TRAIN, "--gpu", "0"], "has no option --gpu: did you mean --device?"),
        ([*TRAIN, "--dropout", "0.1"], "did you mean --set method.dropout=VALUE?"),
        (["predict", "--lr", "0.1"], "trifecta predict has no option --lr: see trifecta predict --help"),
        (["evaluate", "x", "--epoch", "3"], "has no option --epoch: see trifecta evaluate --help"),
        ([*TRAIN, "--out", ""], "a value is empty: received ''; give one, or leave its option out"),
        (["predict", "run", ""], "a value is empty: received ''"),
        ([*TRAIN, "--timeout", "-1"], "-1.0 is not in the range x>0"),
        ([*TRAIN, "--image-size", "99999"], "images of 99999×99999 pixels would take"),
        (
            [*TRAIN, "--set", "nosuch=1"],
            "known: data, method, network, width, channels, epochs, batch_size,",
        ),
        (["bench", "speed", "--batch-size", "0"], "0 is not in the range x>=1"),
        (["bench", "speed", "--out", "/"], "File '/' is a directory"),
        (["reproduce", "--data-root", "/nosuch"], "Directory '/nosuch' does not exist"),
        ([*TRAIN, "--network", "smal"], "unknown network 'smal': did you mean small?"),
        ([*TRAIN, "--recipe", "nosuch"], "see trifecta list --recipes"),
        (
            [*TRAIN, "--set", "method.dropuot=1"],
            "unknown setting of method 'dropuot': did you mean dropout?",
        ),
        (
            ["compare", "--data", "digits", "--methods", "qqq"],
            "unknown method 'qqq': known: superfecta",
        ),
    ],
)
def test_a_wrong_word_is_answered_with_the_nearest_right_one(
    capsys: pytest.CaptureFixture[str], arguments: list[str], line: str
) -> None:
    status, _, error = run(capsys, *arguments)
    assert (status, error.count("\n")) == (2, 1)
    assert line in error


def test_python_names_the_nearest_method_too() -> None:
    with pytest.raises(ValueError, match=r"unknown method 'superfekta': did you mean superfecta\?$"):
        get_method("superfekta")


def test_names_are_near_by_their_beginning_a_part_their_initials_and_their_letters() -> None:
    names = ["learning-rate", "batch-size", "image-size", "epochs"]
    assert nearest("lr", names) == ["learning-rate"]
    assert nearest("size", names) == ["batch-size", "image-size"]
    assert nearest("batch", names) == ["batch-size"]
    assert nearest("epoks", names) == ["epochs"]
    assert nearest("q", names) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["--epochs", "2", "--set", "epochs=3"],
        ["--set", "epochs=2", "--set", "epochs=3"],
        ["--method", "ff", "--set", "method.name=other"],
        ["--learning-rate", "0.1", "--set", "method.optimizer.learning_rate=0.2"],
        ["--set", "method.schedule.cycle=3", "--set", "method.schedule=overlapping:2"],
    ],
)
def test_two_values_for_one_setting_are_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: list[str]
) -> None:
    status, _, error = run(capsys, *TRAIN, *arguments, "--out", tmp_path / "run")
    assert (status, error.count("\n")) == (2, 1)
    assert "two values for" in error
    assert not (tmp_path / "run").exists()


MESSAGE = "several columns (a, b): choose one with data.label_column, or give hold_out=0.2"
EVERY = ["--data", "--epochs", "--batch-size", "--set assigned", "--import"]


@pytest.mark.parametrize(
    ("message", "options", "told"),
    [
        (
            MESSAGE,
            EVERY,
            "several columns (a, b): choose one with --set data.label_column, or give --set "
            "data.hold_out=0.2",
        ),
        (MESSAGE, ["--data"], "several columns (a, b)"),
        ("too large: use a smaller batch_size", EVERY, "too large: use a smaller --batch-size"),
        ("too large: use a smaller batch_size", ["--data"], "too large"),
        ("alike: method.name is 'a' in process 0", ["--method"], "alike: --method is 'a' in process 0"),
        ("one loss: use parallel=data", ["--parallel"], "one loss: use --parallel data"),
        ("no split 'b': use split=NAME", ["--split"], "no split 'b': use --split NAME"),
        (
            "epochs must be at least 1: received epochs=0",
            [],
            "epochs must be at least 1: received epochs=0",
        ),
        (
            "not settings: no number (in method.dropout)",
            EVERY,
            "not settings: no number (in method.dropout)",
        ),
        ("cannot read data.source/batch_size.png", EVERY, "cannot read data.source/batch_size.png"),
        (
            "a part of mine: name it with imports=['mine'] if",
            EVERY,
            "a part of mine: name it with --import mine if",
        ),
        (
            "network a(input_shape, width=…, style=…) fails",
            EVERY,
            "network a(input_shape, width=…, style=…) fails",
        ),
        (
            "it has not ended: trifecta.resume('my runs/a')",
            [],
            "it has not ended: trifecta train --resume 'my runs/a'",
        ),
        (
            """stopped; continue with: trifecta.resume("my sister's")""",
            [],
            """stopped; continue with: trifecta train --resume 'my sister'"'"'s'""",
        ),
    ],
)
def test_messages_name_options_that_the_command_has(message: str, options: list[str], told: str) -> None:
    params = [click.Option(option.split()) for option in options]
    assert in_options(message, click.Command("any", params=list(params))) == told
