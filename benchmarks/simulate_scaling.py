"""The simulator of layouts: checked against runs of 2 and 4 processes, then asked about 4 to 1,024 devices.

    python benchmarks/simulate_scaling.py check RESULTS.jsonl
    python benchmarks/simulate_scaling.py predict RESULTS.jsonl

Checked twice: with blocks that wait where they would compute, so that four processes are four devices on
any machine, over messages of 1 MiB; and with the blocks of a real network in two processes of one thread.
Predicted from blocks measured on this machine and links that are stated, not measured.
"""

import argparse
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from block_times import block_times
from emulated import Emulation
from emulated import measure as measure_emulated
from recording import HERE, append
from scaling import launch
from scaling_rank import Order, measure
from simulation import BlockTimes, Link, local_seconds, pipeline_seconds
from trifecta import get_method
from trifecta.bench import Setting
from trifecta.parallel.plan import Layout
from trifecta.parallel.processes import joined
from trifecta.schedules import LAYER_WISE, Schedule

PAIRS = Schedule(size=2, overlapping=True)
ROUNDS, STEPS = 3, 8
EMULATED: dict[str, Any] = {"blocks": (0.08,) * 8, "features": 4_096, "steps": STEPS}
CASES = [
    Emulation(name="layers", layout=Layout(layers=2), schedule=LAYER_WISE, **EMULATED),
    Emulation(name="layers", layout=Layout(layers=4), schedule=LAYER_WISE, **EMULATED),
    Emulation(name="layers, pairs", layout=Layout(layers=2), schedule=PAIRS, **EMULATED),
    Emulation(name="layers, pairs", layout=Layout(layers=4), schedule=PAIRS, **EMULATED),
    Emulation(name="data", layout=Layout(data=2), schedule=LAYER_WISE, **EMULATED),
    Emulation(name="data", layout=Layout(data=4), schedule=LAYER_WISE, **EMULATED),
    Emulation(name="both", layout=Layout(data=2, layers=2), schedule=LAYER_WISE, **EMULATED),
    Emulation(name="backprop, GPipe", layout=Layout(layers=2), pipeline="gpipe", **EMULATED),
    Emulation(name="backprop, GPipe", layout=Layout(layers=4), pipeline="gpipe", **EMULATED),
    Emulation(name="backprop, 1F1B", layout=Layout(layers=2), pipeline="1f1b", **EMULATED),
    Emulation(name="backprop, 1F1B", layout=Layout(layers=4), pipeline="1f1b", **EMULATED),
]
NETWORK = Setting(network="equal:9:64", image_shape=(3, 16, 16), batch_size=128, precision="fp32")
MICRO_BATCHES = 4
# Of the predictions.
BLOCKS, BATCH, LEAST_SHARE, PIECES = 1024, 1024, 8, (16, 64, 128)
DEVICES = [4, 8, 16, 32, 64, 128, 256, 512, 1024]
# Bytes and bits.
GBIT = 1e9 / 8
LINKS = {
    "1 Gbit/s, 0.1 ms": Link(bandwidth=GBIT, latency=1e-4),
    "10 Gbit/s, 0.05 ms": Link(bandwidth=10 * GBIT, latency=5e-5),
    "100 Gbit/s, 0.01 ms": Link(bandwidth=100 * GBIT, latency=1e-5),
}


def measured_link(size: int) -> Link:
    """Bandwidth and latency between two processes here, for messages of so many bytes."""
    small, large = launch(_seconds_of_messages, 2, size)[0]
    return Link(bandwidth=size / max(1e-9, large - small), latency=small)


