"""Wrong command lines, settings, run folders, images and tables: each ends in one line or does its work."""

import contextlib
import io
import json
import os
import random
import re
import shutil
import signal
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import torch
from PIL import Image

from trifecta import launch
from trifecta.cli import main
from trifecta.data import ImageData

# Done, diverged, a mistake, a file that cannot be written, interrupted.
STATUSES = {0, 1, 2, 3, 130}
# What is accepted trains no longer than this; then comes a Ctrl-C.
SECONDS = 20.0
# The share of trainings that draw their page, which takes longer than they do.
PAGES = 0.1
ODD = [
    *(
        "",
        " ",
        "0",
        "-1",
        "1",
        "2",
        "0.5",
        "-0.0",
        "1e400",
        "nan",
        "inf",
        "99999999999999999999",
        "1_0",
        "0x10",
    ),
    *("None", "true", "[]", "{}", "[1, 2]", "a b", "../x", "/", "~", "é", "日本", "\U0001f4a5", "\x1b[31m"),
    *(
        "a\nb",
        "*a",
        "&a x",
        "!!python/object:os.system x",
        "x" * 300,
        "superfecta",
        "digits",
        "-h",
        "--",
        "3:x",
    ),
]
OPTIONS = [
    *(
        "--data",
        "--method",
        "--network",
        "--width",
        "--epochs",
        "--batch-size",
        "--learning-rate",
        "--seed",
    ),
    *("--device", "--precision", "--validation", "--out", "--resume", "--recipe", "--set", "--augment"),
    *("--image-size", "--import", "--on-nan", "--json", "--keep", "--split", "--shortlist", "--unknown"),
]


@dataclass(kw_only=True)
class Fuzzed:
    """What a fuzzer found.

    Attributes:
        cases: by kind and exit status.
        failures: each with all that is needed to see it again.
    """

    cases: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)


