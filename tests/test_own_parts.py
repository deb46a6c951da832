"""Parts that are not in the package: trained, saved, loaded, resumed, refused."""

import inspect
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from command import run
from run_files import edit_config
from stopping import StopAt
from trifecta import (
    Augmentation,
    Callback,
    CSVLogger,
    DataConfig,
    EarlyStopping,
    Method,
    RunConfig,
    RunFolder,
    Symmetric,
    TensorBoardLogger,
    Trainer,
    get_method,
    load,
    methods,
    resume,
    train,
)
from trifecta.data import ImageData
from trifecta.training import Interrupted, from_plain, to_plain
from trifecta.training.callbacks import flat_record
from trifecta.training.run import finish

PAGE = (Path(__file__).parent.parent / "docs/write-a-method.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
# The page's own parts, and one of every other kind.
MORE = '''

from trifecta import LabelInput, OptimizerConfig, Symmetric, Term
from trifecta.losses import Combined, CrossEntropy


def loudest(activations):
    return activations.flatten(1).amax(1)


class Brightness(LabelInput):
    extra_channels = 1

    def forward(self, images, labels):
        level = (labels / self.num_classes).view(-1, 1, 1, 1).to(images.dtype)
        return torch.cat([images, level.expand(-1, 1, *images.shape[2:])], 1)


class LengthNorm(nn.Module):
    def forward(self, x):
        return nn.functional.normalize(x.flatten(1)).view(x.shape)


def by_length(site):
    return LengthNorm()


class Spread(nn.Module):
    def forward(self, features, labels):
        return -features.flatten(1).std(0).mean()


@dataclass(frozen=True, kw_only=True)
class SpreadTerm(Term):
    weight: float = 0.1

    def module(self, feature_shape, num_classes):
        return Spread()


def pairs():
    """Own goodness, label input, normalisation, activation and optimizer."""
    return Method(
        name="own-pairs",
        label_input=Brightness,
        objective=Symmetric(goodness=loudest),
        normalization=by_length,
        activation=nn_gelu,
        optimizer=OptimizerConfig(algorithm=torch.optim.SGD, arguments={"nesterov": False}),
    )


def nn_gelu():
    return nn.GELU()


def classes():
    """An own term beside a classifier."""
    return Method(name="own-classes", objective=Combined(scoring=CrossEntropy(), terms=(SpreadTerm(),)))
'''


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    (tmp_path / "my_parts.py").write_text(BLOCKS[0] + MORE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("my_parts", None)
    yield import_module("my_parts")
    sys.modules.pop("my_parts", None)


def config_of(method: Method, folder: Path, **changes: object) -> RunConfig:
    settings = {"network": "small", "width": 0.05, "epochs": 2, "batch_size": 40, "precision": "fp32"}
    return RunConfig(data=DataConfig(source=str(folder)), method=method, **(settings | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["hinge", "pairs", "classes"])
def test_own_parts_train_stop_resume_load_and_predict(
    parts: ModuleType, name: str, stripes_folder: Path, stripes: ImageData, tmp_path: Path
) -> None:
    method = getattr(parts, name)()
    config = config_of(method, stripes_folder, network=parts.tiny, width=1.0)
    whole = train(config, out=tmp_path / "whole")
    trainer = Trainer(config, folder=RunFolder(tmp_path / "stopped"), callbacks=[StopAt(8)])
    with pytest.raises(Interrupted):
        finish(trainer)
    with pytest.raises(ValueError, match=r"my_parts, which runs code of its own: name it with imports="):
        resume(tmp_path / "stopped")
    resumed = resume(tmp_path / "stopped", imports=["my_parts"])
    for key, value in whole.network.state_dict().items():
        assert torch.equal(resumed.network.state_dict()[key], value), key
    model = load(tmp_path / "stopped", imports=[parts])
    assert model.network.method == method
    predicted = model.predict(stripes.test.images)
    right = [stripes.classes[k] == p for k, p in zip(stripes.test.labels.tolist(), predicted, strict=True)]
    assert sum(right) / len(right) == resumed.test_accuracy
    assert from_plain(to_plain(config), imports=["my_parts"]) == config


def test_loading_imports_nothing_that_was_not_named(
    parts: ModuleType, stripes_folder: Path, tmp_path: Path
) -> None:
    train(config_of(parts.classes(), stripes_folder, epochs=1), out=tmp_path / "run")
    (tmp_path / "trap.py").write_text("raise SystemExit('imported')")
    edit_config(tmp_path / "run", "my_parts:SpreadTerm", "trap:SpreadTerm")
    sys.modules.pop("my_parts")
    for imports in ((), ("my_parts",)):
        with pytest.raises(ValueError, match=r"imports=\[.trap.\]"):
            load(tmp_path / "run", imports=imports)
    assert "trap" not in sys.modules


@pytest.mark.parametrize(
    "reference", ["my_parts:torch.hub.load", "my_parts:dataclass", "torch.optim:lr_scheduler", "os:system"]
)
def test_a_stranger_cannot_reach_through_a_module(parts: ModuleType, reference: str) -> None:
    plain = to_plain(RunConfig(method=get_method("pred")))
    plain["method"]["optimizer"]["algorithm"] = reference
    with pytest.raises(ValueError, match=r"is no part|name it with imports=|has no"):
        from_plain(plain, imports=["my_parts"])


@pytest.mark.slow
def test_the_command_line_takes_own_parts(
    parts: ModuleType, capsys: pytest.CaptureFixture[str], stripes_folder: Path, tmp_path: Path
) -> None:
    own = ["--import", "my_parts"]
    names = [
        "--method",
        "my_parts:hinge",
        "--network",
        "my_parts:tiny",
        "--set",
        "method.objective.margin=2",
    ]
    small = ["--epochs", "1", "--batch-size", "20", "--precision", "fp32", "--out", str(tmp_path / "run")]
    status, _, err = run(capsys, "train", "--data", stripes_folder, *own, *names, *small)
    assert status == 0, err
    assert load(tmp_path / "run", imports=own[1:]).network.method.objective == parts.Hinge(margin=2.0)
    assert run(capsys, "evaluate", tmp_path / "run", *own)[0] == 0
    status, _, err = run(capsys, "evaluate", tmp_path / "run")
    assert status == 2
    assert "name it with --import my_parts" in err
    image = next((stripes_folder / "test").rglob("*.png"))
    assert run(capsys, "predict", tmp_path / "run", image, *own)[0] == 0
    assert run(capsys, "train", "--resume", tmp_path / "run", "--epochs", "2", *own)[0] == 0


def test_a_name_alone_is_answered_with_the_own_part_of_that_name(parts: ModuleType) -> None:
    # Not Hinge, which is its objective.
    with pytest.raises(ValueError, match=r"unknown method 'hinge': did you mean my_parts:hinge\?"):
        get_method("hinge", imports=["my_parts.py"])
    plain = to_plain(RunConfig()) | {"network": "tiny"}
    with pytest.raises(ValueError, match=r"unknown network 'tiny': did you mean my_parts:tiny\?"):
        from_plain(plain, imports=["my_parts.py"])


def test_a_method_at_the_top_of_a_module_is_a_part(parts: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import trifecta\nmethod = trifecta.Method(name='mine', objective=trifecta.CrossEntropy())\n"
    )
    assert get_method("mine:method", imports=[str(tmp_path / "mine.py")]).name == "mine"
    sys.modules.pop("mine", None)


def test_the_pages_python_runs(parts: ModuleType) -> None:
    names: dict[str, object] = {}
    exec(BLOCKS[1], names)
    assert float(names["accuracy"]) > 0.7  # type: ignore[arg-type]


def test_what_has_no_name_trains_but_is_not_saved(stripes: ImageData, tmp_path: Path) -> None:
    method = Method(
        name="own", label_input="channel", objective=Symmetric(goodness=lambda a: a.flatten(1).mean(1))
    )
    config = RunConfig(method=method, width=0.05, epochs=1, batch_size=20)
    assert train(config, data=stripes).result["epochs"] == 1
    with pytest.raises(ValueError, match="needs a name at the top of a module"):
        train(config, data=stripes, out=tmp_path / "run")


def blocks(width: int = 8) -> list[nn.Module]:
    torch.manual_seed(3)
    first = nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2)
    )
    return [first, nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())]


