"""The ``trifecta`` command: one function for each of its commands, which imports what it needs."""

import inspect
import itertools
import json
import math
import shlex
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any, NoReturn

import click

import trifecta
from trifecta._utils.references import printable
from trifecta.options import (
    USAGE,
    Group,
    Terminated,
    ToldByProcess,
    assignments,
    given_words,
    image_size,
    option,
    setting,
    tell_launcher,
    told,
    unknown_option,
)

OK, FAILED, UNWRITTEN, INTERRUPTED, TERMINATED = 0, 1, 3, 130, 143
PATH: click.Path = click.Path(path_type=Path)
COUNT = click.IntRange(1)
RUN = click.argument("run", type=PATH)
IMPORT = option(
    "--import",
    "imports",
    multiple=True,
    metavar="MODULE",
    group="Method",
    help="Module or file of your own parts, which are used as MODULE:NAME.",
)
SHORTLIST = option("--shortlist", type=int, metavar="N", help="Try the N likeliest labels only; 0 for all.")


AS_JSON = option("--json", "as_json", is_flag=True, group="Output", help="Print the result as JSON.")


def print_json(plain: Any) -> None:
    """Print a value as JSON."""
    click.echo(json.dumps(plain, indent=2))


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
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
      trifecta bench speed                         images a second, and backprop's
      trifecta reproduce cifar10                   the paper's experiments and its figures
      trifecta compare --data digits --methods trifecta,predsim,backprop     on equal work
    """  # noqa: D301  (click reads \b as a character: keep these lines as they are)


@command.command("train")
@setting("data", metavar="SOURCE", group="Data")
@setting("data.image_size", callback=image_size, metavar="SIZE", group="Data")
@setting("data.validation", group="Data")
@setting("augmentation", "--augment", shown="none", group="Data")
@option("--recipe", metavar="NAME", group="Method", help="Start from a recipe (NAME:BUDGET) or YAML.")
@setting("method", group="Method")
@setting("network", group="Method")
@setting("width", group="Method")
@option(
    "--set",
    "assigned",
    multiple=True,
    metavar="SETTING=VALUE",
    group="Method",
    help="Any other setting, such as method.schedule=overlapping:3; see --help-all.",
)
@IMPORT
@setting("epochs", group="Training")
@setting("batch_size", group="Training")
@setting("method.optimizer.learning_rate", shown="the method's own", group="Training")
@setting("seed", group="Training")
@setting("on_nan", metavar="WHAT", rare=True, group="Training")
@setting("device", group="Machine")
@setting("precision", group="Machine")
@option("--processes", type=int, metavar="N", group="Machine", help="Train in N processes started here.")
@option("--parallel", metavar="HOW", group="Machine", help="data, layers, or DxL: D replicas of L stages.")
@option("--sync-batch-norm", is_flag=True, rare=True, group="Machine", help="Statistics of all replicas.")
@option("--timeout", type=float, metavar="S", rare=True, group="Machine", help="Of processes: 60 seconds.")
@option("--out", metavar="RUN", group="Output", help="Folder for the run.  [default: runs/NAME-NUMBER]")
@option("--resume", metavar="RUN", group="Output", help="Continue this run from its checkpoint.")
@AS_JSON
def train_command(**options: Any) -> None:
    """Train a network on images; leave a run folder."""
    from trifecta.launch import train
    from trifecta.report.terminal import print_run

    if options["resume"] is not None:
        _check_resume(options["resume"])
    trained = train(None if options["resume"] is not None else _run_config(**options), options)
    if trained is not None:
        run, folder = trained
        print_json(run.result | {"run": str(folder)}) if options["as_json"] else print_run(run, folder)


def _check_resume(run: str) -> None:
    """Refuse options that a resumed run cannot change."""
    processes = ("processes", "parallel", "sync_batch_norm", "timeout")
    fixed = given_words(but=("resume", "data", "epochs", "device", "imports", "as_json", *processes))
    if fixed:
        names = ", ".join(word for word in fixed if word.startswith("--"))
        raise ValueError(
            f"a resumed run keeps its settings: received {names}; drop it, or start a new run with "
            f"--recipe {run}/config.yaml and --out"
        )


def _run_config(*, recipe: str | None, assigned: Any, imports: Any, **others: Any) -> "trifecta.RunConfig":
    """Build the settings of a run: a recipe, a file or the defaults, and what options assign."""
    from trifecta._utils.references import Imports
    from trifecta.training.config import changed, read_config

    Imports(imports)  # A module that is missing is reported first.
    changes = assignments(assigned)
    if recipe is None:
        if "data" not in changes:
            raise ValueError("no data: give --data a folder, a Hub id or digits, or start from a --recipe")
        return changed(trifecta.RunConfig(), changes, imports=imports)
    name, _, budget = recipe.partition(":")
    is_file = Path(recipe).suffix in {".yaml", ".yml"} or Path(recipe).is_file()
    if name not in trifecta.RECIPES and is_file:
        config = read_config(Path(recipe), imports=imports)
    else:
        config = trifecta.get_recipe(name)(budget or None)
    if "data" in changes and config.data is not None:
        # Columns and splits are those of the recipe's own data; the rest are its choices.
        kept = {f"data.{field}": getattr(config.data, field) for field in ("validation", "mean", "std")}
        changes = {"data": changes.pop("data"), **kept, **changes}
    return changed(config, changes, imports=imports)


@command.command("evaluate")
@RUN
@option("--data", path="data.source", metavar="SOURCE", help="Other images.  [default: the run's own]")
@option("--set", "assigned", multiple=True, metavar="SETTING=VALUE", help="A setting of these images.")
@option("--split", metavar="NAME", help="Another split.  [default: the run's test split]")
@setting("device", passes=True)
@setting("precision", shown="the run's")
@SHORTLIST
@option("--views", default="none", metavar="NAME", help="Mean over flip or flip-shift: 2 or 6 × the work.")
@IMPORT
@AS_JSON
def evaluate_command(run: Path, **options: Any) -> None:
    """Measure a trained run on its test split, block by block."""
    from trifecta.data import MissingSourceError, load_split
    from trifecta.progress import scoring
    from trifecta.report.terminal import percent, print_blocks
    from trifecta.training.evaluation import warn_of_many_labels

    model, folder = _load(run, **options), trifecta.RunFolder(run)
    config, facts = folder.read_config(imports=options["imports"])
    done = len(folder.read_history())
    if done < config.epochs and not folder.result.is_file():
        warnings.warn(
            f"{run} has trained {done} of {config.epochs} epochs: these are its weights so far; go on "
            f"with trifecta.resume('{run}')",
            stacklevel=2,
        )
    data = _data_of(run, config, facts, options["assigned"])
    shape, greys = facts.image_shape, facts.grey_range or None
    how: dict[str, Any] = {"channels": shape[0], "grey_range": greys, "trained_on": facts.rows}
    try:
        images = load_split(data, options["split"], facts.classes, **how)
    except MissingSourceError as error:
        if options["data"] is not None:
            raise
        told = f"{run} was trained on {data.source}, {error}; --data takes its new place"
        raise ValueError(told) from None
    if tuple(images.images.shape[1:]) != shape:
        raise ValueError(
            f"{run} was trained on images (channels, height, width) {shape}: received "
            f"{tuple(images.images.shape[1:])}; evaluate on grey images, as it was trained"
        )
    warn_of_many_labels(model.network)
    how = {"mean": facts.mean, "std": facts.std, "precision": model.precision, "views": options["views"]}
    images = images.to(next(model.network.parameters()).device)
    with scoring(len(images)) as on_scored:
        measured = trifecta.evaluate(model.network, images, on_scored=on_scored, **how)
    if options["as_json"]:
        names = ("accuracy", "log_loss", "calibration_error", "block_accuracy")
        plain = {name: getattr(measured, name) for name in names}
        on = {"classes": list(facts.classes), "images": len(images), "data": data.source}
        print_json(plain | {"confusion": measured.confusion.tolist(), "views": options["views"]} | on)
        return
    print_blocks(measured.block_accuracy)
    click.echo(f"log loss {measured.log_loss:.3f}, calibration error {percent(measured.calibration_error)}")
    click.echo(f"accuracy {percent(measured.accuracy)} on {len(images):,} images ({data.source})")


def _load(run: Path, **options: Any) -> "trifecta.TrainedModel":
    keywords = {name: options[name] for name in ("device", "precision", "imports") if name in options}
    model = trifecta.load(run, **keywords)
    if options["shortlist"] is not None:
        model.network.keep_labels(options["shortlist"])
    return model


def _data_of(run: Path, config: "trifecta.RunConfig", facts: Any, assigned: Any) -> "trifecta.DataConfig":
    """Return the data to measure a run on: its own, even if they have moved, or others."""
    from trifecta.data import is_same_training
    from trifecta.training.config import changed

    others = [text for text in assigned if not text.startswith("data.")]
    if others:
        raise ValueError(
            "a trained run keeps its settings, but those of the images: received --set "
            f"{others[0]}; give one that begins with data."
        )
    changes = {path: value for path, value in assignments(assigned).items() if path.startswith("data.")}
    source, wanted = changes.pop("data.source", None), config.data
    if source is not None:
        moved = None if wanted is None else replace(wanted, source=source)
        is_own = moved is not None and is_same_training(moved, facts.rows)
        wanted = moved if is_own else trifecta.DataConfig(source=source, image_size=facts.image_shape[1:])
    if wanted is None:
        raise ValueError(f"{run} was trained on data given in Python: give --data to measure it on")
    found = changed(trifecta.RunConfig(data=wanted), changes).data
    assert found is not None
    return found


@command.command("predict")
@RUN
@click.argument("images", nargs=-1, required=True, type=PATH)
@setting("device", passes=True)
@SHORTLIST
@IMPORT
@AS_JSON
def predict_command(run: Path, images: tuple[Path, ...], as_json: bool, **options: Any) -> None:
    """Label image files, or all images in a folder.

    Each label comes with the probability of every class, or of the likeliest five.
    """
    from trifecta.calibration import probabilities
    from trifecta.data import find_images
    from trifecta.progress import scoring
    from trifecta.report.terminal import print_predictions
    from trifecta.training.evaluation import warn_of_many_labels

    model = _load(run, **options)
    files = [file for path in images for file in find_images(path)]
    warn_of_many_labels(model.network)
    with scoring(len(files)) as on_scored:
        scores = model.scores(files, on_scored=on_scored)
    shares = probabilities(scores)
    if not as_json:
        print_predictions(files, shares, model.classes)
        return
    kind = "goodness" if model.network.method.tries_labels else "scores"
    rows = []
    for file, row, share in zip(files, scores.tolist(), shares.tolist(), strict=True):
        # A label that is not on the shortlist has no goodness, and JSON no infinity.
        finite = [value if math.isfinite(value) else None for value in row]
        rows.append(
            {
                "file": str(file),
                "label": model.classes[row.index(max(row))],
                kind: dict(zip(model.classes, finite, strict=True)),
                "probabilities": dict(zip(model.classes, share, strict=True)),
            }
        )
    print_json(rows)


@command.command("shrink")
@RUN
@option("--out", required=True, metavar="RUN", help="Folder for the smaller run.")
@option("--keep", type=float, default=0.3, help="Share of the parameters.")
@option("--epochs", type=COUNT, default=3, help="Of fine-tuning.")
@IMPORT
@AS_JSON
def shrink_command(run: Path, out: str, as_json: bool, **options: Any) -> None:
    """Remove the channels of a trained network that its blocks need least; leave a smaller run."""
    from trifecta.report.page import write_report
    from trifecta.report.terminal import print_run

    smaller = trifecta.shrinking.shrink(run, out, **options)
    write_report(smaller)
    if as_json:
        print_json(smaller.result)
        return
    print_run(smaller, Path(out))
    if trifecta.RunFolder(run).result.is_file():
        whole = trifecta.RunFolder(run).read_result()
        share = smaller.result["parameters"] / whole["parameters"]
        points = 100 * (smaller.result["test_accuracy"] - whole["test_accuracy"])
        click.echo(f"{share:.1%} of the parameters, {points:+.2f} points")


@command.command("export")
@RUN
@option("--format", type=click.Choice(["onnx", "torch"]), default="onnx")
@option("--out", required=True, type=PATH, help="The file to write.")
@option("--preprocess", is_flag=True, help="Take images as bytes, and normalise them in the graph.")
@IMPORT
def export_command(run: Path, out: Path, imports: Any, **options: Any) -> None:
    """Write a trained network as one graph, for other runtimes: samples in, class scores out."""
    from trifecta.integrations.export import export

    click.echo(export(trifecta.load(run, device="cpu", imports=imports), out, **options))


@command.command("report")
@click.argument("runs", nargs=-1, required=True, type=PATH)
@option("--out", type=PATH, help="The page.  [default: in the run; compared.html]")
@IMPORT
def report_command(runs: tuple[Path, ...], out: Path | None, imports: Any) -> None:
    """Write the page of a run anew, or compare several runs."""
    from trifecta._utils.files import write_atomically
    from trifecta.report.page import compare_runs, missing_libraries, render
    from trifecta.training.run import resumed_trainer

    if missing_libraries():
        raise ValueError("a page needs the extra: pip install 'trifecta[report]'")
    if len(runs) > 1:
        page = out or Path("compared.html")
        compare_runs(runs, page)
    else:
        folder = trifecta.RunFolder(runs[0])
        if folder.read_config(imports=imports)[0].data is None:
            raise ValueError(
                f"a page shows the run's images: received {runs[0]}, trained on data given in Python"
            )
        result, trainer = folder.read_result(), resumed_trainer(runs[0], imports=imports, writes=False)
        # It is fitted when a run ends, after the checkpoint.
        trainer.network.temperature.fill_(result.get("temperature", 1.0))
        test = trainer.evaluate(trainer.data.test)
        text = render(trifecta.Run(result=result, test=test, trainer=trainer))
        page = out or folder.report
        write_atomically(page, lambda path: path.write_text(text, encoding="utf-8"))
    click.echo(page)


@command.command("list")
@option("--recipes", "with_recipes", is_flag=True, help="The recipes too: over a hundred.")
@option(
    "--settings", "with_settings", is_flag=True, help="All settings of a run, for --set, at their defaults."
)
@AS_JSON
def list_command(with_recipes: bool, with_settings: bool, as_json: bool) -> None:
    """Show methods, networks, augmentations, tables of experiments and recipes."""
    from trifecta.recipes import RECIPES, TABLES
    from trifecta.report.terminal import print_listing
    from trifecta.training.config import to_plain, yaml_text

    if with_settings:
        plain = to_plain(trifecta.RunConfig(data="FOLDER"))
        click.echo(json.dumps(plain, indent=2) if as_json else yaml_text(plain).rstrip())
        return
    methods, networks = (
        {name: (inspect.getdoc(entry) or "–").splitlines()[0] for name, entry in table.items()}
        for table in (trifecta.methods.all_methods(), trifecta.NETWORKS)
    )
    tables = {
        "methods": methods,
        "networks": networks,
        "augmentations": {name: str(config) for name, config in trifecta.data.AUGMENTATIONS.items()},
        "tables": {name: f"{t.title}: {len(t.recipes)} recipes" for name, t in TABLES.items()},
    }
    if as_json or with_recipes:
        tables["recipes"] = {name: f"{r.title} ({', '.join(r.budgets)})" for name, r in RECIPES.items()}
    if as_json:
        print_json(tables)
    else:
        print_listing(tables)


def _image_shape(context: click.Context, _: click.Parameter, value: str) -> tuple[int, ...]:
    words = value.lower().split("x")
    if len(words) != 3 or not all(word.isdecimal() and int(word) for word in words):
        rule = "--image-shape is CHANNELSxHEIGHTxWIDTH, such as 3x32x32"
        raise click.UsageError(f"{rule}: received '{value}'", context)
    return tuple(map(int, words))


SHAPE = option("--image-shape", callback=_image_shape, default="3x32x32", metavar="CxHxW")


@command.command("plan")
@setting("method", default="superfecta", shown="superfecta")
@setting("network", passes=True)
@setting("width", passes=True)
@SHAPE
@option("--classes", "num_classes", type=int, default=10)
@option("--processes", type=COUNT, default=2)
@option("--parallel", default="layers", metavar="HOW", help="layers, data or DxL.")
@AS_JSON
def plan_command(method: str, network: str, as_json: bool, **options: Any) -> None:
    """Show which process would hold which blocks, and what would cross between them."""
    from trifecta.parallel.plan import describe, parse_layout
    from trifecta.report.terminal import percent, print_table

    layout = parse_layout(options.pop("parallel"), options.pop("processes"))
    options["sample_shape"] = options.pop("image_shape")
    plan = describe(trifecta.build_network(trifecta.get_method(method), network, **options), layout)
    if as_json:
        print_json(plan)
        return

    def span(ids: Sequence[int]) -> str:
        return str(ids[0]) if len(ids) == 1 else f"{ids[0]}–{ids[-1]}"

    head = ["stage", "ranks", "blocks", "share of the work", "parameters", "sends an image, fp32"]
    body = []
    for number, stage in enumerate(plan["stages"]):
        sends = f"{stage['sends'] * 4 / 1024:,.0f} KiB" if stage["sends"] else "–"
        ranks, share = ", ".join(map(str, stage["ranks"])), percent(stage["share"])
        body.append([str(number), ranks, span(stage["blocks"]), share, f"{stage['parameters']:,}", sends])
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


@command.group("bench", cls=Group)
def bench_command() -> None:
    """Measure training and prediction beside backprop, on equal work."""


EQUAL_WORK = (
    setting("width", passes=True),
    SHAPE,
    option("--classes", "num_classes", type=int, default=10),
    setting("batch_size", passes=True),
    setting("device", passes=True),
    setting("precision", passes=True),
)
NETWORK = setting("network", passes=True)
ROUNDS = option("--rounds", type=COUNT, default=5, help="Turns of each row.")
ROWS = option("--rows", metavar="NAMES", help="Comma-separated.  [default: all that apply]")
SOURCE = option("--data", required=True, metavar="SOURCE", help="Folder, Hub id, or digits.")
SEEDS = option("--seeds", type=COUNT, default=1, help="Number of seeds.")


def benchmark(*options: Callable[[Any], Any]) -> Callable[[Callable[..., dict[str, Any]]], click.Command]:
    """Add a function that measures as a benchmark, whose report is shown, appended and drawn."""
    shown = (
        AS_JSON,
        option("--out", type=PATH, help="Append the report to this .jsonl file."),
        option("--figure", type=PATH, help="Draw it: .svg, .png or .pdf."),
    )

    def add(measure: Callable[..., dict[str, Any]]) -> click.Command:
        def run(as_json: bool, out: Path | None, figure: Path | None, **given: Any) -> None:
            from rich.console import Console

            from trifecta._utils.files import write_atomically
            from trifecta.bench.report import draw_bench, print_bench
            from trifecta.bench.setting import data_name
            from trifecta.progress import waiting
            from trifecta.report.figures import check_format

            if figure is not None:
                check_format(figure)
            words = map(data_name, given_words(but=("out", "figure", "as_json")))
            command = f"trifecta bench {measure.__name__} {shlex.join(words)}"
            with waiting(Console(stderr=True, quiet=as_json), "") as say:
                report = measure(say, **given) | {"command": command.strip()}
            if out is not None:
                text = f"{out.read_text() if out.exists() else ''}{json.dumps(report)}\n"
                write_atomically(out, lambda path: path.write_text(text))
            if figure is not None:
                draw_bench(report, figure)
            print_json(report) if as_json else print_bench(report)

        for each in reversed((*options, *shown)):
            run = each(run)
        return bench_command.command(measure.__name__, help=measure.__doc__)(run)

    return add


@benchmark(
    *(NETWORK, ROWS, *EQUAL_WORK, ROUNDS),
    option("--steps", type=COUNT, help="Of a turn; more if blocks learn at the same time.  [default: 2]"),
)
def speed(say: Any, rows: str | None, rounds: int, steps: int | None, **work: Any) -> dict[str, Any]:
    """Training, images a second."""
    from trifecta.bench.speed import STEPS_A_TURN
    from trifecta.bench.variants import select

    turn = {"rounds": rounds, "steps": steps or STEPS_A_TURN}
    return trifecta.bench.measure_speed(trifecta.bench.Setting(**work), select(rows), say=say, **turn)


@benchmark(NETWORK, ROWS, *EQUAL_WORK, ROUNDS)
def inference(say: Any, rows: str | None, rounds: int, **work: Any) -> dict[str, Any]:
    """Prediction with all labels, images a second."""
    from trifecta.bench.variants import select

    chosen = select(rows or "trifecta,trifecta-shortlist,class-groups,backprop,published")
    return trifecta.bench.measure_inference(trifecta.bench.Setting(**work), chosen, rounds=rounds, say=say)


@benchmark(
    option("--networks", metavar="NAMES", help="Compared.  [default: equal blocks, small, large]"),
    *(ROWS, *EQUAL_WORK, option("--rounds", type=COUNT, default=1, help="Of each row.")),
)
def memory(say: Any, networks: str | None, rows: str | None, rounds: int, **work: Any) -> dict[str, Any]:
    """Training memory above the model, over depth."""
    from trifecta.bench.memory import DEPTHS
    from trifecta.bench.variants import select

    equal = [f"equal:{depth}:128" for depth in DEPTHS]
    names = [*equal, "small", "large"] if networks is None else networks.split(",")
    chosen = select(rows or "trifecta,class-groups,backprop,backprop-plain-graph,backprop-checkpointed")
    return trifecta.bench.measure_memory(
        trifecta.bench.Setting(**work), chosen, names, rounds=rounds, say=say
    )


@benchmark(
    SOURCE,
    option("--methods", default="trifecta,class-groups,backprop"),
    option("--thresholds", default="0.4,0.5,0.6,0.7,0.8,0.9"),
    *(SEEDS, setting("epochs", default=5), setting("augmentation", "--augment", default="none")),
    *(NETWORK, EQUAL_WORK[0], *EQUAL_WORK[3:]),
)
def accuracy(say: Any, methods: str, thresholds: str, seeds: int, **run: Any) -> dict[str, Any]:
    """Seconds of training until the validation split is read well enough."""
    run["augmentation"] = run.pop("augment")
    varied = itertools.product(_names(methods), range(seeds))
    configs = [trifecta.RunConfig(method=method, seed=seed, **run) for method, seed in varied]
    return trifecta.bench.measure_accuracy(configs, _shares(thresholds), say=say)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


def _shares(text: str) -> list[float]:
    """Return comma-separated numbers between 0 and 1.

    Raises:
        ValueError: one of them is another number, or none.
    """
    try:
        shares = [float(word) for word in text.split(",")]
    except ValueError:
        shares = [0.0]
    if not all(0 < share <= 1 for share in shares):
        raise ValueError(f"--thresholds are numbers between 0 and 1, such as 0.3,0.5: received '{text}'")
    return shares


def experiment(results: str, work: str) -> Callable[[Any], Any]:
    """Add the options of a command that makes the missing runs of a table."""

    def add(function: Any) -> Any:
        for each in (
            AS_JSON,
            option("--show", is_flag=True, help="Run nothing: show what there is."),
            option("--untimed", is_flag=True, help="Keep no times: the machine does other work too."),
            option("--work", type=PATH, default=Path(work), help="Folder of unfinished runs."),
            option("--out", type=PATH, default=Path(results), help="Folder of result files."),
            setting("precision", passes=True),
            setting("device", passes=True),
            SEEDS,
        ):
            function = each(function)
        return function

    return add


@command.command("reproduce")
@click.argument("table", required=False)
@option("--budget", metavar="NAME", help="quick, grid, cpu, night or full.  [default: the table's own]")
@option(
    "--rows",
    default="*",
    show_default="all",
    metavar="PATTERN",
    help="Only rows whose name fits, such as `ff-*`.",
)
@option(
    "--data-root",
    type=PATH,
    envvar="TRIFECTA_DATA",
    help="Folder with mnist, cifar10, …; what it lacks comes from the Hub.  [env: TRIFECTA_DATA]",
)
@experiment("benchmarks/results/reproduced", "runs/reproduce")
def reproduce_command(table: str | None, **options: Any) -> None:
    """Run what is missing of TABLE (all if none is named), then show it beside the published figures.

    What was interrupted goes on where it stopped; what is finished is not run again. Several of these
    commands at once share the work.
    """
    from trifecta.recipes import TABLES, get_table, in_folder
    from trifecta.reproduction import as_plain, print_reproduction, write_pages

    given = SimpleNamespace(**options)
    tables = list(TABLES.values()) if table is None else [get_table(table)]
    plans = {
        one.name: trifecta.experiments.plan(
            one.rows(given.rows),
            budget=given.budget or one.budget,
            locate=lambda data: in_folder(data, given.data_root),
            **_size_of(options),
        )
        for one in tables
    }
    failed: dict[str, str] = {}
    for name, runs in plans.items():
        failed |= _make_missing(given, runs, partial(_row_of, name))
    stored = trifecta.experiments.read_results(given.out)
    rows = {name: trifecta.experiments.summarise(runs, stored) for name, runs in plans.items()}
    if given.as_json:
        print_json({name: as_plain(members) for name, members in rows.items()})
    else:
        for one in tables:
            print_reproduction(one, rows[one.name])
        click.echo(f"page {write_pages(given.work, tables, rows)}")
    _raise_failures(failed)


def _row_of(table: str, run: Any) -> str:
    return f"{table} --rows {run.recipe.name}"


def _size_of(options: dict[str, Any]) -> dict[str, Any]:
    return {name: options[name] for name in ("seeds", "device", "precision")}


def _make_missing(given: Any, runs: Any, row: Callable[[Any], str], **more: Any) -> dict[str, str]:
    """Run what is missing, unless it is only to be shown; return what failed, by run."""
    from rich.console import Console

    from trifecta.progress import TableProgress

    if given.show:
        return {}
    name, console = click.get_current_context().command_path, Console(stderr=True, quiet=given.as_json)

    def command(run: Any) -> str:
        return f"{name} {row(run)} --budget {run.config.budget} --seeds {run.config.seed + 1}"

    where = {"out": given.out, "work": given.work, "timed": not given.untimed}
    makes = trifecta.experiments.Reproduction(runs=runs, command=command, **where, **more)
    progress = TableProgress(console, total=len(runs), done=len(runs) - len(makes.missing()))
    try:
        outcome = makes.make(progress.watch)
    except trifecta.training.Interrupted as stop:
        told = f"{stop}; the same command goes on from there"
        raise trifecta.training.Interrupted(told) from stop.__cause__
    if outcome.elsewhere:
        console.print(f"{len(outcome.elsewhere)} runs are in the hands of another process")
    return outcome.failed


def _raise_failures(failed: dict[str, str]) -> None:
    if failed:
        first, reason = next(iter(failed.items()))
        others = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        raise ValueError(f"not run: {first}{others}: {reason}")


@command.command("compare")
@SOURCE
@option(
    "--methods",
    required=True,
    metavar="NAMES",
    help="Comma-separated: methods of `trifecta list`, and other rows, such as backprop-muon.",
)
@option("--networks", default="small", metavar="NAMES")
@option("--budget", default="grid", metavar="NAME")
@option("--thresholds", default="0.5,0.7", help="Validation accuracies.")
@setting("pipeline", passes=True, type=COUNT)
@option("--figure", type=PATH, help="Accuracy over seconds: .svg, .png or .pdf.")
@experiment("benchmarks/results/compared", "runs/compare")
def compare_command(data: str, methods: str, networks: str, **options: Any) -> None:
    """Train methods on equal work; show accuracy, size, work, speed, memory and locality side by side."""
    from trifecta import comparison
    from trifecta.bench.setting import data_name
    from trifecta.report.figures import check_format
    from trifecta.report.terminal import print_table

    given, thresholds = SimpleNamespace(**options), _shares(options["thresholds"])
    if given.figure is not None:
        check_format(given.figure)

    def find_images() -> "comparison.Images":
        loaded = trifecta.load_data(trifecta.DataConfig(source=data))
        return comparison.Images(trifecta.training.DatasetFacts.of(loaded).image_shape, loaded.num_classes)

    def row(run: Any) -> str:
        name, _, network = run.recipe.title.partition(", ")
        return f"--data {run.recipe.data.source} --methods {name} --networks {network}"

    named = trifecta.DataConfig(source=data_name(data))
    runs = trifecta.experiments.plan(
        comparison.comparison_recipes(_names(methods), _names(networks), named, find_images=find_images),
        budget=given.budget,
        locate=lambda config: replace(config, source=data),
        pipeline=given.pipeline,
        **_size_of(options),
    )
    failed = _make_missing(given, runs, row, measure=_memory_of)
    rows = trifecta.experiments.summarise(runs, trifecta.experiments.read_results(given.out))
    if given.as_json:
        print_json(comparison.compare(rows, thresholds))
    else:
        print_table(*comparison.comparison_table(rows, thresholds), note=comparison.equal_work(rows))
    if given.figure is not None:
        comparison.comparison_chart(rows).save(given.figure)
    _raise_failures(failed)


def _memory_of(run: Any, trainer: "trifecta.Trainer") -> dict[str, int]:
    """Return the training memory of the first seed's run, from processes that do nothing else."""
    from trifecta.bench.memory import training_memory
    from trifecta.bench.setting import Setting

    if run.config.seed:
        return {}
    work = Setting.of(run.config, trainer.facts.image_shape, trainer.data.num_classes)
    return training_memory(replace(work, precision=trainer.learner.precision), run.config)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit.

    Status 0: done. 1: training diverged, or a process of several failed. 2: something the user can put
    right, said in one line. 3: a file could not be written, such as on a full disk. 130: interrupted by
    Ctrl-C. 143: terminated. A training that had begun leaves a checkpoint.
    """
    warnings.showwarning = lambda message, *_: click.echo(f"warning: {told(str(message))}", err=True)
    is_running = True

    def terminate(number: int, frame: FrameType | None) -> None:
        if is_running:
            raise Terminated

    previous = signal.signal(signal.SIGTERM, terminate)
    try:
        status = _run(list(sys.argv[1:] if arguments is None else arguments))
        is_running = False
    except Terminated:  # While another error was reported.
        is_running = False
        status = TERMINATED
    finally:
        signal.signal(signal.SIGTERM, previous)
    sys.exit(status)


def _run(arguments: list[str]) -> int:
    try:
        command.main(arguments, prog_name="trifecta", standalone_mode=False, obj=arguments)
        return OK
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return USAGE
    except (Exception, KeyboardInterrupt, Terminated) as error:
        status, message = _explained(error)
        line = printable(" ".join(message.split()))
        if not tell_launcher(line):
            click.echo(f"trifecta: {line}", err=True)
        return status


def _explained(error: BaseException) -> tuple[int, str]:
    """Return the exit status and the message of an error; a fault of ours is raised again."""
    match error:
        case ToldByProcess():
            return error.status, error.message
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
    return _explained_by_training(error)


def _explained_by_training(error: BaseException) -> tuple[int, str]:
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
