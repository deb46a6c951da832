"""Names of parts: looked up in tables, suggested where mistyped, and resolved to a user's own code."""

import importlib
import re
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from difflib import SequenceMatcher
from importlib.metadata import EntryPoint, entry_points
from operator import attrgetter
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


def printable(text: str) -> str:
    """Replace non-printing characters."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text)


def nearest(word: str, known: Iterable[str], *, most: int = 3) -> list[str]:
    """Return the names that ``word`` may stand for, likeliest first; empty if nothing is near.

    A name is near if it starts with the word, has it as one of its parts, is spelled alike, or if one of
    the two is the other's initials.
    """
    likeness = {name: _likeness(word, name) for name in known}
    best = sorted(likeness, key=lambda name: -likeness[name])[:most]
    return [name for name in best if likeness[name] >= max(ALIKE, likeness[best[0]] - NEARLY_AS_ALIKE)]


def _likeness(word: str, name: str) -> float:
    one, other = (text.lower().strip("-").replace("_", "-") for text in (word, name))
    parts = re.split("[-:.]", other)
    initials = {"".join(part[:1] for part in re.split("[-:.]", text)) for text in (one, other)}
    is_initials = min(len(one), len(other)) > 1 and bool(initials & {one, other})
    is_part = other.startswith(one) or one.startswith(other) or one in parts
    likeness = SequenceMatcher(None, one, other).ratio()
    return max(likeness, 0.95 * is_initials, 0.9 * (is_part and min(len(one), len(other)) > 2))


def suggestion(word: str, known: Iterable[str], otherwise: str = "") -> str:
    """Return ``did you mean a or b?``, or another hint if no known name is near."""
    near = nearest(word, known)
    return f"did you mean {' or '.join(near)}?" if near else otherwise


class UnknownName(ValueError):  # noqa: N818  (a ValueError that says more)
    """A name that a table does not have."""

    def __init__(self, what: str, name: object, hint: str) -> None:
        super().__init__(f"unknown {what} '{name}': {hint}")
        self.what, self.name = what, str(name)


def lookup(table: Mapping[str, T], name: str, what: str, *, listed: str = "trifecta list") -> T:
    """Return ``table[name]``; raise :class:`UnknownName` with the nearest names, or all of a few.

    A table of ``what`` that is too long for a message is listed by the command ``listed``.
    """
    if isinstance(name, str) and name in table:
        return table[name]
    known = ", ".join(table) if len(table) <= MOST_LISTED else f"one of {len(table)}, see {listed}"
    raise UnknownName(what, name, suggestion(str(name), table, f"known: {known}"))


def part_of(table: Mapping[str, T], part: str | Any, what: str) -> T:
    """Return ``part``, or the table's entry of that name; raise as :func:`lookup`."""
    found: T = lookup(table, part, what) if isinstance(part, str) else part
    return found


def check_part(table: Mapping[str, Any], part: object, what: str) -> None:
    """Raise ValueError if a part is neither a name in the table nor a callable."""
    if isinstance(part, str):
        lookup(table, part, what)
    elif not callable(part):
        names = ", ".join(table)
        raise ValueError(
            f"{what} is a name ({names}) or a class or function of your own: received {part!r}"
        )


def name_of(part: object) -> str:
    """Return the name of a part for people: in a table, or of the class or function."""
    return part if isinstance(part, str) else str(getattr(part, "__name__", type(part).__name__))


def reference_of(part: object) -> str:
    """Return ``module:name`` of a class or function; raise ValueError if that does not lead back to it."""
    name, module = getattr(part, "__qualname__", "<"), getattr(part, "__module__", None)
    if module not in sys.modules or "<" in name:
        raise ValueError(
            f"a part that is saved needs a name at the top of a module: received {part!r}; define it "
            "with def or class in a file"
        )
    # torch.optim.SGD lives in torch.optim.sgd.
    is_optimizer = module.startswith(f"{_OPTIMIZERS}.")
    return f"{_OPTIMIZERS if is_optimizer else _module_name(sys.modules[module])}:{name}"


