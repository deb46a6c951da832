"""Predictions averaged over views of an image."""

from dataclasses import replace

import pytest
import torch

from trifecta.data import ImageData, ImageSet
from trifecta.training import Run, RunConfig, evaluate, train
from trifecta.training.evaluation import VIEWS

CONFIG = RunConfig(width=0.05, epochs=1, batch_size=60, precision="fp32")


def test_views_are_the_sides_and_the_corners() -> None:
    image = torch.arange(16.0).view(1, 1, 4, 4)
    views = VIEWS["flip-shift"](image)
    assert [weight for _, weight in views] == [0.25, 0.25, 0.125, 0.125, 0.125, 0.125]
    assert torch.equal(views[0][0], image)
    assert torch.equal(views[1][0], image.flip(-1))
    down, up = views[2][0], views[4][0]
    assert torch.equal(down[..., 1:, 1:], image[..., :3, :3])
    assert torch.equal(up[..., :3, :3], image[..., 1:, 1:])
    # What comes in from outside is reflected.
    assert torch.equal(down[0, 0, 0, 1:], image[0, 0, 1, :3])
    assert torch.equal(views[3][0], down.flip(-1))


@pytest.fixture(scope="module")
def done(stripes: ImageData) -> Run:
    return train(CONFIG, data=stripes)


@pytest.mark.parametrize("views", ["flip", "flip-shift"])
def test_scores_are_the_weighted_means_of_those_of_the_views(
    views: str, done: Run, stripes: ImageData
) -> None:
    few = ImageSet(stripes.test.images[:10], stripes.test.labels[:10])
    found = evaluate(done.network, few, mean=stripes.mean, std=stripes.std, views=views)
    normal = (few.images / 255 - stripes.mean[0]) / stripes.std[0]
    done.network.eval()
    with torch.no_grad():
        scores = sum(weight * done.network(view) for view, weight in VIEWS[views](normal))
    assert isinstance(scores, torch.Tensor)
    assert torch.equal(found.predicted, scores.argmax(1))
    torch.testing.assert_close(found.confidence, scores.softmax(1).amax(1))
    plain = evaluate(done.network, few, mean=stripes.mean, std=stripes.std)
    assert not torch.allclose(plain.confidence, found.confidence)


@pytest.mark.filterwarnings("ignore:.* are training:UserWarning")
def test_unknown_views_and_samples_that_are_no_images(done: Run, stripes: ImageData) -> None:
    with pytest.raises(ValueError, match="unknown views 'flop'"):
        evaluate(done.network, stripes.test, mean=stripes.mean, std=stripes.std, views="flop")
    table = ImageSet(torch.randn(60, 4), stripes.test.labels)
    rows = (table.images, table.labels)
    small = train(replace(CONFIG, network="mlp", batch_size=20), data=rows, test=rows)
    with pytest.raises(ValueError, match=r"views are of images .*received samples of shape \(4,\)"):
        evaluate(small.network, table, mean=(), std=(), views="flip")
