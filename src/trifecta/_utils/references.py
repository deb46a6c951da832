"""Names: looking them up in a table, with an error that helps whoever mistyped one; showing them."""

import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from difflib import SequenceMatcher
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import torch

T = TypeVar("T")
# A longer table is not read in an error.
MOST_LISTED = 40
# How alike names must be, 0 … 1, and how much less than the nearest one.
ALIKE, NEARLY_AS_ALIKE = 0.57, 0.15


def printable(text: str) -> str:
    """Replace what is not shown but acts on whatever shows it, such as a terminal's control characters."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text)


def nearest(word: str, known: Iterable[str], *, most: int = 3) -> list[str]:
    """Return the names that ``word`` may stand for, the likeliest first; none where nothing is near.

    A name is near that begins with it, has it as a part, has its letters as initials, or is spelled alike.
    """
    by_likeness = sorted(((_likeness(word, name), name) for name in known), key=lambda pair: -pair[0])
    best = by_likeness[0][0] if by_likeness else 0.0
    least = max(ALIKE, best - NEARLY_AS_ALIKE)
    return [name for likeness, name in by_likeness[:most] if likeness >= least]


def _likeness(word: str, name: str) -> float:
    one, other = (text.lower().strip("-").replace("_", "-") for text in (word, name))
    parts = other.split("-")
    if one == other:
        return 1.0
    if len(one) > 1 and one == "".join(part[:1] for part in parts):
        return 0.95
    if min(len(one), len(other)) > 2 and (other.startswith(one) or one.startswith(other) or one in parts):
        return 0.9
    return SequenceMatcher(None, one, other).ratio()


def lookup(table: Mapping[str, T], name: str, what: str, *, listed: str = "trifecta list") -> T:
    """Return ``table[name]``.

    Args:
        table: of what is known.
        name: asked for.
        what: it is a name of.
        listed: what shows all of a long table.

    Raises:
        ValueError: the name is not in the table; the message has the nearest names, or all of a few.
    """
    if isinstance(name, str) and name in table:
        return table[name]
    near = nearest(str(name), table)
    known = ", ".join(table) if len(table) <= MOST_LISTED else f"one of {len(table)}, see {listed}"
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {known}"
    raise ValueError(f"unknown {what} '{name}': {hint}")


# Entry points of this group add methods to ``trifecta list``.
METHOD_GROUP = "trifecta.methods"
_OPTIMIZERS = "torch.optim"
_HERE = Path(__file__).parent.parent
_OURS = (_HERE.name, "torch", "builtins")


class Imports:
    """The modules whose parts may be used.

    Args:
        modules: modules, or their names or files such as ``parts/mine.py``; they are imported here, names
            from the current folder too.

    Raises:
        ValueError: a module cannot be imported.
    """

    def __init__(self, modules: Iterable[str | ModuleType] = ()) -> None:
        self.modules: dict[str, ModuleType] = {}
        for module in modules:
            found = _import(module) if isinstance(module, str) else module
            self.modules[found.__name__] = found
            # A script is called __main__ while it runs, and by its file's name otherwise.
            self.modules[_module_name(found)] = found

    def resolve(self, reference: str) -> Any:
        """Return the object called ``module:name``.

        Raises:
            ValueError: the module is not allowed, has no such object, or only imports it from elsewhere.
        """
        module_name, _, name = reference.rpartition(":")
        module_name = Path(module_name).stem if _is_file(module_name) else module_name
        module = self._module(module_name, reference)
        found: Any = module
        for part in name.split("."):
            if not hasattr(found, part):
                near = nearest(part, [own for own in vars(found) if not own.startswith("_")])
                hint = f"; did you mean {' or '.join(near)}?" if near else ""
                raise ValueError(f"{module_name} has no {name}: received {reference}{hint}")
            found = getattr(found, part)
        # Otherwise my_module:os.system would do for any module that imports os.
        is_own = _package(getattr(found, "__module__", "")) == _package(module.__name__)
        if not is_own or (module_name == _OPTIMIZERS and not _is_optimizer(found)):
            raise ValueError(f"{name} is no part that {module_name} defines: received {reference}")
        return found

    def _module(self, name: str, reference: str) -> ModuleType:
        if name in self.modules:
            return self.modules[name]
        plugins = {_package(entry.module) for entry in installed_methods().values()}
        if name == _OPTIMIZERS or _package(name) in plugins:
            return _import(name)
        raise ValueError(
            f"{reference} is a part from the module {name}, which runs code of its own: name it with "
            f"imports=['{name}'] if you trust it"
        )


def installed_methods() -> Mapping[str, EntryPoint]:
    """Return the methods that installed packages add, by name."""
    return {entry.name: entry for entry in entry_points(group=METHOD_GROUP)}


def is_reference(name: str) -> bool:
    """Whether ``name`` has the form ``module:name``."""
    return ":" in name


def reference_of(part: object) -> str:
    """Return ``module:name`` of a class or function.

    Raises:
        ValueError: it cannot be found again by its name.
    """
    name = getattr(part, "__qualname__", None)
    module = sys.modules.get(getattr(part, "__module__", None) or "")
    if name is None or module is None or "<" in name:
        raise ValueError(
            f"a part that is saved needs a name at the top of a module: received {part!r}; define it "
            "with def or class in a file"
        )
    module_name = _module_name(module)
    # torch.optim.SGD lives in torch.optim.sgd.
    if module_name.startswith(f"{_OPTIMIZERS}."):
        module_name = _OPTIMIZERS
    return f"{module_name}:{name}"


def part_of(table: Mapping[str, T], part: str | Any, what: str) -> T:
    """Return ``part`` itself, or what the table has under its name.

    Raises:
        ValueError: the name is not in the table; the message has the nearest names.
    """
    if not isinstance(part, str):
        found: T = part
        return found
    return lookup(table, part, what)


def check_part(table: Mapping[str, Any], part: object, what: str) -> None:
    """Check that a part is in the table, or can be called.

    Raises:
        ValueError: it is neither.
    """
    if isinstance(part, str):
        lookup(table, part, what)
    elif not isinstance(part, Callable):  # type: ignore[arg-type]
        raise ValueError(
            f"{what} is a name ({', '.join(table)}) or a class or function of your own: received {part!r}"
        )


def name_of(part: object) -> str:
    """Return a part's name for people: that in a table, or that of the class or function."""
    return part if isinstance(part, str) else str(getattr(part, "__name__", type(part).__name__))


