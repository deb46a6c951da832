"""A run's temperature: fitted on what its network has not seen, stored with it, and never in the way."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from trifecta import METHODS, Learner, RunConfig, RunFolder, build_network, get_method, load, resume, train
from trifecta._utils.files import tensor_checksum
from trifecta.calibration import calibration_error, fit_temperature, log_loss, probabilities
from trifecta.data import ImageData, ImageSet
from trifecta.data.images import hold_out
from trifecta.readout import fuse
from trifecta.training import Callback, Interrupted, Trainer
from trifecta.training import run as runs
from trifecta.training.run import calibrate

CONFIG = RunConfig(network="mlp", width=0.01, epochs=6, batch_size=20, precision="fp32", device="cpu")
PRIOR = math.log(3)


def noisy(count: int, seed: int) -> ImageSet:
    """Rows of three classes, a third of whose labels are another one's."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    rows = torch.nn.functional.one_hot(labels, 8).float() + torch.randn(count, 8, generator=draw) / 2
    wrong = torch.rand(count, generator=draw) < 1 / 3
    return ImageSet(rows, torch.where(wrong, torch.randint(3, (count,), generator=draw), labels))


def data(*, validation: bool) -> ImageData:
    return ImageData(
        train=noisy(150, 0),
        validation=noisy(90, 1) if validation else None,
        test=noisy(300, 2),
        classes=("a", "b", "c"),
        mean=(),
        std=(),
    )


def test_it_is_fitted_on_validation_images_and_travels_with_the_weights(tmp_path: Path) -> None:
    given = data(validation=True)
    done = train(CONFIG, data=given, out=tmp_path / "run")
    model, result = load(tmp_path / "run", device="cpu"), done.result
    assert given.validation is not None
    validated = done.network.fused_scores(given.validation.images)
    expected = fit_temperature(validated, given.validation.labels)
    assert result["calibrated_on"] == "validation"
    assert result["temperature"] == float(model.network.temperature) == pytest.approx(expected, rel=1e-5)
    shares = model.predict_proba(given.test.images)
    assert result["log_loss"] == pytest.approx(log_loss(shares, given.test.labels), rel=1e-5)
    assert result["calibration_error"] == pytest.approx(calibration_error(shares, given.test.labels))
    assert result["log_loss"] < PRIOR < log_loss(shares.pow(5 * expected), given.test.labels)
    assert torch.allclose(shares.amax(1).float(), done.test.confidence)


def test_without_validation_images_a_fifth_is_scored_by_a_network_of_the_rest() -> None:
    given = data(validation=False)
    done = train(CONFIG, data=given)
    assert done.result["calibrated_on"] == "fold"
    scores = done.network.fused_scores(given.test.images)
    best = log_loss(probabilities(scores, fit_temperature(scores, given.test.labels)), given.test.labels)
    known = fit_temperature(done.network.fused_scores(given.train.images), given.train.labels)
    assert done.result["log_loss"] < best + 0.02
    assert done.result["temperature"] > 1.5 * known
    own, others = hold_out(given.train, 0.2)
    twin = Trainer(CONFIG, data=replace(given, train=own, test=others))
    twin.fit()
    found = fit_temperature(twin.network.fused_scores(others.images), others.labels)
    assert done.result["temperature"] == pytest.approx(found, rel=1e-5)
    plain = Trainer(CONFIG, data=given)
    plain.fit()
    for name, value in plain.network.state_dict().items():
        assert name == "temperature" or torch.equal(value, done.network.state_dict()[name])


def test_where_no_other_network_can_be_trained_the_training_images_have_to_do() -> None:
    given = data(validation=False)
    own = [nn.Sequential(nn.Linear(8, 16), nn.ReLU()), nn.Sequential(nn.Linear(16, 16), nn.ReLU())]
    loader = DataLoader(TensorDataset(given.train.images, given.train.labels), 30)
    each: tuple[dict[str, Any], ...] = (
        {"data": given, "network": own},
        {"data": loader, "test": (given.test.images, given.test.labels)},
    )
    for settings in each:
        done = train(replace(CONFIG, batch_size=12), **settings)
        assert done.result["calibrated_on"] == "training"
        assert done.result["temperature"] != 1


