"""Names of parts: looked up in tables, suggested where mistyped, and resolved to a user's own code."""

import importlib
import os
import re
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from difflib import SequenceMatcher
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

T = TypeVar("T")
# A longer table is not listed in an error.
MOST_LISTED = 40
# Least similarity of a suggestion, 0 … 1, and its largest distance from the best one.
ALIKE, NEARLY_AS_ALIKE = 0.57, 0.15
# The package of the methods here, and the group of entry points that add others.
METHOD_GROUP = "trifecta.methods"
_OPTIMIZERS = "torch.optim"
_HERE = Path(__file__).parent.parent
_OURS = (_HERE.name, "torch", "builtins")


def printable(text: str) -> str:
    """Replace non-printing characters."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text)


def nearest(word: str, known: Iterable[str], *, most: int = 3) -> list[str]:
    """Return the names that ``word`` may stand for, likeliest first; empty if nothing is near.

    A name is near if it starts with the word, has it as one of its parts or as its initials, or is
    spelled alike.
    """
    by_likeness = sorted(((_likeness(word, name), name) for name in known), key=lambda pair: -pair[0])
    best = by_likeness[0][0] if by_likeness else 0.0
    least = max(ALIKE, best - NEARLY_AS_ALIKE)
    return [name for likeness, name in by_likeness[:most] if likeness >= least]


def _likeness(word: str, name: str) -> float:
    one, other = (text.lower().strip("-").replace("_", "-") for text in (word, name))
    parts = re.split("[-:.]", other)
    if one == other:
        return 1.0
    if len(one) > 1 and one == "".join(part[:1] for part in parts):
        return 0.95
    if min(len(one), len(other)) > 2 and (other.startswith(one) or one.startswith(other) or one in parts):
        return 0.9
    return SequenceMatcher(None, one, other).ratio()


def did_you_mean(near: Iterable[str]) -> str:
    """Return ``did you mean a or b?``."""
    return f"did you mean {' or '.join(near)}?"


class UnknownName(ValueError):  # noqa: N818  (a ValueError that says more)
    """A name that a table does not have."""

    def __init__(self, what: str, name: object, hint: str) -> None:
        super().__init__(f"unknown {what} '{name}': {hint}")
        self.what, self.name = what, str(name)


def lookup(table: Mapping[str, T], name: str, what: str, *, listed: str = "trifecta list") -> T:
    """Return ``table[name]``.

    Args:
        table: known names.
        name: requested one.
        what: kind of thing that the table holds, for the message.
        listed: command that lists a table that is too long for the message.

    Raises:
        UnknownName: the name is not in the table; the message has the nearest names, or all of a few.
    """
    if isinstance(name, str) and name in table:
        return table[name]
    near = nearest(str(name), table)
    known = ", ".join(table) if len(table) <= MOST_LISTED else f"one of {len(table)}, see {listed}"
    raise UnknownName(what, name, did_you_mean(near) if near else f"known: {known}")


def part_of(table: Mapping[str, T], part: str | Any, what: str) -> T:
    """Return ``part``, or the table's entry of that name; raise as :func:`lookup`."""
    if not isinstance(part, str):
        found: T = part
        return found
    return lookup(table, part, what)


def check_part(table: Mapping[str, Any], part: object, what: str) -> None:
    """Validate that a part is a name in the table or a callable.

    Raises:
        ValueError: it is neither.
    """
    if isinstance(part, str):
        lookup(table, part, what)
    elif not callable(part):
        raise ValueError(
            f"{what} is a name ({', '.join(table)}) or a class or function of your own: received {part!r}"
        )


def name_of(part: object) -> str:
    """Return the name of a part for people: in a table, or of the class or function."""
    return part if isinstance(part, str) else str(getattr(part, "__name__", type(part).__name__))


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
    return f"{_OPTIMIZERS if module_name.startswith(f'{_OPTIMIZERS}.') else module_name}:{name}"


