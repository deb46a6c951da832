"""Turn command-line options into a run's settings."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from trifecta._utils.references import Imports, lookup
from trifecta.cli.actions.settings import with_settings
from trifecta.cli.fields import OPTIONS as FIELDS
from trifecta.cli.fields import check_given_once
from trifecta.data import AUGMENTATIONS, DataConfig
from trifecta.methods import get_method
from trifecta.recipes import RECIPES, get_recipe
from trifecta.training import RunConfig, read_config

Options = dict[str, Any]
_RUN = ("width", "epochs", "batch_size", "seed", "on_nan", "device", "precision")
_DATA = ("image_size", "validation")


def build_config(options: Options) -> RunConfig:
    """Start from a recipe, a file or the defaults, and apply the given options.

    Args:
        options: by parameter name; None where the user said nothing.

    Raises:
        ValueError: an option's value is not one that it takes, or two contradict each other.
    """
    imports = options["imports"]
    Imports(imports)  # A module that is not there shows at once.
    check_given_once(_given_fields(options), options["assignments"])
    config = _start(options)
    if options["augment"] is not None:
        augmentation = lookup(AUGMENTATIONS, options["augment"], "augmentation")
        config = replace(config, augmentation=augmentation)
    if options["method"] is not None:
        config = replace(config, method=get_method(options["method"], imports=imports))
    if config.data is not None:
        config = replace(config, data=replace(config.data, **_given(options, _DATA)))
    config = replace(config, **_given(options, _RUN))
    assignments = list(options["assignments"])
    if options["network"] is not None:
        assignments.insert(0, f"network={options['network']}")
    if options["learning_rate"] is not None:
        assignments.insert(0, f"method.optimizer.learning_rate={options['learning_rate']}")
    return with_settings(config, assignments, imports=imports) if assignments else config


def data_config(options: Options) -> RunConfig:
    """Return the defaults on some data, with what ``options`` has of a run's own settings."""
    given = {name: options[name] for name in ("network", *_RUN) if name in options}
    return RunConfig(data=DataConfig(source=options["data"]), **given)


def accuracy_configs(options: Options) -> list[RunConfig]:
    """Return a configuration for every seed of every method, all else equal.

    Args:
        options: ``data``, ``methods``, ``seeds``, ``augment``, and more as :func:`data_config` takes it.
    """
    augmentation = lookup(AUGMENTATIONS, options["augment"], "augmentation")
    base = replace(data_config(options), augmentation=augmentation)
    methods = [get_method(name.strip()) for name in options["methods"].split(",")]
    return [
        replace(base, method=method, seed=seed) for method in methods for seed in range(options["seeds"])
    ]


def image_shape(text: str) -> tuple[int, int, int]:
    """Read the shape of images, such as ``3x32x32``.

    Raises:
        ValueError: it is none.
    """
    words = text.lower().split("x")
    if len(words) != 3 or not all(word.isdecimal() and int(word) for word in words):
        raise ValueError(f"--image-shape is CHANNELSxHEIGHTxWIDTH, such as 3x32x32: received '{text}'")
    return int(words[0]), int(words[1]), int(words[2])


def given_names(options: Options) -> list[str]:
    """Return the options that the user gave, as spelled on the command line."""
    spelled = {"assignments": "set", "imports": "import"}
    given = (spelled.get(name, name) for name, value in options.items() if value not in (None, ()))
    return [f"--{name.replace('_', '-')}" for name in given]


def _start(options: Options) -> RunConfig:
    source, recipe = options["data"], options["recipe"]
    if recipe is None and source is None:
        raise ValueError("no data: give --data a folder, a Hub id or digits, or start from a --recipe")
    if recipe is None:
        return RunConfig(data=DataConfig(source=source))
    config = _recipe(recipe, options)
    if source is None:
        return config
    # Columns and splits are those of the recipe's own data; validation and normalisation are its choices.
    kept = config.data
    if kept is None:
        return replace(config, data=DataConfig(source=source))
    data = DataConfig(source=source, validation=kept.validation, mean=kept.mean, std=kept.std)
    return replace(config, data=data)


def _recipe(text: str, options: Options) -> RunConfig:
    """Read a recipe's name, NAME:BUDGET, or the path of a run's ``config.yaml``."""
    name, _, budget = text.partition(":")
    if name not in RECIPES and (Path(text).suffix in {".yaml", ".yml"} or Path(text).is_file()):
        return read_config(Path(text), imports=options["imports"])
    return get_recipe(name)(budget or None)


def _given_fields(options: Options) -> Options:
    """Return the values of the given options by the paths of their fields."""
    names = {path: option.strip("-").replace("-", "_") for path, option in FIELDS.items()}
    return {path: options[name] for path, name in names.items() if options.get(name) is not None}


def _given(options: Options, names: tuple[str, ...]) -> Options:
    return {name: options[name] for name in names if options[name] is not None}