def test_own_blocks_are_handed_over_to_train_and_to_load(stripes: ImageData, tmp_path: Path) -> None:
    config = RunConfig(method=get_method("superfecta"), epochs=4, batch_size=20)
    done = train(config, data=stripes, network=blocks(), out=tmp_path / "run")
    assert done.test_accuracy > 0.9
    with pytest.raises(ValueError, match="give them in Python, as network="):
        load(tmp_path / "run")
    model = load(tmp_path / "run", network=blocks())
    expected = done.network.eval()(torch.zeros(1, 1, 8, 8))
    assert torch.equal(model.network(torch.zeros(1, 1, 8, 8)), expected)
    further = resume(tmp_path / "run", epochs=5, data=stripes, network=blocks())
    assert further.result["epochs"] == 5


def test_tensors_datasets_and_loaders_are_data(stripes: ImageData) -> None:
    config = RunConfig(method=get_method("pred"), width=0.05, epochs=4, batch_size=40)
    images, labels = stripes.train.images, stripes.train.labels
    test = (stripes.test.images, stripes.test.labels)
    from_bytes = train(config, data=(images, labels), test=test, classes=stripes.classes)
    assert from_bytes.test_accuracy > 0.9
    assert from_bytes.trainer.facts.classes == stripes.classes
    floats, test_floats = images / 127.5 - 1, (stripes.test.images / 127.5 - 1, stripes.test.labels)
    assert train(config, data=(floats, labels)).test_accuracy > 0.9
    dataset = TensorDataset(floats, labels)
    for data in (dataset, DataLoader(dataset, 20, shuffle=True)):
        run_ = train(config, data=data, test=test_floats)
        assert run_.test_accuracy > 0.9
        assert run_.result["data"] == "given"
    with pytest.raises(ValueError, match="needs test images beside it"):
        train(config, data=dataset)
    with pytest.raises(ValueError, match=r"takes images \(C, H, W\)"):
        train(config, data=(floats.flatten(1), labels))