class Imports:
    """Modules whose parts may be used.

    Args:
        modules: modules, names of modules, importable from the current folder too, or files such as
            ``parts/mine.py``.

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
        module_name = Path(module_name).stem if module_name.endswith(".py") else module_name
        module = self._module(module_name, reference)
        found: Any = module
        for part in name.split("."):
            if not hasattr(found, part):
                near = nearest(part, [own for own in vars(found) if not own.startswith("_")])
                hint = f"; {did_you_mean(near)}" if near else ""
                raise ValueError(f"{module_name} has no {name}: received {reference}{hint}")
            found = getattr(found, part)
        if not _defines(module, found) or (module_name == _OPTIMIZERS and not _is_optimizer(found)):
            raise ValueError(f"{name} is no part that {module_name} defines: received {reference}")
        return found

    def advised(self, error: UnknownName) -> UnknownName:
        """Return ``error``, with a suggestion if one of the modules defines a part of about that name."""
        own = [
            f"{module}:{name}"
            for module, namespace in self.modules.items()
            for name, part in vars(namespace).items()
            if not name.startswith("_") and _defines(namespace, part)
        ]
        near = nearest(error.name, own)
        return UnknownName(error.what, error.name, did_you_mean(near)) if near else error

    def _module(self, name: str, reference: str) -> ModuleType:
        if name in self.modules:
            return self.modules[name]
        plugins = {_package(entry.module) for entry in installed_methods().values()}
        if name == _OPTIMIZERS or name.startswith(f"{METHOD_GROUP}.") or _package(name) in plugins:
            return _import(name)
        raise ValueError(
            f"{reference} is a part from the module {name}, which runs code of its own: name it with "
            f"imports=['{name}'] if you trust it"
        )


def installed_methods() -> Mapping[str, EntryPoint]:
    """Return the methods that installed packages add, by name."""
    return {entry.name: entry for entry in entry_points(group=METHOD_GROUP)}


def _defines(module: ModuleType, part: Any) -> bool:
    """Whether a part is a module's own, and not reached through it, as ``my_parts:os.system`` would be.

    An instance of a dataclass, such as ``method = Method(…)``, is data wherever its class is defined.
    """
    is_data = is_dataclass(part) and not isinstance(part, type)
    return is_data or _package(getattr(part, "__module__", None) or "") == _package(module.__name__)


def _is_optimizer(found: object) -> bool:
    from torch.optim import Optimizer

    return isinstance(found, type) and issubclass(found, Optimizer)


def _package(module: str) -> str:
    return module.partition(".")[0]


def _module_name(module: ModuleType) -> str:
    if module.__name__ != "__main__" or not getattr(module, "__file__", None):
        return module.__name__
    return Path(str(module.__file__)).stem


def _import(name: str) -> ModuleType:
    """Import a module, or a file as the module of its name, as a script in its folder would."""
    file = Path(name).resolve() if name.endswith(".py") else None
    folder = os.getcwd() if file is None else str(file.parent)  # noqa: PTH109
    is_new = folder not in sys.path
    if is_new:
        sys.path.insert(len(sys.path) if file is None else 0, folder)
    importlib.invalidate_caches()
    try:
        if file is None and not all(part.isidentifier() for part in name.split(".")):
            raise ImportError("this is no name of a module")
        if file is not None and not file.is_file():
            raise ImportError("there is no such file")
        module = importlib.import_module(name if file is None else file.stem)
        if file is not None and Path(module.__file__ or "").resolve() != file:
            raise ImportError(f"another module is called {file.stem}; rename the file")
        return module
    except ImportError as error:
        raise ValueError(
            f"cannot import {name}: {error}; give a module in the current folder, a file such as "
            "parts/mine.py, or an installed module"
        ) from None
    except Exception as error:  # whatever a user's own module raises
        raise ValueError(f"cannot import {name}: {_described(error)}") from error
    finally:
        if is_new:
            sys.path.remove(folder)


def own_parts(part: object) -> list[str]:
    """Return the names of parts from outside the package: of ``part`` and of what its fields hold."""
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
        own: whether it is the user's; exceptions of other parts pass unchanged.

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
        raise ValueError(f"{what} fails: {_described(error)}") from error


def _described(error: BaseException) -> str:
    """Return the kind of an exception, its message, and the line that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    outside = [frame for frame in frames if str(_HERE) not in frame.filename and "<" not in frame.filename]
    has_place = isinstance(error, SyntaxError) or not outside  # A SyntaxError's message has its own.
    place = "" if has_place else f" ({Path(outside[-1].filename).name}, line {outside[-1].lineno})"
    return f"{type(error).__name__}: {error}{place}"