class Fuzzer:
    """Makes cases and runs them in this process.

    Args:
        work: an empty folder.
        data: small images.
        seed: of everything.
    """

    def __init__(self, work: Path, data: ImageData, seed: int) -> None:
        self.work, self.draw = work, random.Random(seed)
        self.source = work / "source"
        for index, (image, label) in enumerate(zip(data.train.images, data.train.labels, strict=True)):
            folder = self.source / data.classes[int(label)]
            folder.mkdir(parents=True, exist_ok=True)
            if index < 60:
                Image.fromarray(image.squeeze(0).numpy()).save(folder / f"{index}.png")
        self.run = work / "finished"
        self.base = [
            *("train", "--data", str(self.source), "--set", "data.hold_out=0.2", "--network", "mlp"),
            *("--width", "0.01", "--epochs", "1", "--batch-size", "8", "--precision", "fp32"),
        ]
        # The first command also imports what the others need.
        status, told = self._main([*self.base, "--out", str(self.run)], seconds=60)
        assert status == 0, told
        self.kinds: dict[str, Callable[[], list[str]]] = {
            "command line": self._command_line,
            "settings": self._settings,
            "run folder": self._run_folder,
            "checkpoint": self._checkpoint,
            "image": self._image,
            "table": self._table,
        }

    def go(self, cases: int) -> Fuzzed:
        """Run so many cases."""
        found = Fuzzed()
        kinds = list(self.kinds)
        for number in range(cases):
            kind = kinds[number % len(kinds)]
            self.case = self.work / "case"
            shutil.rmtree(self.case, ignore_errors=True)
            self.case.mkdir()
            arguments = self.kinds[kind]()
            status, told = self._main(arguments)
            found.cases[f"{kind}: {status}"] += 1
            problem = _problem(status, told)
            if problem:
                found.failures.append(
                    f"case {number}, {kind}: {problem}: trifecta {arguments!r}: {told[-2000:]}"
                )
        return found

    def _main(self, arguments: list[str], seconds: float = SECONDS) -> tuple[int | None, str]:
        """Run the command; its exit status, None for a traceback, and what it told."""
        out, err = io.StringIO(), io.StringIO()
        previous = signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
        signal.setitimer(signal.ITIMER_REAL, seconds)
        before = Path.cwd()
        os.chdir(self.work)
        try:
            with contextlib.ExitStack() as stack:
                stack.enter_context(contextlib.redirect_stdout(out))
                stack.enter_context(contextlib.redirect_stderr(err))
                stack.enter_context(warnings.catch_warnings())
                warnings.simplefilter("always")
                if self.draw.random() > PAGES:
                    stack.enter_context(mock.patch.object(launch, "write_report"))
                main(arguments)
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else None
            return status, err.getvalue()
        except BaseException:
            return None, f"{err.getvalue()}\n{traceback.format_exc()}"
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, previous)
            os.chdir(before)

    def _odd(self) -> str:
        return self.draw.choice(ODD)

    def _command_line(self) -> list[str]:
        command = self.draw.choice(
            ["train", "train", "evaluate", "predict", "report", "list", "shrink", "export"]
        )
        if command == "train":
            arguments = [*self.base, "--out", str(self.case / "run")]
        else:
            arguments = [command, str(self.run)]
        for _ in range(self.draw.randint(1, 3)):
            place = self.draw.randint(1, len(arguments))
            change = self.draw.randint(0, 3)
            if change == 0 and place < len(arguments):
                arguments[place] = self._odd()
            elif change == 1 and place < len(arguments):
                del arguments[place]
            else:
                arguments[place:place] = [self.draw.choice(OPTIONS), self._odd()]
        return arguments

    def _settings(self) -> list[str]:
        text = (self.run / "config.yaml").read_text()
        file = self.case / "config.yaml"
        file.write_text(self._changed_text(text))
        return ["train", "--recipe", str(file), "--out", str(self.case / "run")]

    def _changed_text(self, text: str) -> str:
        lines = text.splitlines()
        for _ in range(self.draw.randint(1, 3)):
            place = self.draw.randrange(len(lines))
            change = self.draw.randint(0, 4)
            if change <= 2 and ":" in lines[place]:
                lines[place] = f"{lines[place].split(':')[0]}: {self._odd()}"
            elif change == 3:
                lines.insert(place, self.draw.choice(lines))
            else:
                del lines[place]
            lines = lines or [""]
        return "\n".join(lines) + "\n"

    def _run_folder(self) -> list[str]:
        copy = Path(shutil.copytree(self.run, self.case / "run"))
        name = self.draw.choice(["config.yaml", "history.jsonl", "result.json", "model.safetensors"])
        file = copy / name
        change = self.draw.randint(0, 3)
        if change == 0:
            file.unlink()
        elif change == 1:
            file.write_bytes(self._damaged(file.read_bytes()))
        elif change == 2:
            file.write_bytes(self._odd().encode())
        elif name == "config.yaml":
            file.write_text(self._changed_text(file.read_text()))
        elif name != "model.safetensors":
            lines = file.read_text() if name == "result.json" else file.read_text().splitlines()[0]
            changed = self._changed_value(json.loads(lines), depth=self.draw.randint(1, 3))
            file.write_text(json.dumps(changed) + "\n")
        return self._use(copy)

    def _use(self, run: Path) -> list[str]:
        image = next(self.source.rglob("*.png"))
        return self.draw.choice(
            [
                ["evaluate", str(run)],
                ["predict", str(run), str(image)],
                ["train", "--resume", str(run)],
                ["train", "--resume", str(run), "--epochs", "2"],
                ["report", str(run), str(self.run), "--out", str(self.case / "page.html")],
            ]
        )

    def _damaged(self, content: bytes) -> bytes:
        damaged = bytearray(content)
        for _ in range(self.draw.randint(1, 4)):
            if not damaged:
                break
            place = self.draw.randrange(len(damaged))
            change = self.draw.randint(0, 2)
            if change == 0:
                damaged[place] = self.draw.randrange(256)
            elif change == 1:
                del damaged[place : place + self.draw.randint(1, 100)]
            else:
                del damaged[place:]
        return bytes(damaged)

    def _checkpoint(self) -> list[str]:
        """Contents that are not what they should be, in a file that is whole."""
        copy = Path(shutil.copytree(self.run, self.case / "run"))
        (copy / "result.json").unlink()
        file = copy / "checkpoint/state.pt"
        state = torch.load(file, weights_only=True)
        torch.save(self._changed_value(state, depth=self.draw.randint(1, 5)), file)
        return ["train", "--resume", str(copy), "--epochs", "2"]

    def _changed_value(self, value: Any, depth: int) -> Any:
        if depth and isinstance(value, dict) and value:
            name = self.draw.choice(list(value))
            return value | {name: self._changed_value(value[name], depth - 1)}
        if depth and isinstance(value, list) and value:
            place = self.draw.randrange(len(value))
            return [*value[:place], self._changed_value(value[place], depth - 1), *value[place + 1 :]]
        others: list[Any] = [None, 0, -1, 7, 1e30, float("nan"), "x", [], {}, True, {"a": 1}]
        if isinstance(value, torch.Tensor):
            others += [
                torch.zeros(2),
                value.double(),
                value.flatten()[:1],
                value * float("nan"),
                value.to(torch.complex64),
            ]
        return self.draw.choice(others)

    def _image(self) -> list[str]:
        mode = self.draw.choice(["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "F", "I"])
        size = self.draw.choice([(1, 1), (8, 8), (1, 300), (33, 7)])
        image = Image.new("L", size, self.draw.randrange(256))
        image = image.convert(mode) if mode not in ("I;16", "F") else Image.new(mode, size, 5)
        suffix = self.draw.choice(["png", "jpg", "gif", "tiff", "webp", "bmp", "ppm"])
        buffer = io.BytesIO()
        try:
            image.save(buffer, {"jpg": "jpeg"}.get(suffix, suffix))
        except (OSError, ValueError, KeyError):
            image.convert("RGB").save(buffer, "png")
        content = buffer.getvalue()
        if self.draw.random() < 0.8:
            content = self._damaged(content)
        file = self.case / f"{self.draw.choice(['a', 'a b', 'é', '-x', '%20'])}.{suffix}"
        file.write_bytes(content)
        return ["predict", str(self.run), str(self.draw.choice([file, self.case]))]

    def _table(self) -> list[str]:
        count = self.draw.choice([0, 1, 2, 12])
        buffer = io.BytesIO()
        Image.fromarray(np.full((8, 8), 9, np.uint8)).save(buffer, "png")
        values: list[list[Any]] = [
            [buffer.getvalue()] * count,
            [{"bytes": buffer.getvalue(), "path": None}] * count,
            [{"bytes": None, "path": "../x.png"}] * count,
            [None] * count,
            [b"not an image"] * count,
            [k % 3 for k in range(count)],
            [None if k % 4 == 0 else k % 2 for k in range(count)],
            [f"class {k % 2}" for k in range(count)],
            [float(k) for k in range(count)],
            [[k] for k in range(count)],
        ]
        names = ["image", "label", "labels", "img", "x", "target", ""]
        chosen = self.draw.sample(names, self.draw.randint(1, 4))
        columns = {name: self.draw.choice(values) for name in chosen}
        columns |= {"image": values[self.draw.randint(0, 1)]} if self.draw.random() < 0.5 else {}
        columns |= {"label": values[5]} if self.draw.random() < 0.5 else {}
        folder = self.case / "source"
        folder.mkdir()
        pq.write_table(pa.table(columns), folder / "train.parquet")
        if self.draw.random() < 0.5:
            file = folder / "train.parquet"
            file.write_bytes(self._damaged(file.read_bytes()))
        base = [str(folder) if a == str(self.source) else a for a in self.base]
        return [*base, "--out", str(self.case / "run")]


def _problem(status: int | None, told: str) -> str:
    """What is wrong with how a command ended; nothing, if all is well."""
    # Python swallows a Ctrl-C that comes within a callback of its own.
    told = re.sub(
        r"Exception ignored in: .*?\n(Traceback.*?\n)?( .*\n|\n)*KeyboardInterrupt: ?\n", "", told
    )
    if status is None or "Traceback" in told:
        return "a traceback"
    if status not in STATUSES:
        return f"exit status {status}"
    complaints = [line for line in told.splitlines() if line.startswith("trifecta: ")]
    if status and len(complaints) != 1:
        return f"{len(complaints)} lines of complaint"
    if "\x1b[31m" in told:
        return "control characters"
    return ""