def _is_optimizer(found: object) -> bool:
    return isinstance(found, type) and issubclass(found, torch.optim.Optimizer)


def _package(module: str) -> str:
    return module.partition(".")[0]


def _import(name: str) -> ModuleType:
    folder = str(Path(name).resolve().parent) if _is_file(name) else os.getcwd()  # noqa: PTH109
    added = folder not in sys.path
    if added:
        sys.path.append(folder)
    try:
        if _is_file(name):
            return _import_file(Path(name))
        _check_is_name(name)
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(
            f"cannot import {name}: {error}; give a module in the current folder, a file such as "
            "parts/mine.py, or an installed module"
        ) from None
    except Exception as error:  # whatever a user's own module raises
        raise ValueError(f"cannot import {name}: {_told(error)}") from error
    finally:
        if added:
            sys.path.remove(folder)


def _check_is_name(name: str) -> None:
    """Refuse a folder, or nothing."""
    if not all(part.isidentifier() for part in name.split(".")):
        raise ImportError("this is no name of a module")


def _is_file(name: str) -> bool:
    return name.endswith(".py")


def _import_file(path: Path) -> ModuleType:
    """Import a file as the module of its name, as a script in its folder would."""
    name, file = path.stem, path.resolve()
    if not file.is_file():
        raise ImportError(f"there is no file {path}")
    known = sys.modules.get(name)
    if known is not None and Path(getattr(known, "__file__", None) or "").resolve() == file:
        return known
    if known is not None:
        raise ImportError(f"another module is called {name}; rename the file")
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def own_parts(part: object) -> list[str]:
    """Name the parts from outside the package in ``part``: itself, and what its fields hold."""
    if isinstance(part, str | int | float | None):
        return []
    if isinstance(part, tuple | list):
        return [name for member in part for name in own_parts(member)]
    kind = part if hasattr(part, "__qualname__") else type(part)
    own = [] if _package(kind.__module__ or "") in _OURS else [kind.__qualname__]
    if not is_dataclass(part) or isinstance(part, type):
        return own
    return own + [name for field in fields(part) for name in own_parts(getattr(part, field.name))]


@contextmanager
def blamed(what: str, *, own: bool = True) -> Iterator[None]:
    """Name the user's part that raises, such as ``network my_parts:tiny``.

    Args:
        what: the part.
        own: whether it is one; others raise what they do.

    Raises:
        ValueError: in place of any other exception, with the line that raised it.
    """
    try:
        yield
    except Exception as error:
        if not own:
            raise
        if isinstance(error, ValueError):
            raise ValueError(f"{what}: {error}") from error
        raise ValueError(f"{what} fails: {_told(error)}") from error


def _told(error: BaseException) -> str:
    """Describe an exception: its kind, its message, and the line that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    outside = [frame for frame in frames if str(_HERE) not in frame.filename and "<" not in frame.filename]
    has_place = isinstance(error, SyntaxError) or not outside  # A SyntaxError's message has its own.
    place = "" if has_place else f" ({Path(outside[-1].filename).name}, line {outside[-1].lineno})"
    return f"{type(error).__name__}: {error}{place}"


def _module_name(module: ModuleType) -> str:
    if module.__name__ != "__main__" or not getattr(module, "__file__", None):
        return module.__name__
    return Path(str(module.__file__)).stem