class Imports:
    """Modules whose parts may be used.

    They are given as modules, as names, importable from the current folder too, or as files such as
    ``parts/mine.py``. One that cannot be imported raises ValueError.
    """

    def __init__(self, modules: Iterable[str | ModuleType] = ()) -> None:
        found = [_import(module) if isinstance(module, str) else module for module in modules]
        self.modules = {module.__name__: module for module in found}
        self.modules |= {_module_name(module): module for module in found}

    def resolve(self, reference: str) -> Any:
        """Return the object called ``module:name``.

        Raises:
            ValueError: the module is not allowed, has no such object, or only imports it from elsewhere.
        """
        module_name, _, name = reference.rpartition(":")
        module_name = Path(module_name).stem if module_name.endswith(".py") else module_name
        module: Any = self._module(module_name, reference)
        try:
            found = attrgetter(name)(module)
        except AttributeError:
            public = [own for own in vars(module) if not own.startswith("_")]
            hint = suggestion(name, public, f"received {reference}")
            raise ValueError(f"{module_name} has no {name}: {hint}") from None
        kind = found if isinstance(found, type) else type(found)
        is_allowed = module_name != _OPTIMIZERS or (kind is found and issubclass(kind, module.Optimizer))
        if not is_allowed or not _defines(module, found):
            raise ValueError(f"{name} is no part that {module_name} defines: received {reference}")
        return found

    def advised(self, error: UnknownName) -> UnknownName:
        """Return ``error``, with a suggestion if one of the modules defines a part of about that name."""
        # A method is no class, and a loss or term is one.
        fits = {"method": False, "kind": True}.get(error.what)
        own = [
            f"{module}:{name}"
            for module, namespace in self.modules.items()
            for name, part in vars(namespace).items()
            if not name.startswith("_") and _defines(namespace, part)
            if fits in (None, isinstance(part, type))
        ]
        hint = suggestion(error.name, own)
        return UnknownName(error.what, error.name, hint) if hint else error

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


def _package(module: str) -> str:
    return module.partition(".")[0]


def _module_name(module: ModuleType) -> str:
    """Return a module's name; a script is called __main__ while it runs, and by its file otherwise."""
    file = getattr(module, "__file__", None) if module.__name__ == "__main__" else None
    return module.__name__ if file is None else Path(file).stem


def _import(name: str) -> ModuleType:
    """Import a module, or a file as the module of its name, as a script in its folder would."""
    file = Path(name).resolve() if name.endswith(".py") else None
    folder, place = (str(Path.cwd()), len(sys.path)) if file is None else (str(file.parent), 0)
    is_new = folder not in sys.path
    if is_new:
        sys.path.insert(place, folder)
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(name if file is None else file.stem)
        if file is not None and Path(module.__file__ or "").resolve() != file:
            raise ImportError(f"another module is called {file.stem}; rename the file")
        return module
    except (ImportError, TypeError) as error:  # a TypeError for a name that begins with a dot
        raise ValueError(
            f"cannot import {name}: {error}; give a module in the current folder, a file such as "
            "parts/mine.py, or an installed module"
        ) from None
    except Exception as error:  # whatever a user's own module raises
        raise ValueError(f"cannot import {name}: {_described(error)}") from error
    finally:
        if is_new:
            sys.path.remove(folder)


def own_parts(part: Any) -> list[str]:
    """Return the names of parts from outside the package: of ``part`` and of what its fields hold."""
    if isinstance(part, tuple | list):
        return [name for member in part for name in own_parts(member)]
    kind = part if hasattr(part, "__qualname__") else type(part)
    is_own = _package(kind.__module__ or "") not in (_HERE.name, "torch", "builtins")
    is_data = is_dataclass(part) and not isinstance(part, type)
    members = [getattr(part, field.name) for field in fields(part)] if is_data else []
    return [kind.__qualname__] * is_own + own_parts(members)


@contextmanager
def blamed(what: str, *, own: bool = True) -> Iterator[None]:
    """Raise ValueError in place of another exception, with the part and the line that raised it.

    ``what`` is the part, such as ``network my_parts:tiny``. Exceptions of a part that is not the user's
    ``own`` pass unchanged.
    """
    try:
        yield
    except Exception as error:
        if not own:
            raise
        is_told = isinstance(error, ValueError)
        raise ValueError(f"{what}: {error}" if is_told else f"{what} fails: {_described(error)}") from error


def _described(error: BaseException) -> str:
    """Return the kind of an exception, its message, and the last line of the user's own that ran."""
    frames = traceback.extract_tb(error.__traceback__)
    libraries = "<", str(_HERE), str(Path("site-packages", "torch"))
    outside = [frame for frame in frames if not any(part in frame.filename for part in libraries)]
    has_place = isinstance(error, SyntaxError) or not outside  # A SyntaxError's message has its own.
    place = "" if has_place else f" ({Path(outside[-1].filename).name}, line {outside[-1].lineno})"
    return f"{type(error).__name__}: {error}{place}"
