"""The ``trifecta`` command: one function for each of its commands, which imports what it needs."""

import inspect
import itertools
import json
import math
import shlex
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import click

import trifecta
from trifecta._utils.extras import how_to_install
from trifecta._utils.references import printable
from trifecta.options import (
    HELP_ALL,
    PROCESSES,
    RARE,
    USAGE,
    Decorator,
    Group,
    Terminated,
    assignments,
    given_words,
    option,
    setting,
    tell,
    unknown_option,
)

OK, FAILED, UNWRITTEN, INTERRUPTED, TERMINATED = 0, 1, 3, 130, 143
PATH: click.Path = click.Path(path_type=Path)
FILE: click.Path = click.Path(path_type=Path, dir_okay=False)
FOLDER: click.Path = click.Path(path_type=Path, file_okay=False)
SECONDS = click.FloatRange(0, min_open=True)
COUNT, SHARE = click.IntRange(1), click.FloatRange(0, 1, min_open=True)
Options = Mapping[str, Any]


def given(options: Options, *names: str) -> dict[str, Any]:
    """Return the options that have a value, of ``names`` or all; functions have defaults for the others."""
    return {name: options[name] for name in names or options if options.get(name) is not None}


def print_json(plain: Any) -> None:
    """Print a value as JSON."""
    click.echo(json.dumps(plain, indent=2))