def test_a_run_on_a_dataset_repeats_and_resumes(stripes: ImageData, tmp_path: Path) -> None:
    config = RunConfig(method=get_method("pred"), width=0.05, epochs=2, batch_size=40)
    test = (stripes.test.images / 127.5 - 1, stripes.test.labels)
    dataset = TensorDataset(stripes.train.images / 127.5 - 1, stripes.train.labels)
    whole, again = (train(config, data=dataset, test=test).network.state_dict() for _ in range(2))
    out = tmp_path / "run"
    with pytest.raises(Interrupted):
        train(config, data=dataset, test=test, out=out, callbacks=[StopAt(8)])
    resumed = resume(out, data=dataset, test=test).network.state_dict()
    other = train(replace(config, seed=1), data=dataset, test=test).network.state_dict()
    for name, value in whole.items():
        assert torch.equal(again[name], value), name
        assert torch.equal(resumed[name], value), name
    assert any(not torch.equal(other[name], value) for name, value in whole.items())


def test_what_a_loader_cannot_do_is_said(stripes: ImageData) -> None:
    config = RunConfig(method=get_method("pred"), width=0.05, epochs=1, batch_size=40)
    test = (stripes.test.images / 127.5 - 1, stripes.test.labels)
    dataset = TensorDataset(stripes.train.images / 127.5 - 1, stripes.train.labels)
    with pytest.warns(UserWarning, match="augmentation is ignored"):
        train(replace(config, augmentation=Augmentation(flip=True)), data=dataset, test=test)
    with pytest.raises(ValueError, match="a loader without a length, or of no batch"):
        train(replace(config, batch_size=5000), data=dataset, test=test)


class Diary(Callback):
    def __init__(self) -> None:
        self.pages: list[str] = []

    def on_train_begin(self, trainer: Trainer) -> None:
        self.pages.append("begin")

    def on_epoch_begin(self, trainer: Trainer, epoch: int) -> None:
        self.pages.append(f"epoch {epoch}")

    def on_step_end(self, trainer: Trainer) -> None:
        self.pages.append("step")

    def on_epoch_end(self, trainer: Trainer, record: dict[str, object]) -> None:
        self.pages.append(f"end {record['epoch']}")

    def on_train_end(self, trainer: Trainer) -> None:
        self.pages.append("done")


def test_callbacks_are_called_in_order(stripes: ImageData) -> None:
    diary = Diary()
    config = RunConfig(method=get_method("pred"), width=0.05, epochs=2, batch_size=80)
    train(config, data=stripes, callbacks=[diary])
    epochs = [[f"epoch {k}", "step", "step", "step", f"end {k}"] for k in (1, 2)]
    assert diary.pages == ["begin", *epochs[0], *epochs[1], "done"]


