"""A loaded run: classes, probabilities, the likeliest ones, and features."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from trifecta import RunConfig, TrainedModel, from_module, get_method, load, train
from users_networks import GPT


def images(count: int) -> Tensor:
    draw = torch.Generator().manual_seed(count)
    return torch.randint(0, 256, (count, 1, 8, 8), generator=draw, dtype=torch.uint8)


@pytest.fixture(scope="module", params=["superfecta", "trifecta", "scff"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    out = tmp_path_factory.mktemp("model") / "run"
    method = get_method(request.param)
    config = RunConfig(method=method, width=0.05, epochs=1, batch_size=24, precision="fp32", device="cpu")
    train(config, data=(images(100), torch.arange(100) % 3), classes=["à", "b", "c"], out=out)
    return load(out, device="cpu")


def test_probabilities_are_the_softmax_of_scores_over_the_temperature(model: TrainedModel) -> None:
    shares = model.predict_proba(images(9))
    assert shares.dtype == torch.float64
    assert shares.sum(1) == pytest.approx(1, abs=1e-12)
    raw = model.scores(images(9)) * model.network.temperature
    assert torch.allclose(shares, (raw.double() / float(model.network.temperature)).softmax(1), atol=1e-6)
    assert float(model.network.temperature) != 1
    assert [model.classes[k] for k in shares.argmax(1)] == model.predict(images(9))
    assert model.predict_proba(images(0)).shape == (0, 3)


def test_the_likeliest_classes_come_first(model: TrainedModel) -> None:
    shares, names = model.predict_proba(images(9)), model.predict(images(9))
    best = model.top_k(images(9), 2)
    assert [row[0][0] for row in best] == names
    for row, own in zip(best, shares, strict=True):
        assert len(row) == 2
        assert [share for _, share in row] == own.sort(descending=True).values[:2].tolist()
        assert all(own[model.classes.index(name)] == share for name, share in row)
    assert [len(row) for row in model.top_k(images(9))] == [3] * 9
    with pytest.raises(ValueError, match="k is a number of classes, 1 or more: received 0"):
        model.top_k(images(9), 0)


def test_embeddings_are_means_of_the_features_that_a_head_reads(model: TrainedModel) -> None:
    for block, shape in enumerate(model.network.feature_shapes):
        features = model.embeddings(images(300), block=block)
        assert (features.shape, features.requires_grad) == ((300, shape[0]), False)
    assert torch.equal(features, model.embeddings(images(300), block=-1))
    assert torch.equal(features, model.embeddings(images(300)))
    assert torch.allclose(features[:7], model.embeddings(images(300)[:7]), atol=1e-5)
    assert features.std(0).max() > 0
    assert model.embeddings(images(0)).shape == (0, shape[0])
    with pytest.raises(ValueError, match=r"blocks are 0 … 5: received block 6"):
        model.embeddings(images(3), block=6)


def test_a_head_scores_the_embedding_of_the_predicted_label(model: TrainedModel) -> None:
    """Heads of goodness read an image with the label that it is taken for."""
    pixels = images(20)
    network, facts = model.network, model.facts
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (facts.mean, facts.std))
    samples = (pixels / 255 - mean) / std
    x = samples
    if network.label_input is not None:
        predicted = torch.tensor([facts.classes.index(name) for name in model.predict(pixels)])
        x = network.labelled(samples, predicted)
    elif network.image_pairs is not None:
        x = network.image_pairs.neutral(samples)
    with torch.no_grad():
        features, _ = network.pass_block(0, x)
    assert torch.allclose(model.embeddings(pixels, block=0), features.mean((2, 3)), atol=1e-4)


def test_positions_have_names_and_probabilities_of_their_own(tmp_path: Path) -> None:
    tokens = torch.randint(0, 10, (60, 6), generator=torch.Generator().manual_seed(0))
    config = RunConfig(epochs=1, batch_size=12, precision="fp32", device="cpu")
    done = train(config, data=(tokens, tokens), network=from_module(GPT()), out=tmp_path / "run")
    model = load(tmp_path / "run", network=from_module(GPT()), device="cpu")
    shares = model.predict_proba(tokens[:4])
    assert shares.shape == (4, 10, 6)
    assert shares.sum(1) == pytest.approx(1, abs=1e-12)
    assert [[int(name) for name in row] for row in model.predict(tokens[:4])] == shares.argmax(1).tolist()
    assert model.embeddings(tokens[:4], block=0).shape == (4, 8)
    assert done.result["temperature"] == float(model.network.temperature) != 1
    with pytest.raises(ValueError, match="has a class at every position"):
        model.top_k(tokens)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_samples_that_are_not_finite_are_refused_by_their_number(model: TrainedModel, value: float) -> None:
    samples = torch.rand(700, *model.facts.sample_shape)
    samples[600, 0, 0, 1] = value
    for use in (model.predict, model.predict_proba, model.embeddings):
        with pytest.raises(ValueError, match=f"^sample 600 of images has a value that is {value}: correct"):
            use(samples)


def test_images_on_another_scale_than_in_training_are_refused_or_said(
    model: TrainedModel, tmp_path: Path
) -> None:
    same = model.predict_proba(images(9).float() / 255)
    assert torch.allclose(same, model.predict_proba(images(9)), atol=1e-6)
    for other, told in ((images(9).float(), "to 255"), (images(9) / 64 - 2, "-2 to")):
        with pytest.raises(ValueError, match=f"trained on bytes .* or floats from 0 to 1: .* {told}"):
            model.predict(other)
    for other in (images(1) // 128, images(9) // 128, images(9).float() / 255**2):
        with pytest.warns(UserWarning, match="this batch is on another scale than train: channel 0 is"):
            model.predict(other)
    floats = images(60).float() / 127.5 - 1
    config = RunConfig(method=get_method("mono-forward"), width=0.05, epochs=1, batch_size=24)
    train(config, data=(floats, torch.arange(60) % 3), out=tmp_path / "run")
    learnt = load(tmp_path / "run")
    learnt.predict(floats)
    with pytest.warns(UserWarning, match="trained on floats: bytes are divided by 255, which may not be"):
        learnt.predict(images(9))
    train(config, data=(images(60) // 128, torch.arange(60) % 3), out=tmp_path / "dark")
    learnt = load(tmp_path / "dark")
    learnt.predict(images(60) // 128)
    with pytest.warns(UserWarning, match="this batch is on another scale than train: channel 0 is"):
        learnt.predict(images(60))


def test_images_come_as_arrays_too(model: TrainedModel) -> None:
    expected = model.predict_proba(images(9))
    plain = images(9).numpy()
    for given in (plain, plain[:, 0], plain[:, 0, :, :, None], images(9).long(), list(images(9))):
        assert torch.equal(model.predict_proba(given), expected)
    assert torch.equal(model.predict_proba([Image.fromarray(image[0]) for image in plain]), expected)
    single: Any = Image.fromarray(plain[0, 0])
    assert torch.equal(model.predict_proba(single), model.predict_proba(plain[:1]))
    with pytest.raises(ValueError, match=r"takes samples \(N, 1, 8, 8\): received \(3, 9, 9\)$"):
        model.predict(torch.zeros(3, 9, 9, dtype=torch.uint8))
    with pytest.raises(ValueError, match="whole numbers in images are 0 … 255: received 0 … "):
        model.predict(4 * images(9).int())