def read_sizes(_: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """Read numbers, such as ``3x32x32`` for CxHxW; one number stands for a square."""
    if value is None:
        return None
    words, names = value.lower().replace("×", "x").split("x"), str(parameter.metavar).split("x")
    words = words * 2 if len(words) == 1 else words
    if len(words) != len(names) or not all(word.isdecimal() and int(word) for word in words):
        example = "x".join("3" if name == "C" else "32" for name in names)
        raise click.BadParameter(f"'{value}' is not {parameter.metavar} in pixels, such as {example}")
    return tuple(map(int, words))


class Several(click.ParamType):  # type: ignore[type-arg]
    """Comma-separated values of a type."""

    name = "a,b,…"

    def __init__(self, kind: Any = str) -> None:
        self.kind = click.types.convert_type(kind)

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> list[Any]:
        """Return the values in a list."""
        return [self.kind.convert(word.strip(), param, ctx) for word in value.split(",")]


def check_figure(_: click.Context, __: click.Parameter, value: Path | None) -> Path | None:
    """Refuse a kind of file that cannot be drawn, before anything is measured."""
    if value is not None:
        from trifecta.report.figures import check_format

        check_format(value)
    return value


RUN = click.argument("run", type=PATH)
SET_HELP = "Any other setting, such as method.schedule=overlapping:3; see --help-all."
IMPORT_HELP = "Module or file of your own parts, which are used as MODULE:NAME."
IMPORT = option("--import", "imports", multiple=True, metavar="MODULE", group="Method", help=IMPORT_HELP)
AS_JSON = option("--json", "as_json", is_flag=True, group="Output", help="Print the result as JSON.")
SHORTLIST = option("--shortlist", type=int, metavar="N", help="Try the N likeliest labels only; 0 for all.")
SOURCE = option("--data", required=True, metavar="SOURCE", help="Folder, Hub id, or digits.")
METHOD = setting("method", shown="superfecta", group="Method")
NETWORK, WIDTH = setting("network", group="Method"), setting("width", group="Method")
DEVICE, PRECISION = setting("device", group="Machine"), setting("precision", group="Machine")
SIZES: Options = {"callback": read_sizes, "default": "3x32x32", "metavar": "CxHxW"}
SHAPE = option("--image-shape", help="Channels, height and width of an image.", **SIZES)
CLASSES = option("--classes", "num_classes", type=COUNT, default=10, help="Number of classes.")
BUDGETS, THRESHOLDS = "quick, grid, cpu, night or full.", "Validation accuracies to reach."
SEEDS = option("--seeds", type=COUNT, default=1, help="Number of seeds.")
FIGURE = option("--figure", type=FILE, callback=check_figure, help="Draw a figure: .svg, .png or .pdf.")
HELP = {"help_option_names": ["-h", "--help"], "max_content_width": 100, "show_default": True}


@click.group(cls=Group, context_settings=HELP)
@click.version_option(trifecta.__version__, prog_name="trifecta")
def command() -> None:
    """Train neural networks without end-to-end backpropagation.

    \b
    Start here:
      trifecta train --recipe demo                 the Trifecta on handwritten digits
      trifecta train --data FOLDER --out RUN       your own images
      trifecta evaluate RUN                        its test accuracy, block by block
      trifecta predict RUN IMAGE...                labels for image files
      trifecta export RUN --out FILE.onnx          for other runtimes
      trifecta report RUN [RUN ...]                its page, or several compared
      trifecta list                                methods, networks, recipes
      trifecta bench speed                         images per second, against backprop
      trifecta reproduce cifar10                   the paper's experiments and its figures
      trifecta compare --data digits --methods trifecta,predsim,backprop     on equal work
    """  # noqa: D301  (click reads \b as a character: keep these lines as they are)


def subcommand(*options: Decorator) -> Callable[[Callable[..., None]], click.Command]:
    """Add a command of a function's name with these options."""

    def add(function: Any) -> click.Command:
        for each in reversed(options):
            function = each(function)
        added: click.Command = command.command(function.__name__.rstrip("_"))(function)
        return added

    return add


@subcommand(
    setting("data", metavar="SOURCE", group="Data"),
    setting("data.image_size", callback=read_sizes, metavar="HxW", group="Data"),
    setting("data.validation", group="Data"),
    setting("augmentation", "--augment", shown="none", group="Data"),
    option("--recipe", metavar="NAME", group="Method", help="Start from a recipe (NAME:BUDGET) or YAML."),
    *(METHOD, NETWORK, WIDTH),
    option("--set", "assigned", multiple=True, metavar="SETTING=VALUE", group="Method", help=SET_HELP),
    IMPORT,
    setting("epochs", group="Training"),
    setting("batch_size", group="Training"),
    setting("method.optimizer.learning_rate", shown="the method's own", group="Training"),
    setting("seed", group="Training"),
    setting("on_nan", metavar="WHAT", group=RARE),
    *(DEVICE, PRECISION),
    option("--processes", type=COUNT, group="Machine", help="Start and use N processes."),
    option(
        "--parallel", metavar="HOW", group="Machine", help="data, layers, or D replicas of L stages: DxL."
    ),
    option("--sync-batch-norm", is_flag=True, group=RARE, help="Batch statistics of all replicas."),
    option(
        "--timeout", type=SECONDS, metavar="S", group=RARE, help="Wait for other processes: 60 seconds."
    ),
    option("--out", metavar="RUN", group="Output", help="Folder for the run.  [default: runs/NAME-NUMBER]"),
    option("--resume", metavar="RUN", group="Output", help="Continue this run from its checkpoint."),
    AS_JSON,
    HELP_ALL,
)
def train(**options: Any) -> None:
    """Train a network on images; leave a run folder."""
    from trifecta import launch
    from trifecta.report.terminal import print_run

    run = options["resume"]
    changeable = ("resume", "data", "epochs", "device", "imports", "as_json", *PROCESSES)
    fixed = [words[0] for name, words in given_words().items() if name not in changeable]
    if run is not None and fixed:
        raise ValueError(
            f"a resumed run keeps its settings: received {', '.join(fixed)}; drop it, or start a new run "
            f"with --recipe {run}/config.yaml and --out"
        )
    config = None if run is not None else _run_config(**given(options, "recipe", "assigned", "imports"))
    trained = launch.train(config, options, click.get_current_context().obj)
    if trained is not None and options["as_json"]:
        print_json(trained[0].result | {"run": str(trained[1])})
    elif trained is not None:
        print_run(*trained)


def _run_config(*, recipe: str = "", assigned: Any, imports: Any) -> "trifecta.RunConfig":
    """Build the settings of a run: a recipe, a file or the defaults, and what options assign."""
    from trifecta.training.config import changed, read_config

    changes = assignments(assigned)
    if not recipe and "data" not in changes:
        raise ValueError("no data: give --data a folder, a Hub id or digits, or start from a --recipe")
    name, _, budget = recipe.partition(":")
    if not recipe:
        config = trifecta.RunConfig()
    elif name not in trifecta.RECIPES and (recipe.endswith((".yaml", ".yml")) or Path(recipe).is_file()):
        config = read_config(Path(recipe), imports=imports)
    else:
        config = trifecta.get_recipe(name)(budget or None)
    if "data" in changes and config.data is not None:
        # Columns and splits are those of the recipe's own data; the rest are its choices.
        kept = {f"data.{field}": getattr(config.data, field) for field in ("validation", "mean", "std")}
        changes = {"data": changes.pop("data"), **kept, **changes}
    return changed(config, changes, imports=imports)


@subcommand(
    RUN,
    option("--data", path="data.source", metavar="SOURCE", help="Other images.  [default: the run's own]"),
    option("--set", "assigned", multiple=True, metavar="SETTING=VALUE", help="A setting of these images."),
    option("--split", metavar="NAME", help="Another split.  [default: the run's test split]"),
    *(DEVICE, setting("precision", shown="the run's"), SHORTLIST),
    option(
        "--views", default="none", metavar="NAME", help="Average over flip or flip-shift (2 or 6 × work)."
    ),
    *(IMPORT, AS_JSON),
)
def evaluate(run: Path, **options: Any) -> None:
    """Measure a trained run on its test split, block by block."""
    from trifecta.launch import scoring
    from trifecta.report.terminal import percent, print_blocks

    model, folder = _load(run, options), trifecta.RunFolder(run)
    config, facts = folder.read_config(imports=options["imports"])
    done = len(folder.read_history())
    if done < config.epochs and not folder.result.is_file():
        warnings.warn(
            f"{run} has trained {done} of {config.epochs} epochs: these are its weights so far; go on "
            f"with trifecta.resume({str(run)!r})",
            stacklevel=2,
        )
    source, images = _images_of(run, config.data, facts, options)
    how = {"mean": facts.mean, "std": facts.std, "precision": model.precision, "views": options["views"]}
    with scoring(len(images)) as on_scored:
        images = images.to(next(model.network.parameters()).device)
        measured = trifecta.evaluate(model.network, images, on_scored=on_scored, **how)
    if options["as_json"]:
        names = ("accuracy", "log_loss", "calibration_error", "block_accuracy")
        plain = {name: getattr(measured, name) for name in names}
        on = {"classes": list(facts.classes), "images": len(images), "data": source}
        print_json(plain | on | {"confusion": measured.confusion.tolist(), "views": options["views"]})
        return
    print_blocks(measured.block_accuracy)
    click.echo(f"log loss {measured.log_loss:.3f}, calibration error {percent(measured.calibration_error)}")
    click.echo(f"accuracy {percent(measured.accuracy)} on {len(images):,} images ({source})")


def _load(run: Path, options: Options) -> "trifecta.TrainedModel":
    from trifecta.training.evaluation import warn_of_many_labels

    model = trifecta.load(run, **given(options, "device", "precision", "imports"))
    if options["shortlist"] is not None:
        model.network.keep_labels(options["shortlist"])
    warn_of_many_labels(model.network)
    return model


def _images_of(
    run: Path, own: "trifecta.DataConfig | None", facts: "trifecta.training.DatasetFacts", options: Options
) -> tuple[str, "trifecta.data.ImageSet"]:
    """Return a source, and its images to measure a run on: its ``own``, even if they moved, or others."""
    from trifecta.data import MissingSourceError, is_same_training, load_split
    from trifecta.training.config import changed
    from trifecta.training.model import check_scale

    for text in options["assigned"]:
        if not text.startswith("data."):
            raise ValueError(f"only settings of the images, data.…, can change: received --set {text}")
    assigned = assignments(options["assigned"]).items()
    changes = {path: value for path, value in assigned if path.startswith("data.")}
    source, shape = changes.pop("data.source", None), facts.image_shape
    if own is not None and (source is None or is_same_training(own, source, facts.rows)):
        data: Any = replace(own, source=source or own.source)
    elif source is not None:
        own, data = None, trifecta.DataConfig(source=source, image_size=shape[1:])
    else:
        raise ValueError(f"{run} was trained on data given in Python: give --data to measure it on")
    data = changed(trifecta.RunConfig(data=data), changes).data
    if own is not None and data.hold_out != own.hold_out:
        told = f"data.hold_out={data.hold_out} would measure {run} on images that it was trained on"
        raise ValueError(f"{told}: leave it out")
    how: dict[str, Any] = {"grey_range": facts.grey_range or None, "trained_on": facts.rows}
    how |= {"channels": shape[0], "seen": facts.seen.split()}
    try:
        images = load_split(data, options["split"], facts.classes, **how)
    except MissingSourceError as error:
        if source is not None:
            raise
        told = f"{run} was trained on {data.source}, {error}; --data takes its new place"
        raise ValueError(told) from None
    received = tuple(images.images.shape[1:])
    if received != shape:
        raise ValueError(
            f"{run} was trained on images (channels, height, width) {shape}: received {received}; "
            "evaluate on grey images, as it was trained"
        )
    check_scale(images.images, facts, where=data.source, refuses=True)
    return data.source, images


IMAGES = click.argument("images", nargs=-1, required=True, type=PATH)


@subcommand(RUN, IMAGES, DEVICE, SHORTLIST, IMPORT, AS_JSON)
def predict(run: Path, images: tuple[Path, ...], **options: Any) -> None:
    """Label image files, or all images in a folder.

    Each label comes with the probability of every class, or of the likeliest five.
    """
    from trifecta.calibration import probabilities
    from trifecta.data import find_images
    from trifecta.launch import scoring
    from trifecta.report.terminal import print_predictions

    model = _load(run, options)
    files = [file for path in images for file in find_images(path)]
    with scoring(len(files)) as on_scored:
        scores = model.scores(files, on_scored=on_scored)
    shares, classes = probabilities(scores), model.classes
    if not options["as_json"]:
        print_predictions(files, shares, classes)
        return
    kind = "goodness" if model.network.method.tries_labels else "scores"
    print_json(
        [
            {
                "file": str(file),
                "label": classes[row.index(max(row))],
                # A label that is not on the shortlist has no goodness, and JSON no infinity.
                kind: {name: v if math.isfinite(v) else None for name, v in zip(classes, row, strict=True)},
                "probabilities": dict(zip(classes, own, strict=True)),
            }
            for file, row, own in zip(files, scores.tolist(), shares.tolist(), strict=True)
        ]
    )


@subcommand(
    RUN,
    option("--out", required=True, metavar="RUN", help="Folder for the smaller run."),
    option("--keep", type=SHARE, default=0.3, help="Share of the parameters."),
    option("--epochs", type=COUNT, default=3, help="Epochs of fine-tuning."),
    *(IMPORT, AS_JSON),
)
def shrink(run: Path, out: str, as_json: bool, **options: Any) -> None:
    """Remove the channels of a trained network that its blocks need least; leave a smaller run."""
    from trifecta.report.page import write_report
    from trifecta.report.terminal import print_run

    smaller, folder = trifecta.shrinking.shrink(run, out, **options), trifecta.RunFolder(run)
    write_report(smaller)
    if as_json:
        print_json(smaller.result)
        return
    print_run(smaller, Path(out))
    if folder.result.is_file():
        before, after = folder.read_result(), smaller.result
        points = 100 * (after["test_accuracy"] - before["test_accuracy"])
        share = after["parameters"] / before["parameters"]
        click.echo(f"{share:.1%} of the parameters, test accuracy {points:+.2f} percentage points")


@subcommand(
    RUN,
    option("--format", type=click.Choice(["onnx", "torch"]), default="onnx", help="Kind of file."),
    option("--out", required=True, type=FILE, help="The file to write."),
    option("--preprocess", is_flag=True, help="Take images as bytes, and normalise them in the graph."),
    IMPORT,
)
def export(run: Path, out: Path, imports: Any, **options: Any) -> None:
    """Write a trained network as one graph, for other runtimes: samples in, class scores out."""
    from trifecta.integrations.export import export

    click.echo(export(trifecta.load(run, device="cpu", imports=imports), out, **options))


PAGE_HELP = "The page.  [default: RUN/report.html; of several, compared.html in this folder]"


@subcommand(
    click.argument("runs", nargs=-1, required=True, type=PATH),
    option("--out", type=FILE, help=PAGE_HELP),
    IMPORT,
)
def report(runs: tuple[Path, ...], out: Path | None, imports: Any) -> None:
    """Write the page of a run anew, or one page that compares several runs."""
    from trifecta.report.page import compare_runs, missing_libraries, write_report
    from trifecta.training.run import resumed_trainer

    if missing_libraries():
        raise ValueError(f"a page needs the extra report: {how_to_install('report')}")
    folder = trifecta.RunFolder(runs[0])
    page = out or (folder.report if len(runs) == 1 else Path("compared.html"))
    if len(runs) > 1:
        compare_runs(runs, page)
    else:
        result, trainer = folder.read_result(), resumed_trainer(runs[0], imports=imports, writes=False)
        test = trainer.evaluate(trainer.data.test)
        write_report(trifecta.Run(result=result, test=test, trainer=trainer), page)
    click.echo(page)


@subcommand(
    option("--recipes", "with_recipes", is_flag=True, help="Show the recipes instead, over a hundred."),
    option("--settings", "with_settings", is_flag=True, help="All settings of a run, at their defaults."),
    AS_JSON,
)
def list_(with_recipes: bool, with_settings: bool, as_json: bool) -> None:
    """Show methods, networks, augmentations, tables of experiments and recipes."""
    from trifecta.recipes import RECIPES, TABLES
    from trifecta.report.terminal import print_listing
    from trifecta.training.config import to_plain, yaml_text

    if with_settings:
        plain = to_plain(trifecta.RunConfig(data="FOLDER"))
        print_json(plain) if as_json else click.echo(yaml_text(plain).rstrip())
        return
    methods, networks = (
        {name: (inspect.getdoc(entry) or "–").splitlines()[0] for name, entry in table.items()}
        for table in (trifecta.methods.all_methods(), trifecta.NETWORKS)
    )
    augmentations = {name: str(config) for name, config in trifecta.data.AUGMENTATIONS.items()}
    tables = {name: f"{table.title}: {len(table.recipes)} recipes" for name, table in TABLES.items()}
    shown = {"methods": methods, "networks": networks, "augmentations": augmentations, "tables": tables}
    recipes = {"recipes": {name: f"{r.title} ({', '.join(r.budgets)})" for name, r in RECIPES.items()}}
    print_json(shown | recipes) if as_json else print_listing(recipes if with_recipes else shown)


@subcommand(
    *(METHOD, NETWORK, WIDTH, SHAPE, CLASSES),
    option("--processes", type=COUNT, default=2, help="Number of processes."),
    *(option("--parallel", default="layers", metavar="HOW", help="layers, data or DxL."), AS_JSON),
)
def plan(image_shape: tuple[int, ...], num_classes: int, as_json: bool, **options: Any) -> None:
    """Show which process would hold which blocks, and what would cross between them."""
    from trifecta.parallel.plan import describe, parse_layout
    from trifecta.report.terminal import percent, print_table, shown

    layout = parse_layout(options["parallel"], options["processes"])
    config = trifecta.RunConfig(**given(options, "method", "network", "width"))
    size: Any = {"sample_shape": image_shape, "num_classes": num_classes, "width": config.width}
    plan = describe(trifecta.build_network(config.method, config.network, **size), layout)
    if as_json:
        print_json(plan)
        return

    def span(ids: Sequence[int]) -> str:
        return str(ids[0]) if len(ids) == 1 else f"{ids[0]}–{ids[-1]}"

    head = ["stage", "ranks", "blocks", "share of the work", "parameters", "sends an image, fp32"]
    body = []
    for number, stage in enumerate(plan["stages"]):
        ranks, sends = ", ".join(map(str, stage["ranks"])), stage["sends"] * 4 / 1024
        cells = [str(number), ranks, span(stage["blocks"]), percent(stage["share"])]
        body.append([*cells, f"{stage['parameters']:,}", shown(sends or None, "{:,.0f} KiB")])
    notes = [f"balance {percent(plan['balance'])}: the mean stage's work over the largest one's"]
    for crossing in plan["crossings"]:
        turn = "every step" if plan["cycle"] == 1 else f"step {crossing['step']} of {plan['cycle']}"
        notes.append(
            f"{turn}: blocks {span(crossing['blocks'])} learn together on stages "
            f"{span(crossing['stages'])}; their gradient goes back, and no other"
        )
    if not plan["crossings"] and layout.layers > 1:
        notes.append("no gradient goes from one stage to another")
    print_table(head, body, "\n".join(notes))


@command.group("bench")
def bench() -> None:
    """Measure training and prediction against backprop, on equal work."""


def benchmark(name: str, about: str, *options: Decorator) -> None:
    """Add a benchmark, whose report is shown, appended and drawn."""

    def run(as_json: bool, out: Path | None, figure: Path | None, **work: Any) -> None:
        from rich.console import Console

        from trifecta._utils.files import write_atomically
        from trifecta.bench import data_name, draw_bench, print_bench
        from trifecta.launch import waiting

        words = itertools.chain(*(words for option, words in given_words().items() if option in work))
        asked = shlex.join(["trifecta", "bench", name, *map(data_name, words)])
        with waiting(Console(stderr=True, quiet=as_json), "") as say:
            report = _measured(name, say, given(work)) | {"command": asked}
        if out is not None:
            text = f"{out.read_text() if out.exists() else ''}{json.dumps(report)}\n"
            write_atomically(out, lambda path: path.write_text(text))
        if figure is not None:
            draw_bench(report, figure)
        print_json(report) if as_json else print_bench(report)

    appended = option("--out", type=FILE, help="Append the report to this .jsonl file.")
    for each in (FIGURE, appended, AS_JSON, *reversed(options)):
        run = each(run)
    bench.command(name, help=about)(run)


def _measured(name: str, say: Callable[[str], None], work: dict[str, Any]) -> dict[str, Any]:
    from trifecta import bench

    if name == "accuracy":
        methods, seeds, thresholds = (work.pop(key) for key in ("methods", "seeds", "thresholds"))
        varied = itertools.product(methods, range(seeds))
        configs = [trifecta.RunConfig(method=method, seed=seed, **work) for method, seed in varied]
        return bench.measure_accuracy(configs, thresholds, say=say)
    variants = bench.select(work.pop("rows", None))
    how = {key: work.pop(key) for key in ("networks", "rounds", "steps") if key in work}
    measure: Callable[..., dict[str, Any]] = getattr(bench, f"measure_{name}")
    return measure(bench.Setting(**work), variants, say=say, **how)


BATCH = setting("batch_size", type=COUNT)
ROUNDS = option("--rounds", type=COUNT, default=5, help="Turns of each row.")
EQUAL_WORK = (WIDTH, SHAPE, CLASSES, BATCH, DEVICE, PRECISION)
benchmark(
    "speed",
    "Training, in images per second.",
    *(NETWORK, option("--rows", metavar="NAMES", help="Rows of the table.  [default: all that apply]")),
    *(*EQUAL_WORK, ROUNDS),
    option("--steps", type=COUNT, default=2, help="Steps per turn; more if blocks learn at the same time."),
)
INFERRED = "trifecta,trifecta-shortlist,class-groups,backprop,published"
benchmark(
    "inference",
    "Prediction with all labels, in images per second.",
    *(NETWORK, option("--rows", metavar="NAMES", default=INFERRED, help="Rows of the table.")),
    *(*EQUAL_WORK, ROUNDS),
)
DEEPER = "equal:6:128,equal:12:128,equal:24:128,equal:48:128,small,large"
HELD = "trifecta,class-groups,backprop,backprop-plain-graph,backprop-checkpointed"
benchmark(
    "memory",
    "Training memory above the model, over depth.",
    option("--networks", type=Several(), default=DEEPER, help="Networks to compare."),
    option("--rows", metavar="NAMES", default=HELD, help="Rows of the table."),
    *(*EQUAL_WORK, option("--rounds", type=COUNT, default=1, help="Measurements of each row.")),
)
benchmark(
    "accuracy",
    "Seconds of training to reach a validation accuracy.",
    SOURCE,
    option("--methods", default="trifecta,class-groups,backprop", type=Several(), help="Methods to train."),
    option("--thresholds", default="0.4,0.5,0.6,0.7,0.8,0.9", type=Several(SHARE), help=THRESHOLDS),
    *(SEEDS, option("--epochs", type=COUNT, default=5, help="Number of epochs of each run.")),
    setting("augmentation", "--augment", "augmentation", shown="none"),
    *(NETWORK, WIDTH, BATCH, DEVICE, PRECISION),
)


PLANNED = ("seeds", "device", "precision", "pipeline")


def experiment(results: str, work: str) -> tuple[Decorator, ...]:
    """Return the options of a command that makes the missing runs of a table."""
    return (
        *(SEEDS, DEVICE, PRECISION),
        option("--out", type=FOLDER, default=Path(results), help="Folder of result files."),
        option("--work", type=FOLDER, default=Path(work), help="Folder of unfinished runs."),
        option("--untimed", is_flag=True, help="Store no times, because the machine is busy."),
        option("--show", is_flag=True, help="Show what there is, and run nothing."),
        AS_JSON,
    )


def _make_missing(
    runs: Sequence[Any], row: Callable[[Any], str], options: Options, **more: Any
) -> dict[str, str]:
    """Run what is missing, unless it is only to be shown; return what failed, by run."""
    from rich.console import Console

    from trifecta.launch import watched

    if options["show"]:
        return {}
    name = click.get_current_context().command_path
    console = Console(stderr=True, quiet=options["as_json"])

    def command(run: Any) -> str:
        return f"{name} {row(run)} --budget {run.config.budget} --seeds {run.config.seed + 1}"

    @contextmanager
    def watch(run: Any, trainer: "trifecta.Trainer") -> Iterator[None]:
        console.print(f"[{next(numbers)}/{len(runs)}] {run.name}", markup=False, highlight=False)
        with watched(trainer, console):
            yield

    where = {"out": options["out"], "work": options["work"], "timed": not options["untimed"]}
    makes = trifecta.experiments.Reproduction(runs=runs, command=command, **where, **more)
    numbers = itertools.count(len(runs) - len(makes.missing()) + 1)
    try:
        outcome = makes.make(watch)
    except trifecta.training.Interrupted as stop:
        again = f"{stop}; the same command continues from there"
        raise trifecta.training.Interrupted(again) from stop.__cause__
    if outcome.elsewhere:
        console.print(f"{len(outcome.elsewhere)} runs are being made by another process")
    return outcome.failed


def _raise_failures(failed: Mapping[str, str]) -> None:
    for first, reason in failed.items():
        others = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        raise ValueError(f"not run: {first}{others}: {reason}")


DATA_ROOT: click.Path = click.Path(path_type=Path, file_okay=False, exists=True)
DATA_HELP = "Folder with mnist, cifar10, …; what it lacks comes from the Hub.  [env: TRIFECTA_DATA]"


@subcommand(
    click.argument("table", required=False),
    option("--budget", metavar="NAME", help=f"{BUDGETS}  [default: the table's own]"),
    option("--rows", default="*", metavar="PATTERN", help="Only rows whose name matches, such as `ff-*`."),
    option("--data-root", type=DATA_ROOT, envvar="TRIFECTA_DATA", help=DATA_HELP),
    *experiment("benchmarks/results/reproduced", "runs/reproduce"),
)
def reproduce(
    table: str | None, budget: str | None, rows: str, data_root: Path | None, **options: Any
) -> None:
    """Make the missing runs of TABLE, or of all tables, then show them with the published figures.

    An interrupted run continues where it stopped, and a finished one is not run again. Several of these
    commands can share the work.
    """
    from trifecta.experiments import section, write_pages
    from trifecta.recipes import TABLES, get_table, in_folder

    def row(table: str, run: Any) -> str:
        return f"{table} --rows {run.recipe.name}"

    tables = TABLES if table is None else {table: get_table(table)}
    failed: dict[str, str] = {}
    chosen = {"locate": partial(in_folder, root=data_root), **given(options, *PLANNED)}
    plans = {
        name: trifecta.experiments.plan(one.rows(rows), budget=budget or one.budget, **chosen)
        for name, one in tables.items()
    }
    for name, runs in plans.items():
        failed |= _make_missing(runs, partial(row, name), options)
    stored = trifecta.experiments.read_results(options["out"])
    summaries = {name: trifecta.experiments.summarise(runs, stored) for name, runs in plans.items()}
    if options["as_json"]:
        print_json({name: [one.record() for one in summary] for name, summary in summaries.items()})
    else:
        for name, summary in summaries.items():
            section(tables[name], summary).print()
        click.echo(f"page {write_pages(options['work'], list(tables.values()), summaries)}")
    _raise_failures(failed)


COMPARED_HELP = "Comma-separated: methods of `trifecta list`, and other rows, such as backprop-muon."


@subcommand(
    SOURCE,
    option("--methods", required=True, type=Several(), help=COMPARED_HELP),
    option("--networks", default="small", type=Several(), help="Networks to train."),
    option("--budget", default="grid", metavar="NAME", help=BUDGETS),
    option("--thresholds", default="0.5,0.7", type=Several(SHARE), help=THRESHOLDS),
    setting("pipeline", type=COUNT),
    FIGURE,
    *experiment("benchmarks/results/compared", "runs/compare"),
)
def compare(data: str, **options: Any) -> None:
    """Train methods on equal work; show accuracy, size, work, speed, memory and locality side by side."""
    from trifecta import comparison
    from trifecta.bench import data_name
    from trifecta.report.terminal import print_table

    def row(run: Any) -> str:
        name, _, network = run.recipe.title.partition(", ")
        return f"--data {run.recipe.data.source} --methods {name} --networks {network}"

    named, budget = trifecta.DataConfig(source=data_name(data)), options["budget"]
    find_images = partial(comparison.images_of, replace(named, source=data))
    rows = (options["methods"], options["networks"], named)
    recipes = comparison.comparison_recipes(*rows, budget=budget, find_images=find_images)
    chosen = given(options, *PLANNED)
    runs = trifecta.experiments.plan(recipes, budget=budget, locate=partial(replace, source=data), **chosen)
    failed = _make_missing(runs, row, options, measure=_memory_of)
    made = trifecta.experiments.summarise(runs, trifecta.experiments.read_results(options["out"]))
    if options["as_json"]:
        print_json(comparison.compare(made, options["thresholds"]))
    else:
        note = comparison.equal_work(made)
        print_table(*comparison.comparison_table(made, options["thresholds"]), note=note)
    if options["figure"] is not None:
        comparison.comparison_chart(made).save(options["figure"])
    _raise_failures(failed)


def _memory_of(run: Any, trainer: "trifecta.Trainer") -> dict[str, int]:
    """Return the training memory of the first seed's run, from processes that do nothing else."""
    from trifecta.bench import Setting, training_memory, variant_of

    if run.config.seed:
        return {}
    work = Setting.of(run.config, trainer.facts.image_shape, trainer.data.num_classes)
    return training_memory(replace(work, precision=trainer.learner.precision), variant_of(run.config))


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit.

    Status 0: done. 1: training diverged, or a process of several failed. 2: something the user can put
    right, said in one line. 3: a file could not be written, such as on a full disk. 130: interrupted by
    Ctrl-C. 143: terminated. A training that had begun leaves a checkpoint.
    """

    def terminate(*_: object) -> None:
        raise Terminated

    words, status = list(sys.argv[1:] if arguments is None else arguments), OK
    previous = signal.signal(signal.SIGTERM, terminate)
    try:
        try:
            command.main(words, prog_name="trifecta", standalone_mode=False, obj=words)
        except click.exceptions.NoArgsIsHelpError as error:
            status = USAGE
            click.echo(error.format_message(), err=True)
        except (Exception, KeyboardInterrupt, Terminated) as error:
            status, message = _explained(error)
            tell(printable(" ".join(message.split())))
        finally:
            signal.signal(signal.SIGTERM, previous)
    except Terminated:  # While an error was reported.
        status = TERMINATED
    sys.exit(status)


def _explained(error: BaseException) -> tuple[int, str]:
    """Return the exit status and the message of an error; a fault of ours is raised again."""
    match error:
        case click.NoSuchOption():
            return USAGE, unknown_option(error)
        case click.ClickException():
            return USAGE, error.format_message()
        case KeyboardInterrupt() | click.Abort():
            return INTERRUPTED, "interrupted"
        case Terminated():
            return TERMINATED, "terminated"
        case ValueError() | ImportError():
            return USAGE, str(error)

    from trifecta.parallel.links import ProcessError
    from trifecta.training import DivergenceError, Interrupted, StorageError

    match error:
        case StorageError():
            return UNWRITTEN, str(error)
        case OSError():
            return USAGE, f"{error.strerror or error}: {error.filename or 'the file system says no'}"
        case DivergenceError() | ProcessError():
            return FAILED, str(error)
        case Interrupted():
            return TERMINATED if isinstance(error.__cause__, Terminated) else INTERRUPTED, str(error)
    raise error