def test_of_few_images_five_folds_are_scored_and_the_least_sure_counts() -> None:
    given = replace(data(validation=False), train=noisy(12, 0))
    config, temperatures = replace(CONFIG, batch_size=6), []
    done = train(config, data=given)
    for seed in range(5):
        own, others = hold_out(given.train, 0.2, seed=seed)
        twin = Trainer(config, data=replace(given, train=own, test=others))
        twin.fit()
        temperatures.append(fit_temperature(twin.network.fused_scores(others.images), others.labels))
    assert done.result["calibrated_on"] == "fold"
    assert done.result["temperature"] == pytest.approx(max(temperatures), rel=1e-5)
    assert done.result["log_loss"] < PRIOR + 0.05


def test_where_every_class_has_one_image_none_is_held_out() -> None:
    single = ImageSet(torch.eye(24)[:, :8] + torch.arange(24).view(-1, 1) / 24, torch.arange(24))
    given = replace(data(validation=False), train=single, test=single, classes=tuple(map(str, range(24))))
    assert train(CONFIG, data=given).result["calibrated_on"] == "training"


def test_a_run_that_goes_on_fits_it_anew(tmp_path: Path) -> None:
    given = data(validation=True)
    train(replace(CONFIG, epochs=2, keep="last"), data=given, out=tmp_path / "run")
    again = resume(tmp_path / "run", data=given)
    assert again.result["temperature"] == RunFolder(tmp_path / "run").read_result()["temperature"] != 1
    more = resume(tmp_path / "run", epochs=6, data=given)
    assert more.result["temperature"] == float(load(tmp_path / "run").network.temperature)
    assert more.result["temperature"] != again.result["temperature"]


def test_a_run_that_is_stopped_stops_there_too() -> None:
    trainer = Trainer(CONFIG, data=data(validation=False))
    trainer.fit()
    trainer.stop_requested = True
    with pytest.raises(Interrupted):
        calibrate(trainer)


def rewritten(folder: Path, change: dict[str, Tensor | None]) -> None:
    """Change tensors of a run's model, as if the run had written it so."""
    tensors = RunFolder(folder).read_model()
    tensors = {name: value for name, value in ({**tensors, **change}).items() if value is not None}
    save_file(tensors, RunFolder(folder).model, {"crc32": tensor_checksum(tensors)})


def test_older_weights_have_a_temperature_of_one(tmp_path: Path) -> None:
    given = data(validation=True)
    done = train(CONFIG, data=given, out=tmp_path / "run")
    images, temperature = given.test.images, done.result["temperature"]
    scores = load(tmp_path / "run").scores(images)
    rewritten(tmp_path / "run", {"temperature": None})
    older = load(tmp_path / "run")
    assert float(older.network.temperature) == 1
    assert torch.allclose(older.scores(images), scores * temperature, rtol=1e-4, atol=1e-5)
    state = older.network.state_dict()
    del state["temperature"]
    older.network.load_state_dict(state)


@pytest.mark.parametrize("method", [m for m in METHODS if get_method(m).objective.uses_feedback])
def test_training_on_does_not_see_it(method: str) -> None:
    after = []
    for temperature in (1.0, 7.0):
        network = build_network(
            get_method(method), "mlp", sample_shape=(1, 4, 4), num_classes=3, width=0.01, seed=0
        )
        network.temperature.fill_(temperature)
        draw = torch.Generator().manual_seed(0)
        learner = Learner(network, generator=draw)
        for _ in range(3):
            learner.step(torch.randn(12, 1, 4, 4, generator=draw), torch.arange(12) % 3)
        after.append([p.detach().clone() for p in network.parameters()])
    assert all(map(torch.equal, *after))


class Noting(Callback):
    """Notes how many images are scored."""

    def __init__(self) -> None:
        self.scored: list[int] = []

    def on_evaluation_begin(self, trainer: Any, images: int) -> None:
        self.scored.append(images)


def test_large_training_sets_are_scored_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "MOST_SCORED", 60)
    noting = Noting()
    trainer = Trainer(CONFIG, data=data(validation=False), callbacks=[noting])
    trainer.fit()
    assert calibrate(trainer, repeat_up_to=149) == "training"
    assert noting.scored == [50]


def test_the_chosen_read_out_is_the_one_that_is_fitted() -> None:
    given = data(validation=True)
    method = replace(get_method("mono-forward"), readout="chosen")
    done = train(replace(CONFIG, method=method), data=given)
    assert given.validation is not None
    scores = fuse(done.network.block_scores(given.validation.images), done.network.readout_blocks)
    expected = fit_temperature(scores, given.validation.labels)
    assert done.result["temperature"] == pytest.approx(expected, rel=1e-5)