def test_early_stopping_ends_a_run_that_no_longer_improves(stripes: ImageData, tmp_path: Path) -> None:
    config = RunConfig(method=get_method("pred"), width=0.05, epochs=30, batch_size=20)
    stopped = train(config, data=stripes, out=tmp_path / "run", callbacks=[EarlyStopping(2)])
    accuracy = [record["validation_accuracy"] for record in stopped.trainer.history]
    best = accuracy.index(max(accuracy))
    assert len(accuracy) == best + 3 < 30
    assert stopped.result["epochs"] == len(accuracy)
    with pytest.raises(ValueError, match="1 or more: received 0"):
        EarlyStopping(0)


def test_a_csv_logger_has_a_row_an_epoch_also_of_a_resumed_run(stripes: ImageData, tmp_path: Path) -> None:
    config = RunConfig(method=get_method("pred"), width=0.05, epochs=2, batch_size=20)
    file = tmp_path / "log.csv"
    train(config, data=stripes, out=tmp_path / "run", callbacks=[CSVLogger(file)])
    resume(tmp_path / "run", epochs=3, data=stripes, callbacks=[CSVLogger(file)])
    head, *rows = file.read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["1", "2", "3"]
    assert {"epoch", "loss/0", "validation_accuracy", "block_accuracy/5"} <= set(head.split(","))


def test_tensorboard_has_every_number_of_every_epoch(stripes: ImageData, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = RunConfig(method=get_method("pred"), width=0.05, epochs=2, batch_size=40)
    done = train(config, data=stripes, callbacks=[TensorBoardLogger(tmp_path)])
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    for name, expected in flat_record(done.trainer.history[1]).items():
        if name != "epoch":
            assert [event.step for event in events.Scalars(name)] == [1, 2]
            assert events.Scalars(name)[1].value == pytest.approx(expected, rel=1e-6)


def test_an_overridden_goodness_of_a_pair_head_is_what_trains() -> None:
    from trifecta.losses import Site
    from trifecta.losses.pairs import PairHead

    class Doubled(PairHead):
        def goodness(self, features: torch.Tensor) -> torch.Tensor:
            return 2 * features.flatten(1).square().mean(1)

    features, labels = torch.randn(8, 3, 4, 4), torch.arange(4)
    plain = Symmetric(alpha=8.0).head((3, 4, 4), 3)
    doubled = Doubled(Symmetric(alpha=4.0), Site(0, [(3, 4, 4)], 3))
    assert not doubled.reads_channel_sums
    torch.testing.assert_close(doubled.loss(features, labels), plain.loss(features, labels))


def test_an_installed_package_adds_a_method(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    package = tmp_path / "trifecta_extra"
    package.mkdir()
    (package / "__init__.py").write_text(BLOCKS[0])
    info = tmp_path / "trifecta_extra-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: trifecta-extra\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[trifecta.methods]\nextra = trifecta_extra:hinge\n")
    monkeypatch.syspath_prepend(tmp_path)
    status, out, _ = run(capsys, "list")
    assert status == 0
    assert "A hinge loss on the strongest quarter" in out
    method = get_method("extra")
    assert method.name == "hinge"
    # Its parts need no --import: whoever installed it trusts it.
    config = RunConfig(method=method)
    assert from_plain(to_plain(config)) == config
    sys.modules.pop("trifecta_extra", None)


IN_THE_PACKAGE = """
from dataclasses import dataclass
from trifecta import CrossEntropy, Method


@dataclass(frozen=True, kw_only=True)
class Sharper(CrossEntropy):
    sharpness: float = 2.0


def method():
    return Method(name="sharper", objective=Sharper(sharpness=3.0))
"""


def test_a_file_among_the_methods_brings_an_objective_that_loads_without_imports(
    stripes: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sharper.py").write_text(IN_THE_PACKAGE)
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    made = import_module("trifecta.methods.sharper").method()
    train(RunConfig(method=made, width=0.05, epochs=1), data=stripes, out=tmp_path / "run")
    assert load(tmp_path / "run").network.method == made
    del sys.modules["trifecta.methods.sharper"]


def test_a_method_is_a_module() -> None:
    assert [getattr(methods, name).method().name for name in ("trifecta", "superfecta")] == [
        "trifecta",
        "superfecta",
    ]
    assert inspect.ismodule(import_module("trifecta.methods.superfecta"))