def _seconds_of_messages(size: int) -> tuple[float, float]:
    """Median seconds of a small message and of one of ``size`` bytes, one way."""
    found = []
    with joined(torch.device("cpu")):
        for numbers in (1, size // 4):
            tensor, seconds = torch.zeros(numbers), []
            for _ in range(20):
                dist.barrier()
                began = time.perf_counter()
                if dist.get_rank() == 0:
                    dist.send(tensor, 1)
                    dist.recv(tensor, 1)
                else:
                    dist.recv(tensor, 0)
                    dist.send(tensor, 0)
                seconds.append((time.perf_counter() - began) / 2)
            found.append(statistics.median(seconds))
    return found[0], found[1]


def check() -> list[dict[str, Any]]:
    """Rows of a kind, a layout, seconds measured and predicted for each step."""
    rows = []
    link = measured_link(64 * 4_096 * 4)
    for case in CASES:
        measured = statistics.median(
            max(launch(measure_emulated, case.layout.ranks, case)) for _ in range(ROUNDS)
        )
        if case.schedule is None:
            predicted = pipeline_seconds(
                case.times(),
                case.layout.layers,
                link,
                micro_batches=case.micro_batches,
                batches=case.steps,
                schedule=case.pipeline,
            )
        else:
            predicted = local_seconds(case.times(), case.layout, case.schedule, link, batches=case.steps)
        rows.append(checked("emulated blocks", case.name, case.layout, measured, predicted))
    return rows + check_network()


def check_network() -> list[dict[str, Any]]:
    """The same for a real network in two processes."""
    local, end_to_end = get_method("mono-forward"), get_method("backprop")
    whole, pieces = block_times(NETWORK, local), block_times(NETWORK, end_to_end, pieces=MICRO_BATCHES)
    halves = block_times(NETWORK, local, pieces=2)
    link = measured_link(int(whole[0].sends))
    cases = [
        ("one process", "one", local, Layout(), LAYER_WISE, whole),
        ("layers", "layers", local, Layout(layers=2), LAYER_WISE, whole),
        ("layers, pairs", "layers", replace(local, schedule=PAIRS), Layout(layers=2), PAIRS, whole),
        ("data", "data", local, Layout(data=2), LAYER_WISE, halves),
        ("backprop, GPipe", "gpipe", end_to_end, Layout(layers=2), None, pieces),
        ("backprop, 1F1B", "1f1b", end_to_end, Layout(layers=2), None, pieces),
    ]
    rows = []
    for name, how, method, layout, schedule, times in cases:
        order = Order(
            setting=NETWORK,
            method=method,
            how=how,
            ranks=layout.ranks,
            micro_batches=MICRO_BATCHES,
            steps=STEPS,
        )
        turns = [launch(measure, layout.ranks, order) for _ in range(ROUNDS)]
        measured = statistics.median(max(rank["seconds"] for rank in turn) for turn in turns)
        if schedule is None:
            predicted = pipeline_seconds(
                times, layout.layers, link, micro_batches=MICRO_BATCHES, batches=STEPS, schedule=how
            )
        else:
            predicted = local_seconds(times, layout, schedule, link, batches=STEPS)
        rows.append(
            checked(f"{NETWORK.network}, batch {NETWORK.batch_size}", name, layout, measured, predicted)
        )
    return rows


def checked(kind: str, name: str, layout: Layout, measured: float, predicted: float) -> dict[str, Any]:
    """A row."""
    error = predicted / measured - 1
    print(
        f"{kind}, {name}, {layout.ranks}: {measured:.2f} s, predicted {predicted:.2f}: {error:+.1%}",
        flush=True,
    )
    return {
        "kind": kind,
        "layout": name,
        "processes": layout.ranks,
        "seconds_a_step": measured / STEPS,
        "predicted": predicted / STEPS,
        "error": error,
    }


class Fitted:
    """A block whose seconds are a constant and a share for each image, from two sizes of batches."""

    def __init__(self, method: str) -> None:
        self.images = NETWORK.batch_size
        # One in the middle: the first and the last have other work.
        self.whole = block_times(NETWORK, get_method(method))[4]
        quarter = block_times(NETWORK, get_method(method), pieces=4)[4]
        self.constant = [max(0.0, (q - w) / 3) for q, w in zip(quarter[:3], self.whole[:3], strict=True)]

    def times(self, images: int, pieces: int = 1) -> BlockTimes:
        """For so many images in so many pieces."""
        seconds = [
            pieces * constant + (whole - constant) * images / self.images
            for whole, constant in zip(self.whole[:3], self.constant, strict=True)
        ]
        forward, backward, local = seconds
        return self.whole._replace(
            forward=forward,
            backward=backward,
            local=local,
            sends=self.whole.sends * images / self.images,
        )


def predict() -> list[dict[str, Any]]:
    """Rows of a link and a layout: speed-up over one device, by the number of devices.

    The network has 1,024 equal blocks, a batch 1,024 images; one block was measured. Replicas have
    ``LEAST_SHARE`` images or more.
    """
    local, end_to_end = Fitted("mono-forward"), Fitted("backprop")
    rows = []
    for name, link in LINKS.items():
        found = {
            "layers": {n: local_gain(local, Layout(layers=n), LAYER_WISE, link) for n in DEVICES},
            "layers, pairs": {n: local_gain(local, Layout(layers=n), PAIRS, link) for n in DEVICES},
            "data": {
                n: local_gain(local, Layout(data=n), LAYER_WISE, link)
                for n in DEVICES
                if BATCH // n >= LEAST_SHARE
            },
            "both": {
                n: max(local_gain(local, each, LAYER_WISE, link) for each in grids(n)) for n in DEVICES
            },
            "backprop, 1F1B": {
                n: max(pipeline_gain(end_to_end, n, pieces, link) for pieces in PIECES) for n in DEVICES
            },
            "backprop, ZB-H1 and free messages": {
                n: max(zero_bubble_gain(end_to_end, n, pieces) for pieces in PIECES) for n in DEVICES
            },
            "backprop, no bubble and free messages": {
                n: max(one_device(end_to_end) * n / one_device(end_to_end, pieces) for pieces in PIECES)
                for n in DEVICES
            },
        }
        for layout, gains in found.items():
            rows.append({"link": name, "layout": layout, "images": BATCH, "blocks": BLOCKS, "gain": gains})
            print(name, layout, {n: round(gain, 1) for n, gain in gains.items()}, flush=True)
    return rows


def local_gain(block: Fitted, layout: Layout, schedule: Schedule, link: Link) -> float:
    """How many times one device's speed, once the stages are full."""

    def seconds(layout: Layout) -> float:
        # Half of the images take half of the time in the simulator: what is constant is put in again.
        share = block.times(BATCH // layout.data)
        scaled = share._replace(
            **{k: getattr(share, k) * layout.data for k in ("forward", "backward", "local", "sends")}
        )
        first, second = (
            local_seconds([scaled] * BLOCKS, layout, schedule, link, batches=batches) for batches in (4, 8)
        )
        return (second - first) / 4

    return seconds(Layout()) / seconds(layout)


def one_device(block: Fitted, pieces: int = 1) -> float:
    """Seconds in which one device learns from a batch by backprop."""
    times = block.times(BATCH, pieces)
    return BLOCKS * (times.forward + times.backward + times.update)


def pipeline_gain(block: Fitted, devices: int, pieces: int, link: Link) -> float:
    """How many times one device's speed, by 1F1B with so many micro-batches."""
    times = [block.times(BATCH, pieces)] * BLOCKS
    return one_device(block) / pipeline_seconds(times, devices, link, micro_batches=pieces, batches=1)


def zero_bubble_gain(block: Fitted, devices: int, pieces: int) -> float:
    """The same by ZB-H1: a bubble of (p - 1)(T_F + T_B - T_W), both halves of a backward pass equal."""
    times = block.times(BATCH, pieces)
    bubble = (devices - 1) * times.forward * BLOCKS / devices / pieces
    return one_device(block) / (one_device(block, pieces) / devices + bubble)


def grids(devices: int) -> list[Layout]:
    """Replicas of stages, at least two of each."""
    return [
        Layout(data=data, layers=devices // data)
        for data in (2**k for k in range(1, 10))
        if devices // data >= 2 and BATCH // data >= LEAST_SHARE
    ]


def main() -> None:
    """Read the arguments, run, append."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=("check", "predict"))
    parser.add_argument("results", type=Path)
    options = parser.parse_args()
    made = {"command": f"python benchmarks/simulate_scaling.py {options.what} RESULTS.jsonl", **HERE}
    rows = check() if options.what == "check" else predict()
    for row in rows:
        append(options.results, made | row)


if __name__ == "__main__":
    main()
