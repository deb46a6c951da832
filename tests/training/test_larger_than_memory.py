"""A data set that does not fit into the memory that the process may have."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import resource, sys
import numpy as np, torch
torch.set_num_threads(1)
from trifecta.data import cache
from trifecta.data.images import ImageData, ImageSet, channel_statistics, hold_out
from trifecta.training import RunConfig, train

COUNT, SIDE, LIMIT = 22_528, 96, 600_000_000
SHAPE = (COUNT, 3, SIDE, SIDE)
assert COUNT * 3 * SIDE * SIDE > LIMIT
resource.setrlimit(resource.RLIMIT_DATA, (LIMIT, LIMIT))
cache.memory_bytes = lambda: LIMIT
labels = torch.arange(COUNT) % 2

def pieces():
    for start in range(0, COUNT, 1024):
        piece = np.zeros((1024, *SHAPE[1:]), np.uint8)
        piece[1::2] = 200
        yield piece

images, in_file, _ = cache.cached_images({"any": 1}, lambda consume: consume(SHAPE, pieces(), None))
assert in_file
whole = ImageSet(images, labels, rows=torch.arange(COUNT))
rest, test = hold_out(whole, 0.001)
mean, std = channel_statistics(test)
few = ImageSet(images, rest.labels[::64], rows=rest.rows[::64])
data = ImageData(train=few, validation=None, test=test, classes=("a", "b"), mean=mean, std=std)
done = train(RunConfig(width=0.02, epochs=1, batch_size=64, precision="fp32"), data=data, out=sys.argv[1])
print(done.test_accuracy)
"""


@pytest.mark.slow
def test_it_trains_from_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIFECTA_CACHE", str(tmp_path / "cache"))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "run")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert float(done.stdout) > 0.9
