"""Threads and forks in one process: each run is to the bit what it is alone."""

import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stopping import StopAt
from trifecta import get_method, load
from trifecta.data import ImageData
from trifecta.training import Interrupted, RunConfig, RunFolder, Trainer, resume, train
from trifecta.training.run import finish

SMALL = RunConfig(method="pred", width=0.05, epochs=1, batch_size=60, precision="fp32")


def blocks() -> list[nn.Module]:
    """Blocks of one's own that draw: by a layer, by a function, and once more when they are recomputed."""
    torch.manual_seed(0)

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weights = nn.Linear(64, 32)

        def forward(self, x: Tensor) -> Tensor:
            return torch.utils.checkpoint.checkpoint(self._pass, x, use_reentrant=False)  # type: ignore[no-any-return]

        def _pass(self, x: Tensor) -> Tensor:
            return nn.functional.dropout(self.weights(x.flatten(1)).relu(), 0.5, self.training)

    return [Own(), nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Dropout(0.5))]


def weights(
    config: RunConfig, data: ImageData, network: list[nn.Module] | None = None
) -> dict[str, Tensor]:
    return train(config, data=data, network=network).network.state_dict()


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name, tensor in one.items() if not torch.equal(tensor, other[name])] == []


def test_trainings_in_threads_equal_each_alone(stripes: ImageData) -> None:
    configs = [replace(SMALL, method=get_method(name)) for name in ("superfecta", "hcl-ff")]
    configs.append(replace(configs[0], seed=1))
    alone = [weights(config, stripes) for config in configs]
    torch.manual_seed(9)
    before = torch.get_rng_state()
    with ThreadPoolExecutor(len(configs)) as pool:
        together = list(pool.map(lambda config: weights(config, stripes), configs))
    for one, other in zip(alone, together, strict=True):
        assert_equal(one, other)
    # Nothing was drawn from what the process shares.
    assert torch.equal(torch.get_rng_state(), before)


def test_what_modules_of_one_s_own_draw_follows_from_the_seed(stripes: ImageData) -> None:
    networks = [blocks() for _ in range(4)]
    torch.manual_seed(1)
    alone = weights(SMALL, stripes, networks[0])
    torch.manual_seed(2)
    with ThreadPoolExecutor(2) as pool:
        for other in pool.map(lambda network: weights(SMALL, stripes, network), networks[1:3]):
            assert_equal(alone, other)
    other = weights(replace(SMALL, seed=1), stripes, networks[3])
    assert not torch.equal(other["blocks.1.0.weight"], alone["blocks.1.0.weight"])


def test_a_resumed_run_draws_the_same_for_modules_of_one_s_own(stripes: ImageData, tmp_path: Path) -> None:
    config = replace(SMALL, data=None, network="given")
    whole = weights(config, stripes, blocks())
    trainer = Trainer(
        config, folder=RunFolder(tmp_path / "run"), data=stripes, blocks=blocks(), callbacks=[StopAt(2)]
    )
    with pytest.raises(Interrupted):
        finish(trainer)
    torch.manual_seed(5)
    assert_equal(resume(tmp_path / "run", data=stripes, network=blocks()).network.state_dict(), whole)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_mode_of_the_thread_decides_nothing(mode: Callable[[], Any], stripes: ImageData) -> None:
    alone = weights(SMALL, stripes)
    with mode():
        assert_equal(weights(SMALL, stripes), alone)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_process_predicts_the_same_and_does_not_wait(stripes: ImageData, tmp_path: Path) -> None:
    """Although OpenMP's threads do not come along."""
    train(replace(SMALL, width=0.25), data=stripes, out=tmp_path / "run")
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        model = load(tmp_path / "run", device="cpu")
        images = torch.rand(400, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        scores = model.scores(images)
        child = os.fork()
        if child == 0:
            signal.alarm(60)
            os._exit(0 if torch.equal(model.scores(images), scores) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        torch.set_num_threads(threads)
