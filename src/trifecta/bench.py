"""Speed, memory, prediction and time to accuracy against backprop, on equal work.

Rows of a benchmark are *variants*: ways to train the same network on the same batch. They take turns on one
machine; a figure is the median over rounds, with the smallest and the largest. Memory is that of processes
which do nothing else.
"""

import math
import re
import statistics
import time
from collections import Counter, deque
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from itertools import accumulate, product
from multiprocessing import get_context
from pathlib import Path
from threading import RLock
from typing import Any
from weakref import finalize

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from trifecta._utils.devices import (
    autocast,
    describe_device,
    in_channels_last,
    in_memory_format,
    peak_memory_bytes,
    resolve_device,
    resolved_precision,
    synchronize,
)
from trifecta._utils.references import lookup, name_of
from trifecta.counts import block_costs, step_multiply_adds
from trifecta.cuda_graphs import fastest_learner
from trifecta.data import load_data
from trifecta.kernels.block import fused_blocks
from trifecta.kernels.window import run_window
from trifecta.learner import Learner, LocalStep
from trifecta.losses import ChannelSums
from trifecta.methods import METHODS, Method, get_method
from trifecta.network import LocalNetwork, build_network
from trifecta.nn.networks import NetworkBuilder, get_network, layout_builder
from trifecta.nn.shapes import ImageShape
from trifecta.pipeline import Pipeline
from trifecta.recipes import BACKPROP, SUPERFECTA, TRIFECTA, published_trifecta, with_muon
from trifecta.report import figures
from trifecta.report.terminal import Cells, Columns, cells_of, field, percent, print_table, shown
from trifecta.schedules import Window
from trifecta.training import RunConfig, Trainer, to_plain
from trifecta.training.run import versions
from trifecta.training.trainer import Record

