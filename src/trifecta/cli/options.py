"""From command-line options to a run's settings."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from trifecta.data import AUGMENTATIONS, DataConfig
from trifecta.heads import OBJECTIVES, Objective
from trifecta.methods import Method, get_method
from trifecta.names import lookup
from trifecta.recipes import get_recipe
from trifecta.schedules import parse_schedule
from trifecta.training import RunConfig, read_config

Options = dict[str, Any]
_RUN = (
    "network",
    "width",
    "epochs",
    "batch_size",
    "seed",
    "device",
    "precision",
    "recompute",
    "compile",
    "pipeline",
)
_DATA = (
    "subset",
    "image_column",
    "label_column",
    "train_split",
    "test_split",
    "hold_out",
    "image_size",
    "validation",
)
_OBJECTIVE = ("goodness", "alpha", "threshold", "skip_settled")
_METHOD = ("label_input", "negatives", "superclasses", "normalization", "readout")
# As spelled on the command line, where it is not the setting's own name.
_SPELLED = {"algorithm": "optimizer"}
_OPTIMIZER = (
    "algorithm",
    "learning_rate",
    "decay",
    "weight_decay",
    "ownership",
    "head_resets",
    "freeze_from",
)


def build_config(options: Options) -> RunConfig:
    """A recipe, a file or the defaults, with the given options on top.

    Args:
        options: by parameter name; None where the user said nothing.

    Raises:
        ValueError: an option's value is not one that it takes, or two contradict each other.
    """
    config = _start(options)
    if options["augment"] is not None:
        augmentation = lookup(AUGMENTATIONS, options["augment"], "augmentation")
        config = replace(config, augmentation=augmentation)
    method = config.method if options["method"] is None else get_method(options["method"])
    return replace(
        config,
        data=replace(config.data, **_given(options, _DATA)),
        method=_vary(method, options),
        **_given(options, _RUN),
    )


def data_config(options: Options) -> RunConfig:
    """The defaults on some data, with what ``options`` has of a run's own settings."""
    given = {name: options[name] for name in _RUN if name in options}
    return RunConfig(data=DataConfig(source=options["data"]), **given)


def accuracy_configs(options: Options) -> list[RunConfig]:
    """A configuration for every seed of every method, all else equal.

    Args:
        options: ``data``, ``methods``, ``seeds``, ``augment``, and more as :func:`data_config` takes it.
    """
    augmentation = lookup(AUGMENTATIONS, options["augment"], "augmentation")
    base = replace(data_config(options), augmentation=augmentation)
    methods = [get_method(name.strip()) for name in options["methods"].split(",")]
    return [
        replace(base, method=method, seed=seed) for method in methods for seed in range(options["seeds"])
    ]


def given_names(options: Options) -> list[str]:
    """Options that the user gave, as spelled on the command line."""
    given = (_SPELLED.get(name, name) for name, value in options.items() if value is not None)
    return [f"--{name.replace('_', '-')}" for name in given]


def _start(options: Options) -> RunConfig:
    source = options["data"]
    if options["budget"] is not None and options["recipe"] is None:
        raise ValueError("--budget is the size of a recipe: give --recipe too, or drop it")
    if options["recipe"] is not None and options["config"] is not None:
        raise ValueError("--recipe and --config both say where to start: give one of them")
    if options["recipe"] is not None:
        config = get_recipe(options["recipe"])(options["budget"])
    elif options["config"] is not None:
        config = read_config(Path(options["config"]))
    elif source is None:
        raise ValueError("no data: give --data a folder, a Hub id or digits, or start from a --recipe")
    else:
        return RunConfig(data=DataConfig(source=source))
    if source is None:
        return config
    # Columns and splits are those of the recipe's own data; validation and normalisation are its choices.
    kept = config.data
    data = DataConfig(source=source, validation=kept.validation, mean=kept.mean, std=kept.std)
    return replace(config, data=data)


def _vary(method: Method, options: Options) -> Method:
    schedule = method.schedule
    if options["schedule"] is not None:
        schedule = parse_schedule(options["schedule"], close_last=schedule.close_last)
    if options["close_last"] is not None:
        schedule = replace(schedule, close_last=options["close_last"])
    if options["superclasses"] is not None:
        method = replace(method, finds_superclasses=False)
    return replace(
        method,
        objective=_vary_objective(method.objective, options),
        schedule=schedule,
        optimizer=replace(method.optimizer, **_given(options, _OPTIMIZER)),
        **_given(options, _METHOD),
    )


def _vary_objective(objective: Objective, options: Options) -> Objective:
    changes = _given(options, _OBJECTIVE)
    if options["loss"] is not None:
        kind = lookup(OBJECTIVES, options["loss"], "loss")
        if kind is not type(objective):
            kept = _settings(kind) & _settings(type(objective))
            changes = {name: getattr(objective, name) for name in kept} | changes
            objective = kind()
    for name in changes:
        if name not in _settings(type(objective)):
            raise ValueError(
                f"--{name.replace('_', '-')} is not a setting of the {objective.kind} loss: drop it, or "
                "choose another --loss"
            )
    return replace(objective, **changes)


def _settings(kind: type[Objective]) -> set[str]:
    return {field.name for field in fields(kind)}


def _given(options: Options, names: tuple[str, ...]) -> Options:
    return {name: options[name] for name in names if options[name] is not None}
