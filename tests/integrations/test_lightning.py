"""Lightning's Trainer and Accelerate take the learner's steps, and their checkpoints go on from them."""

import logging
import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler, Sampler, TensorDataset

from trifecta import (
    Learner,
    LocalNetwork,
    Method,
    OptimizerConfig,
    RunConfig,
    Symmetric,
    build_network,
    get_method,
    train,
)
from trifecta.data import ImageData
from trifecta.training.evaluation import evaluate

pl = pytest.importorskip("pytorch_lightning")

from trifecta.integrations.lightning import PACKAGES, LocalLearningModule  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    # Lightning's own: what it calls in PyTorch, and advice on loaders that these tests do not need.
    pytest.mark.filterwarnings(r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings(r"ignore:The '\w+' does not have many workers"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`"),
]
PAGE = (Path(__file__).parents[2] / "docs/integrations.md").read_text()
SECTIONS = dict(re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", PAGE, flags=re.DOTALL | re.MULTILINE))
SCRIPT, CLIPPED, ACCELERATE = re.findall(
    r"```python\n(.*?)```", SECTIONS["Lightning"] + SECTIONS["Accelerate"], flags=re.DOTALL
)
BATCH, STEPS = 16, 5
DRAW = torch.Generator().manual_seed(0)
IMAGES, LABELS = torch.randn(BATCH * STEPS, 1, 8, 8, generator=DRAW), torch.arange(BATCH * STEPS) % 3
DATA = TensorDataset(IMAGES, LABELS)
METHODS = {
    "strict": "superfecta",
    "overlapping": "trifecta",
    "pairs": "masked-mix",
    "feedback": "rec-lra",
    "end-to-end": "backprop",
}


@pytest.fixture(autouse=True)
def _quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is left behind, Lightning's launchers leave variables; and Lightning says little."""
    monkeypatch.chdir(tmp_path)
    for name in PACKAGES:
        monkeypatch.setattr(logging.getLogger(name), "level", logging.ERROR)
    with patch.dict(os.environ):
        yield


def network_of(method: str | Method = "superfecta", seed: int = 3) -> LocalNetwork:
    chosen = get_method(method) if isinstance(method, str) else method
    return build_network(chosen, "small", sample_shape=(1, 8, 8), num_classes=3, width=0.05, seed=seed)


def trainer_of(**settings: Any) -> Any:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    checkpoints = any(isinstance(c, pl.callbacks.ModelCheckpoint) for c in settings.get("callbacks", []))
    given = {"accelerator": "cpu", "max_epochs": 2, "enable_checkpointing": checkpoints, **settings}
    return pl.Trainer(**(quiet | given))


def fitted(module: LocalLearningModule, loader: Any = None, **settings: Any) -> Any:
    trainer = trainer_of(**settings)
    trainer.fit(module, DataLoader(DATA, BATCH) if loader is None else loader)
    return trainer


def learner_after(
    steps: int, network: LocalNetwork, **settings: Any
) -> tuple[Learner, list[Tensor | None]]:
    """A learner, and the losses of its last step."""
    learner = Learner(network, generator=torch.Generator().manual_seed(5), **settings)
    for k in range(steps):
        batch = slice(k % STEPS * BATCH, (k % STEPS + 1) * BATCH)
        losses = learner.step(IMAGES[batch].to(next(network.parameters()).dtype), LABELS[batch])
    return learner, losses


def differences(found: Any, expected: Any, path: str = "") -> Iterator[str]:
    """Where two states are not the same, to the bit."""
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        for key in expected:
            yield from differences(found[key], expected[key], f"{path}/{key}")
    elif isinstance(expected, list | tuple):
        yield from differences(dict(enumerate(found)), dict(enumerate(expected)), path)
    elif not (torch.equal(found, expected) if isinstance(expected, Tensor) else found == expected):
        yield path


def state(module: LocalLearningModule) -> dict[str, Any]:
    assert module.learner is not None
    weights = {**module.network.state_dict(), **module.running_statistics}
    return {"network": weights, "learner": module.learner.state_dict()}


@pytest.mark.parametrize(
    ("method", "precision"),
    [
        *[(method, "32-true") for method in METHODS.values()],
        ("trifecta", "bf16-mixed"),
        ("trifecta", "64-true"),
    ],
)
def test_steps_are_those_of_a_learner_and_each_counts_once(method: str, precision: str) -> None:
    module = LocalLearningModule(network_of(method), seed=5)
    trainer = fitted(module, precision=precision)
    network = network_of(method)
    network = network.double() if precision == "64-true" else network
    expected, losses = learner_after(
        2 * STEPS,
        network,
        precision="bf16" if precision == "bf16-mixed" else "fp32",
        total_steps=2 * STEPS,
        steps_per_epoch=STEPS,
    )
    wanted = {"network": expected.network.state_dict(), "learner": expected.state_dict()}
    assert not list(differences(state(module), wanted))
    assert len(trainer.optimizers) == len(expected.optimizers)
    logged = [trainer.callback_metrics.get(f"loss/{k}_step") for k in range(6)]
    assert [a == b for a, b in zip(logged, losses, strict=True) if b is not None] == [True] * sum(
        loss is not None for loss in losses
    )
    assert trainer.global_step == 10


def test_a_run_ends_with_the_weights_of_the_librarys_own_trainer() -> None:
    loader, method = DataLoader(DATA, BATCH), get_method("trifecta")
    config = RunConfig(method=method, network="mlp", width=0.02, epochs=2, seed=5, precision="fp32")
    expected = train(config, data=loader, test=(-IMAGES, LABELS)).network
    network = build_network(
        method, "mlp", sample_shape=(1, 8, 8), num_classes=3, width=config.width, seed=config.seed
    )
    fitted(LocalLearningModule(network, seed=config.seed), loader)
    # A temperature is fitted in trifecta.train alone.
    network.temperature.copy_(expected.temperature)
    assert not list(differences(network.state_dict(), expected.state_dict()))


@pytest.mark.parametrize(
    ("settings", "given", "total_steps"),
    [
        ({"max_epochs": 3}, None, 3 * STEPS),
        ({"max_epochs": -1, "max_steps": 7}, None, 7),
        ({"max_epochs": 2}, 40, 40),
        ({"max_epochs": 2, "limit_train_batches": 2}, None, 4),
    ],
)
def test_the_learning_rate_decays_over_the_trainers_run(
    settings: dict[str, Any], given: int | None, total_steps: int
) -> None:
    module = LocalLearningModule(network_of(), total_steps=given)
    trainer = fitted(module, **settings)
    config = module.network.method.optimizer
    expected = config.rate((trainer.global_step - 1) / total_steps)
    assert [o.param_groups[0]["lr"] for o in trainer.optimizers] == [expected] * 6


def test_a_run_without_an_end_keeps_its_learning_rate_and_says_so() -> None:
    class Stop(pl.Callback):  # type: ignore[misc, name-defined]
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            trainer.should_stop = trainer.global_step == 3

    module = LocalLearningModule(network_of())
    with pytest.warns(UserWarning, match="the run's length is unknown"):
        fitted(module, max_epochs=-1, callbacks=[Stop()])
    rate = module.network.method.optimizer.learning_rate
    assert module.learner is not None
    assert {o.param_groups[0]["lr"] for o in module.learner.optimizers.values()} == {rate}


class Resumable(DataLoader[tuple[Tensor, ...]]):
    """A loader that goes on in the middle of an epoch."""

    def __init__(self, dataset: Dataset[tuple[Tensor, ...]], size: int, sampler: Sampler[int]) -> None:
        super().__init__(dataset, size, sampler=sampler)
        self.given = self.skipped = 0

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        batches = list(super().__iter__())[self.skipped :]
        self.given, self.skipped = self.skipped, 0
        for batch in batches:
            self.given += 1
            yield batch

    def state_dict(self) -> dict[str, Any]:
        return {"given": self.given}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.skipped = state["given"] % STEPS


def shuffled() -> Resumable:
    return Resumable(DATA, BATCH, DistributedSampler(DATA, num_replicas=1, rank=0))


# Lightning would have the weights before the last step, from which no run can go on.
@pytest.mark.filterwarnings("ignore:Using ModelCheckpoint with manual optimization and every_n_train_steps")
@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
@pytest.mark.parametrize(
    ("method", "steps"),
    [
        # In the last epoch, at its beginning and at its end: statistics are those of the whole epoch.
        ("superfecta", (13, 15, 17, 20)),
        ("trifecta", (10, 13, 17, 20)),
        ("backprop", (13, 17, 20)),
        ("masked-mix", (13,)),
        ("rec-lra", (13,)),
    ],
)
def test_a_resumed_run_ends_as_an_uninterrupted_one(method: str, steps: tuple[int, ...]) -> None:
    def keep() -> Any:
        return pl.callbacks.ModelCheckpoint("kept", "{step}", save_top_k=-1, every_n_train_steps=1)

    whole = LocalLearningModule(network_of(method))
    fitted(whole, shuffled(), max_epochs=4, callbacks=[keep()])
    for step in steps:
        resumed = LocalLearningModule(network_of(method, seed=4), seed=1)
        trainer = trainer_of(max_epochs=4, callbacks=[keep()])
        trainer.fit(resumed, shuffled(), ckpt_path=f"kept/step={step}.ckpt")
        assert trainer.global_step == 20
        assert not list(differences(state(resumed), state(whole)))
        assert not list(differences(resumed.state_dict(), whole.state_dict()))


def test_weights_of_a_checkpoint_begin_another_run_at_its_first_step() -> None:
    trainer = fitted(LocalLearningModule(network_of("trifecta")))
    trainer.save_checkpoint("trained.ckpt")
    module = LocalLearningModule.load_from_checkpoint("trained.ckpt", network=network_of("trifecta"))
    other = network_of("trifecta")
    other.load_state_dict(module.network.state_dict())
    fitted(module)
    fitted(LocalLearningModule(other))
    assert not list(differences(module.network.state_dict(), other.state_dict()))


def loaders(stripes: ImageData) -> list[DataLoader[tuple[Tensor, ...]]]:
    splits = (stripes.train, stripes.validation, stripes.test)
    return [DataLoader(TensorDataset(s.images / 127.5 - 1, s.labels), 32) for s in splits if s is not None]


def test_it_stops_early_keeps_the_best_weights_logs_tests_and_predicts(stripes: ImageData) -> None:
    best = pl.callbacks.ModelCheckpoint("best", monitor="val_accuracy", mode="max")
    stop = pl.callbacks.EarlyStopping("val_accuracy", mode="max", patience=2)
    logger = pl.loggers.CSVLogger("logs")
    fit, val, test = loaders(stripes)
    module = LocalLearningModule(network_of())
    trainer = trainer_of(max_epochs=40, callbacks=[best, stop], logger=logger, log_every_n_steps=1)
    trainer.fit(module, fit, val)
    assert trainer.current_epoch < 40
    assert float(best.best_model_score) > 0.9
    columns = (Path(logger.log_dir) / "metrics.csv").read_text().splitlines()[0].split(",")
    blocks = [f"{name}/{k}" for k in range(6) for name in ("val_block_accuracy",)]
    losses = [f"loss/{k}_{when}" for k in range(6) for when in ("step", "epoch")]
    assert {"val_accuracy", *blocks, *losses} <= set(columns)

    loaded = LocalLearningModule.load_from_checkpoint(best.best_model_path, network=network_of(seed=9))
    assert stripes.validation is not None
    halves = {"mean": (0.5,), "std": (0.5,)}
    exact = evaluate(loaded.network, stripes.validation, **halves)  # type: ignore[arg-type]
    assert float(best.best_model_score) == pytest.approx(exact.accuracy)
    tested = trainer.test(loaded, test, verbose=False)[0]
    exact = evaluate(loaded.network, stripes.test, **halves)  # type: ignore[arg-type]
    assert tested["test_accuracy"] == pytest.approx(exact.accuracy)
    for k, accuracy in enumerate(exact.block_accuracy):
        assert tested[f"test_block_accuracy/{k}"] == pytest.approx(accuracy)
    images = test.dataset[:][0]
    alone: DataLoader[Tensor] = DataLoader(images, 32)  # type: ignore[arg-type]
    scores = torch.cat(trainer.predict(loaded, test))
    assert torch.equal(scores, torch.cat(trainer.predict(loaded, alone)))
    assert torch.allclose(scores, loaded.network(images), atol=1e-5)


@pytest.mark.parametrize("validates", [True, False])
def test_a_few_steps_are_enough_to_predict(validates: bool, stripes: ImageData) -> None:
    """Validated, tested and saved with statistics of training samples; trained on with its own."""
    fit, val, test = loaders(stripes)
    fit = DataLoader(fit.dataset, 120)
    saved = pl.callbacks.ModelCheckpoint("few", "last", save_top_k=1)
    module = LocalLearningModule(network_of())
    trainer = trainer_of(max_epochs=4, callbacks=[saved])
    trainer.fit(module, fit, val if validates else None)
    loaded = LocalLearningModule.load_from_checkpoint(saved.best_model_path, network=network_of(seed=9))
    for one in (module, loaded):
        assert trainer.test(one, test, verbose=False)[0]["test_accuracy"] > 0.9
    plain = network_of()
    learner = Learner(plain, generator=torch.Generator().manual_seed(0), total_steps=8, steps_per_epoch=2)
    for _ in range(4):
        for images, labels in fit:
            learner.step(images, labels)
    assert not list(differences(state(module)["network"], plain.state_dict()))
    with torch.no_grad():
        images, labels = test.dataset[:]
        assert (plain.eval()(images).argmax(1) == labels).float().mean() < 0.8


def test_evaluating_changes_nothing(stripes: ImageData) -> None:
    module = LocalLearningModule(network_of("trifecta"))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    _, val, test = loaders(stripes)
    trainer_of().validate(module, val, verbose=False)
    trainer_of().test(module, test, verbose=False)
    trainer_of().predict(module, test)
    assert not list(differences(module.state_dict(), before))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            lambda: {"gradient_clip_val": 1.0},
            r"gradient clipping is not supported .*gradient_clip_val=1\.0",
        ),
        (lambda: {"accumulate_grad_batches": 2}, "gradient accumulation is not supported"),
        (lambda: {"strategy": "ddp", "devices": 1}, r"DDPStrategy; use Trainer\(devices=1\)"),
        (lambda: {"precision": "bf16-true"}, "unknown precision 'bf16-true'"),
        (
            lambda: {"plugins": [pl.plugins.MixedPrecision("16-mixed", "cpu")]},
            "unknown precision '16-mixed'",
        ),
    ],
)
def test_what_it_cannot_do_is_refused_before_anything_runs(
    settings: Callable[[], dict[str, Any]], message: str
) -> None:
    module = LocalLearningModule(network_of())
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with pytest.raises((ValueError, pl.utilities.exceptions.MisconfigurationException), match=message):
        fitted(module, **settings())
    assert not list(differences(module.state_dict(), before))


def test_float16_on_a_cpu_is_bfloat16() -> None:
    module = LocalLearningModule(network_of())
    with pytest.warns(UserWarning, match="fp16 is not supported on CPU"):
        fitted(module, precision="16-mixed")
    assert module.learner is not None
    assert module.learner.precision == "bf16"


def test_a_hook_sees_and_clips_the_gradients_of_every_owner() -> None:
    names: dict[str, Any] = {}
    exec(CLIPPED, names)
    norms: list[float] = []

    clipped: Any = names["Clipped"]

    class Watched(clipped):  # type: ignore[misc]
        def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
            super().on_before_optimizer_step(optimizer)
            gradients = [p.grad for g in optimizer.param_groups for p in g["params"] if p.grad is not None]
            norms.append(float(torch.stack([g.norm() for g in gradients]).norm()))

    method = Method(
        name="steep",
        label_input="channel",
        objective=Symmetric(alpha=100.0),
        optimizer=OptimizerConfig(algorithm=torch.optim.SGD, decay="constant", learning_rate=1.0),
    )
    fitted(Watched(network_of(method)), max_epochs=1)
    assert len(norms) == 6 * STEPS
    assert max(norms) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize(
    ("batch", "received"),
    [
        ({"images": IMAGES[:4]}, "dict of 1"),
        ([IMAGES[:4], LABELS[:4], LABELS[:4]], "list of 3"),
        ([[IMAGES[:4], LABELS[:4]]] * 2, "list of 2"),
    ],
)
def test_batches_are_pairs(batch: Any, received: str) -> None:
    loader: Any = DataLoader(DATA, 4, collate_fn=lambda _: batch)
    with pytest.raises(ValueError, match=rf"a pair of tensors \(samples, labels\): received a {received}"):
        fitted(LocalLearningModule(network_of()), loader)


def test_what_only_the_librarys_own_trainer_does_is_said() -> None:
    with pytest.warns(UserWarning, match=r"finds superclasses only in trifecta\.train"):
        LocalLearningModule(network_of("hcl-ff"))
    with pytest.warns(UserWarning, match=r"a read-out is chosen only in trifecta\.train"):
        LocalLearningModule(network_of(replace(get_method("deeper-forward"), readout="chosen")))
    with pytest.raises(ValueError, match="1 step or more: received total_steps 0"):
        LocalLearningModule(network_of(), total_steps=0)


def test_it_takes_the_lightning_that_is_there_or_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    name = LocalLearningModule.__module__
    monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "pytorch_lightning", None)
        with pytest.raises(ImportError, match=r"pip install .\.\[lightning\]. in a checkout"):
            import_module(name)
    found = import_module(name).LightningModule
    assert found.__module__.split(".")[0] == "pytorch_lightning"


def test_the_pages_script_runs_and_learns() -> None:
    names: dict[str, Any] = {}
    exec(SCRIPT, names)
    assert names["accuracy"] > 0.8
    correct = names["scores"].argmax(1) == names["labels"][1500:]
    assert float(correct.float().mean()) == pytest.approx(names["accuracy"])
    assert list(Path("logs").rglob("metrics.csv"))


def test_the_pages_accelerate_script_learns_and_goes_on_from_its_state() -> None:
    pytest.importorskip("accelerate")
    names: dict[str, Any] = {}
    exec(ACCELERATE, names)
    assert float(names["accuracy"]) > 0.8
    learner, network = names["learner"], names["network"]
    batch = IMAGES[:BATCH], LABELS[:BATCH]

    def after_a_step() -> dict[str, Any]:
        names["accelerator"].load_state("state")
        learner.step(*batch)
        return {name: value.clone() for name, value in network.state_dict().items()}

    learner.step(*batch)
    uninterrupted = {name: value.clone() for name, value in network.state_dict().items()}
    assert not list(differences(after_a_step(), uninterrupted))
    assert learner.steps == learner.total_steps + 1