# Both parities of an overlapping schedule.
STEPS_A_TURN = 2
WARM_UP_TURNS = 2
# Those, and the first again with warm buffers.
MEMORY_STEPS = 3
Turn = Callable[[], object]
Report = dict[str, Any]
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Network, images and machine, which are equal for all rows of a benchmark.

    The network is a name as in ``trifecta list``, or ``equal:DEPTH:CHANNELS``: so many convolutional blocks
    of so many channels, without pooling.
    """

    network: str = "small"
    width: float = 1.0
    image_shape: ImageShape = (3, 32, 32)
    num_classes: int = 10
    batch_size: int = 128
    device: str = "auto"
    precision: str = "auto"

    @classmethod
    def of(cls, config: RunConfig, image_shape: ImageShape, num_classes: int) -> "Setting":
        """Return the setting of a run on images of some shape."""
        same = {name: getattr(config, name) for name in ("width", "batch_size", "device", "precision")}
        network = name_of(config.network)
        return cls(network=network, image_shape=image_shape, num_classes=num_classes, **same)

    @property
    def torch_device(self) -> torch.device:
        """Device of all rows."""
        return resolve_device(self.device)

    @property
    def resolved_precision(self) -> str:
        """``fp32`` or ``bf16``."""
        return resolved_precision(self.precision, self.torch_device)

    @property
    def builder(self) -> NetworkBuilder:
        """Builder of the network; raise ValueError if there is none of that name."""
        if not self.network.startswith("equal:"):
            return get_network(self.network)
        if (match := re.fullmatch(r"equal:([1-9]\d*):([1-9]\d*)", self.network)) is None:
            raise ValueError(
                f"equal blocks are equal:DEPTH:CHANNELS, such as equal:12:64: received '{self.network}'"
            )
        depth, channels = match.groups()
        return layout_builder(self.network, " ".join([channels] * int(depth)), "Equal blocks.")

    def build(self, method: Method) -> LocalNetwork:
        """Return the network for a method, with weights from seed 0, on the device."""
        width = 1.0 if self.network.startswith("equal:") else self.width
        size: Any = {"sample_shape": self.image_shape, "num_classes": self.num_classes, "width": width}
        return in_channels_last(build_network(method, self.builder, **size).to(self.torch_device))

    def batch(self) -> tuple[Tensor, Tensor]:
        """Return images (B, C, H, W), standard normal, and labels (B,), the same for all rows."""
        draw = torch.Generator().manual_seed(0)
        images = torch.randn(self.batch_size, *self.image_shape, generator=draw)
        labels = torch.randint(self.num_classes, (self.batch_size,), generator=draw)
        return in_memory_format(images.to(self.torch_device)), labels.to(self.torch_device)

    def facts(self) -> Report:
        """Return settings and conditions, which every report names."""
        return asdict(self) | {"precision": self.resolved_precision} | conditions(self.torch_device)


def conditions(device: torch.device) -> Report:
    """Return what any figure depends on besides its settings."""
    return {
        "device": str(device),
        "hardware": describe_device(device),
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "date": datetime.now(UTC).date().isoformat(),
    }


def data_name(source: str) -> str:
    """Return the name of a folder, or a Hub id as it is: reports do not say where folders are."""
    return Path(source).name if Path(source).exists() else source


class CheckpointedLearner(Learner):
    """Backprop that keeps only the ends of √L segments and runs each again for its gradient.

    Each segment is a fused window if its blocks allow it: backprop has every economy of local windows.
    """

    def window_loss(
        self, window: Window, x: Tensor, labels: Tensor, offsets: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """See :class:`trifecta.learner.Learner`."""
        head, blocks = self.network.head(window.last), list(self.network.blocks)
        size = math.ceil(math.sqrt(len(blocks)))
        sums: ChannelSums | None = None
        for start in range(0, len(blocks), size):
            members = blocks[start : start + size]
            segment, sums = fused_blocks(members), None
            if segment is None:
                # Statistics of the batch are counted twice here, as whenever a graph is run again.
                x = checkpoint(nn.Sequential(*members), x, use_reentrant=False)
            else:
                x, sums = checkpoint(run_window, segment, x, use_reentrant=False)
        return head.loss(sums if sums is not None and head.reads_channel_sums else x, labels), x


class AccumulatedLearner(Learner):
    """Backprop that adds up the gradients of ``pieces`` of every batch; norms see the pieces."""

    pieces = 4

    def step(self, images: Tensor, labels: Tensor) -> list[Tensor | None]:
        """See :class:`trifecta.learner.Learner`."""
        self.network.train()
        window = Window(0, len(self.network.blocks) - 1)
        for x, y in zip(images.chunk(self.pieces), labels.chunk(self.pieces), strict=True):
            with autocast(self.precision, self.device):
                loss, _ = self.window_loss(window, x, y)
            torch.autograd.backward(loss * len(x) / len(images))
        for optimizer in self.optimizers.values():
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.steps += 1
        return [*[None] * window.last, loss]


@dataclass(frozen=True, kw_only=True)
class Variant:
    """Row of a benchmark: a method, and how it trains and predicts.

    ``learner`` is called as :class:`trifecta.Learner`. A ``plain`` variant is what people run today: eager
    float32, weights in the default layout, a full pass for every label to predict. A ``shortlist`` predicts
    from the better half of the labels. ``pipeline`` blocks learn at the same time.
    """

    name: str
    title: str
    method: Method
    learner: Callable[..., Learner] = fastest_learner
    plain: bool = False
    shortlist: bool = False
    pipeline: int = 1

    def precision(self, setting: Setting) -> str:
        """Return ``fp32`` or ``bf16``."""
        return "fp32" if self.plain else setting.resolved_precision

    def build(self, setting: Setting) -> Learner:
        """Return a learner, ready to step."""
        network = setting.build(self.method)
        if self.plain:
            for parameter in network.parameters():
                parameter.data = parameter.data.contiguous()
        generator = torch.Generator(setting.torch_device).manual_seed(0)
        return self.learner(network, generator=generator, precision=self.precision(setting))

    def train(self, learner: Learner, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Let a learner from :meth:`build` learn from batches of images (B, C, H, W) and labels (B,)."""
        if self.pipeline > 1:
            deque(Pipeline(learner, self.pipeline).steps(batches), maxlen=0)
            return
        for images, labels in batches:
            learner.step(images, labels)

    def predictor(self, learner: Learner, setting: Setting) -> Callable[[Tensor], Tensor]:
        """Return a function from images (B, C, H, W) to class scores (B, K)."""
        network = learner.network.eval()
        if self.shortlist:
            network.keep_labels(-(-setting.num_classes // 2))

        @torch.inference_mode()
        def predict(images: Tensor) -> Tensor:
            with autocast(self.precision(setting), setting.torch_device):
                return _plain_scores(network, images) if self.plain else network(images)

        return predict


def _plain_scores(network: LocalNetwork, images: Tensor) -> Tensor:
    """Return the last block's goodness for every label, (B, C, H, W) → (B, K)."""
    scores = []
    for label in range(network.num_classes):
        x = network.labelled(images, torch.full((len(images),), label, device=images.device))
        for block in network.blocks:
            x = block(x)
        scores.append(x.square().flatten(1).mean(1))
    return torch.stack(scores, dim=1)


def _variant(name: str, title: str, method: Method | None = None, **how: Any) -> Variant:
    return Variant(name=name, title=title, method=method or get_method(name), **how)


_PLAIN_GRAPH = partial(fastest_learner, kernels=False)
_USUAL = (
    _variant("trifecta", "Trifecta, exact pairs"),
    _variant("class-groups", "class groups, one pass"),
    _variant("superfecta", "superfecta, one pass"),
    _variant("ff", "FF, pairs"),
    _variant("symba", "SymBa, pairs"),
    _variant("backprop", "backprop, same optimisations"),
    _variant("backprop-muon", "backprop, same optimisations, Muon", with_muon(BACKPROP)),
    _variant("backprop-plain-graph", "backprop, plain autograd graph", BACKPROP, learner=_PLAIN_GRAPH),
    _variant("backprop-checkpointed", "backprop, checkpointed", BACKPROP, learner=CheckpointedLearner),
    _variant(
        "backprop-accumulated", "backprop, 4 accumulated pieces", BACKPROP, learner=AccumulatedLearner
    ),
    _variant("trifecta-plain-graph", "Trifecta, plain autograd graph", TRIFECTA, learner=_PLAIN_GRAPH),
    _variant("superfecta-pipeline", "superfecta, pipeline of 2", SUPERFECTA, pipeline=2),
    _variant(
        "published",
        "published rule, plain PyTorch",
        published_trifecta(),
        learner=_PLAIN_GRAPH,
        plain=True,
    ),
    _variant("trifecta-shortlist", "Trifecta, better half of the labels", TRIFECTA, shortlist=True),
)
# The usual ones, then every other method by its own name.
VARIANTS: dict[str, Variant] = {variant.name: variant for variant in _USUAL}
VARIANTS |= {name: _variant(name, name) for name in METHODS if name not in VARIANTS}


def variant_of(config: RunConfig) -> Variant:
    """Return the variant that trains as a run of ``config`` does."""
    name, title = config.method.name, config.recipe or config.method.name
    return Variant(name=name, title=title, method=config.method, pipeline=config.pipeline)


def select(names: str | None) -> list[Variant]:
    """Return the variants of a comma-separated list, or the usual ones for None."""
    if names is None:
        return [variant for variant in _USUAL if not variant.shortlist]
    return [lookup(VARIANTS, name.strip(), "variant") for name in names.split(",")]


@torch.inference_mode()
def peak_multiply_adds(device: torch.device, precision: str) -> dict[str, float]:
    """Measure the peak multiply-adds per second of a 3×3 convolution and of a matrix product."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    channels, images, size = (128, 32, 1024) if device.type == "cpu" else (512, 256, 8192)
    pixels = 16
    draw = partial(torch.randn, device=device, dtype=dtype)
    x = in_memory_format(draw(images, channels, pixels, pixels))
    weight = in_memory_format(draw(channels, channels, 3, 3))
    matrix = draw(size, size)

    def fastest(work: Callable[[], Tensor]) -> float:
        return min(timed(lambda: [work() for _ in range(4)], device) for _ in range(9)) / 4

    products = 9 * channels**2 * images * pixels**2
    return {
        "convolution": products / fastest(lambda: F.conv2d(x, weight, padding=1)),
        "matrix": size**3 / fastest(lambda: matrix @ matrix),
    }


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Return the seconds that ``work`` takes, on the device too."""
    synchronize(device)
    began = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - began


def prediction_multiply_adds(network: LocalNetwork) -> float:
    """Count the multiply-adds of predicting one image: with every label, or with those on a shortlist."""
    passes = 6 if network.method.objective.pairs else 3
    forward = [cost / passes for cost in block_costs(network)]
    if not network.method.tries_labels:
        return sum(forward)
    if network.shortlist is None:
        return sum(forward) * network.num_classes
    early = network.shortlist.after + 1
    return sum(forward[:early]) * network.num_classes + sum(forward[early:]) * network.shortlist.labels


def measure_speed(
    setting: Setting, variants: Sequence[Variant], *, rounds: int, say: Say, steps: int = STEPS_A_TURN
) -> Report:
    """Report the training speed of variants that take turns of some steps.

    A pipeline needs more steps, as its blocks start and end one by one.
    """
    learners, size = {v.name: v.build(setting) for v in variants}, setting.batch_size
    batches = [setting.batch()] * steps
    turns = {v.name: partial(v.train, learners[v.name], batches) for v in variants}
    count = partial(step_multiply_adds, batch_size=size, kernels=True)
    work = {name: count(learner.network) for name, learner in learners.items()}
    seconds = take_turns(turns, setting, rounds=rounds, say=say)
    report = report_turns("speed", setting, variants, seconds, work, steps * size)
    return report | {"steps_a_turn": steps}


def measure_inference(setting: Setting, variants: Sequence[Variant], *, rounds: int, say: Say) -> Report:
    """Report how fast variants that take turns score one batch."""
    learners, (images, _) = {v.name: v.build(setting) for v in variants}, setting.batch()
    turns = {v.name: partial(v.predictor(learners[v.name], setting), images) for v in variants}
    work = {name: prediction_multiply_adds(learner.network) for name, learner in learners.items()}
    seconds = take_turns(turns, setting, rounds=rounds, say=say)
    return report_turns("inference", setting, variants, seconds, work, setting.batch_size)


def take_turns(
    turns: Mapping[str, Turn], setting: Setting, *, rounds: int, say: Say
) -> dict[str, list[float]]:
    """Return the seconds of every turn by name: warm-up first, then A B C, A B C and so on."""
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    for number in range(-WARM_UP_TURNS, rounds):
        say("warming up" if number < 0 else f"round {number + 1} of {rounds}")
        for name, turn in turns.items():
            seconds[name].append(timed(turn, setting.torch_device))
    return {name: taken[WARM_UP_TURNS:] for name, taken in seconds.items()}


def report_turns(
    benchmark: str,
    setting: Setting,
    variants: Sequence[Variant],
    seconds: Mapping[str, Sequence[float]],
    work: Mapping[str, float],
    images: int,
) -> Report:
    """Return the report of variants that took turns of ``images`` each."""
    peak = peak_multiply_adds(setting.torch_device, setting.resolved_precision)
    rows: list[Report] = []
    for variant in variants:
        name, own = variant.name, seconds[variant.name]
        speeds = [images / s for s in own]
        row: Report = {
            "name": name,
            "title": variant.title,
            "locality": variant.method.locality,
            "precision": variant.precision(setting),
            "images_per_second": spread(speeds),
        }
        if name in work:
            row["multiply_adds"] = work[name]
            row["efficiency"] = statistics.median(speeds) * work[name] / peak["convolution"]
        if name in work and "backprop" in work:
            row["bound_over_backprop"] = work["backprop"] / work[name]
        others = [other for other in ("backprop", "published") if other in seconds]
        rows.append(row | {f"over_{other}": ratio(seconds[other], own) for other in others})
    rounds = {"rounds": len(next(iter(seconds.values()))), "peak_multiply_adds_per_second": peak}
    return {"benchmark": benchmark, **setting.facts(), **rounds, "rows": rows}


def ratio(numerator: Sequence[float], denominator: Sequence[float]) -> dict[str, float]:
    """Return the ratio of medians, and the smallest and largest ratio within a round."""
    within = [a / b for a, b in zip(numerator, denominator, strict=True)]
    return spread(within) | {"median": statistics.median(numerator) / statistics.median(denominator)}


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return the median, the smallest and the largest."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def measure_memory(
    setting: Setting, variants: Sequence[Variant], networks: Sequence[str], *, rounds: int, say: Say
) -> Report:
    """Report every variant on every network: medians over ``rounds`` processes.

    On CPU the peak resident set of a process that takes a few steps, less its peak when it had only built
    model, optimizer and data; on CUDA the allocator's peak, likewise. Also the most bytes that graphs held
    at one time.

    Raises:
        ValueError: there is no such network.
        RuntimeError: a process failed; the message says why.
    """
    # Resolved here, once for all processes.
    setting = replace(setting, precision=setting.resolved_precision)
    places = [replace(setting, network=network) for network in networks]
    for placed in places:
        _ = placed.builder  # refuses an unknown network before anything is measured
    rows: list[Report] = []
    for placed, variant in product(places, variants):
        say(f"{placed.network}, {variant.title}")
        measured = [training_memory(placed, variant) for _ in range(rounds)]
        training = spread([found["training_bytes"] for found in measured])
        row: Report = {"name": variant.name, "title": variant.title, "network": placed.network}
        row |= {"locality": variant.method.locality, "training_bytes": training["median"]}
        row |= {f"training_bytes_{end}": training[end] for end in ("low", "high")}
        rows.append(row | {"saved_bytes": measured[0]["saved_bytes"]})
    references = {row["network"]: row for row in rows if row["name"] == "backprop"}
    for row in rows:
        if reference := references.get(row["network"]):
            row["over_backprop"] = row["training_bytes"] / reference["training_bytes"]
            row["saved_over_backprop"] = row["saved_bytes"] / reference["saved_bytes"]
    return {"benchmark": "memory", **setting.facts(), "rounds": rounds, "rows": rows}


def training_memory(setting: Setting, variant: Variant) -> dict[str, int]:
    """Measure ``training_bytes``, above the model, and ``saved_bytes``, the most that graphs held."""
    with ProcessPoolExecutor(1, get_context("spawn")) as own_process:
        try:
            return own_process.submit(_training_memory, setting, variant).result()
        except Exception as error:
            raise RuntimeError(f"{variant.name} on {setting.network} failed: {error}") from error


def _training_memory(setting: Setting, variant: Variant) -> dict[str, int]:
    """Train for some steps in this process, which has done nothing before."""
    learner, batch, device = variant.build(setting), setting.batch(), setting.torch_device
    _fill_optimizers(learner)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    built = peak_memory_bytes(device)
    with SavedBytes() as saved:
        if variant.pipeline > 1:
            saved.follow(learner)
        variant.train(learner, [batch] * MEMORY_STEPS)
    return {"training_bytes": peak_memory_bytes(device) - built, "saved_bytes": saved.most}


def _fill_optimizers(trainer: Learner) -> None:
    """Give optimizers their moments now, so that they count as part of the model and not of training."""
    for optimizer in trainer.optimizers.values():
        for group in optimizer.param_groups:
            muon = group.get("orthogonalized", False)
            for parameter in group["params"]:
                names = ("momentum",) if muon else ("exp_avg", "exp_avg_sq")
                moments = {name: torch.empty_like(parameter).zero_() for name in names}
                optimizer.state[parameter] = {"step": torch.zeros((), device=parameter.device), **moments}


@dataclass(eq=False)
class _Held:
    """Stands in a graph for a saved tensor; freed with the graph."""

    tensor: Tensor


class SavedBytes(saved_tensors_hooks):
    """Counts what graphs hold for their gradients, without parameters, each piece of memory once.

    ``most`` is the largest number of bytes held at one time.
    """

    def __init__(self) -> None:
        super().__init__(self._held, lambda held: held.tensor)
        self.most = self._now = 0
        self._holders: Counter[int] = Counter()
        # Reentrant, as collecting garbage may free a graph anywhere.
        self._lock = RLock()

    def __enter__(self) -> "SavedBytes":  # type: ignore[override]
        super().__enter__()
        return self

    def follow(self, learner: Learner) -> None:
        """Count in every thread in which ``learner`` learns: hooks belong to one thread."""
        learn = learner.learn

        def counted(step: LocalStep) -> None:
            with self:
                learn(step)

        learner.learn = counted  # type: ignore[method-assign]

    def _held(self, tensor: Tensor) -> "_Held":
        # Detached: otherwise the graph would keep itself alive.
        held = _Held(tensor.detach())
        if not isinstance(tensor, nn.Parameter):
            storage = tensor.untyped_storage()
            place = storage.data_ptr(), storage.nbytes()
            self._change(*place, +1)
            finalize(held, self._change, *place, -1).atexit = False
        return held

    def _change(self, pointer: int, size: int, by: int) -> None:
        """Note that one more graph (+1) or one less (−1) holds ``size`` bytes at ``pointer``."""
        with self._lock:
            before = self._holders[pointer]
            self._holders[pointer] += by
            if before == 0 or before + by == 0:
                self._now += by * size
                self.most = max(self.most, self._now)


def measure_accuracy(configs: Sequence[RunConfig], thresholds: Sequence[float], *, say: Say) -> Report:
    """Report the seconds of training until the *validation* accuracy reaches thresholds.

    Seconds are from the first batch to the end of the epoch, without evaluation, which is reported on its
    own. The test split is not read. All configurations train on the data of the first.
    """
    assert configs[0].data is not None
    data, rows = load_data(configs[0].data), []
    for config in configs:
        say(f"{config.method.name}, seed {config.seed}, {config.epochs} epochs")
        trainer = Trainer(config, data=data)
        trainer.fit()
        history, plain = trainer.history, to_plain(config)
        plain["data"]["source"] = data_name(plain["data"]["source"])
        row = {
            "name": config.method.name,
            "seed": config.seed,
            "precision": trainer.learner.precision,
            "locality": config.method.locality,
            "seconds_to": {f"{t:g}": seconds_to(history, t) for t in thresholds},
            "validation_accuracy": [record["validation_accuracy"] for record in history],
            "images_per_second": [record["images_per_second"] for record in history],
            "seconds_by_epoch": [record["seconds"] for record in history],
            "evaluation_seconds": sum(record["evaluation_seconds"] for record in history),
            "config": plain,
        }
        rows.append(row)
    where = conditions(trainer.device)
    return {"benchmark": "accuracy", **where, "thresholds": list(thresholds), "rows": rows}


def seconds_to(history: Sequence[Record], threshold: float) -> float | None:
    """Return the seconds of training until an epoch ends at ``threshold`` or above; None if none does."""
    spent = 0.0
    for record in history:
        spent += float(record["seconds"])
        if (record["validation_accuracy"] or 0) >= threshold:
            return spent
    return None


def interval(form: str, unit: str = "") -> str:
    """Return the format of a median with its range, such as ``2.10× (2.00 to 2.20)`` for ``.2f`` and ×."""
    return f"{{median:{form}}}{unit} ({{low:{form}}} to {{high:{form}}})"


_SPEED: Columns[Report] = [
    ("", field("title")),
    ("images/s", field("images_per_second", interval(".0f"))),
    ("over backprop", field("over_backprop", interval(".2f", "×"))),
    ("bound", field("bound_over_backprop", "{:.2f}×")),
    ("over published", field("over_published", interval(".1f", "×"))),
    ("efficiency", field("efficiency", "{:.0%}")),
    ("crosses a block", field("locality")),
]
_MEMORY: Columns[Report] = [
    ("network", field("network")),
    ("", field("title")),
    ("training memory", field("training_bytes", "{:.0f} MiB", 2**20)),
    ("over backprop", field("over_backprop", "{:.2f}×")),
    ("held by the graph", field("saved_bytes", "{:.0f} MiB", 2**20)),
    ("over backprop", field("saved_over_backprop", "{:.2f}×")),
]


def bench_table(report: Report) -> Cells:
    """Return the heading and the cells of a report."""
    thresholds = report.get("thresholds", [])
    accuracy: Columns[Report] = [
        *(("", field("name")), ("seed", field("seed"))),
        *(
            (f"s to {t:.2%}", lambda row, t=t: shown(row["seconds_to"][f"{t:g}"], "{:.1f}"))
            for t in thresholds
        ),
        ("last epoch", lambda row: percent(row["validation_accuracy"][-1])),
        ("images/s", lambda row: shown(row["images_per_second"][-1])),
    ]
    columns = {"memory": _MEMORY, "accuracy": accuracy}.get(report["benchmark"], _SPEED)
    return cells_of(report["rows"], columns)


def print_bench(report: Report) -> None:
    """Print the table, and below it what it was measured on."""
    print_table(*bench_table(report), note=measured_on(report))


def draw_bench(report: Report, path: Path) -> None:
    """Draw the report's chart to an .svg, .png or .pdf file."""
    charts = {"memory": _memory_chart, "accuracy": _accuracy_chart}
    charts.get(report["benchmark"], figures.speed_bars)(report).save(path)


def _memory_chart(report: Report) -> figures.Chart:
    """Return a chart of training memory over the depth of networks of equal blocks."""
    equal = [row for row in report["rows"] if row["network"].startswith("equal:")]
    lines: dict[str, list[tuple[int, float]]] = {}
    for row in equal:
        depth = int(row["network"].split(":")[1])
        lines.setdefault(row["title"], []).append((depth, row["training_bytes"] / 2**20))
    references = {row["title"] for row in equal if row["locality"] == "end-to-end"}
    label = "training memory above the model, MiB"
    return figures.curves(lines, "equal blocks", label, references=references, bottom=0)


def _accuracy_chart(report: Report) -> figures.Chart:
    rows = {f"{row['name']}, seed {row['seed']}": row for row in report["rows"]}
    runs = {title: (row["seconds_by_epoch"], row["validation_accuracy"]) for title, row in rows.items()}
    return seconds_chart(runs, {title for title, row in rows.items() if row["locality"] == "end-to-end"})


def seconds_chart(
    runs: Mapping[str, tuple[Sequence[float], ...]], references: Container[str]
) -> figures.Chart:
    """Return a chart of validation accuracy over seconds of training, from both of every epoch."""
    lines = {
        title: list(zip(accumulate(of), accuracy, strict=True)) for title, (of, accuracy) in runs.items()
    }
    return figures.curves(lines, "seconds of training", "validation accuracy", references=references)


def measured_on(report: Report) -> str:
    """Return a line with hardware, versions, setting and date."""
    if report["benchmark"] == "accuracy":
        form = (
            "{network}, width {width:g}, {data[source]}, {epochs} epochs, batch {batch_size}, {precision}"
        )
        first = report["rows"][0]
        setting = form.format(**(first["config"] | {"precision": first["precision"]}))
    else:
        rounds = f"{report['rounds']} round{'s' if report['rounds'] > 1 else ''}"
        parts = [
            "" if report["benchmark"] == "memory" else "{network}, width {width:g}",
            "{data}" if "data" in report else "",
            f"images {'×'.join(map(str, report['image_shape']))}, batch {{batch_size}}",
            "{num_classes} classes, {precision}",
            f"{rounds} of {{steps_a_turn}} batches" if "steps_a_turn" in report else rounds,
            "{micro_batches} micro-batches, one thread a process" if "micro_batches" in report else "",
        ]
        setting = ", ".join(filter(None, parts)).format(**report)
    peaks = report.get("peak_multiply_adds_per_second", {})
    peak = " and ".join(f"{n / 1e9:.0f} ({kind})" for kind, n in peaks.items())
    where = [report["hardware"], f"PyTorch {report['versions']['torch']}", setting]
    return "; ".join([*where, *([f"peak {peak} G multiply-adds/s"] if peak else []), report["date"]])
