"""The table of methods: one file per paper, one line here.

A file calls its constructor ``method``, further ones by a name of their own.
"""

import warnings
from collections.abc import Callable, Iterable
from importlib import import_module
from types import ModuleType

from trifecta._utils.references import Imports, UnknownName, blamed, installed_methods, lookup
from trifecta.method import Method as Method


def _constructor(file: str, name: str = "method") -> Callable[[], Method]:
    """Return the function ``name`` of a file in this folder."""
    constructor: Callable[[], Method] = getattr(import_module(f"{__name__}.{file}"), name)
    return constructor


METHODS: dict[str, Callable[[], Method]] = {
    "superfecta": _constructor("superfecta"),
    "trifecta": _constructor("trifecta"),
    "tierce": _constructor("tierce"),
    "ff": _constructor("ff"),
    "symba": _constructor("symba"),
    "class-groups": _constructor("cwcomp", "class_groups"),
    "cwcomp": _constructor("cwcomp"),
    "deeper-forward": _constructor("deeper_forward"),
    "asge": _constructor("asge"),
    "dtg-ff": _constructor("dtg_ff"),
    "mono-forward": _constructor("mono_forward"),
    "hcl-ff": _constructor("hcl_ff"),
    "distance-forward": _constructor("distance_forward"),
    "scff": _constructor("scff"),
    "masked-mix": _constructor("ff", "masked_mix"),
    "pred": _constructor("local_losses", "pred"),
    "sim": _constructor("local_losses", "sim"),
    "predsim": _constructor("local_losses", "predsim"),
    "dgl": _constructor("dgl"),
    "auglocal": _constructor("auglocal"),
    "rec-lra": _constructor("rec_lra"),
    "backprop": _constructor("backprop"),
    "deep-supervision": _constructor("deep_supervision"),
}


def all_methods() -> dict[str, Callable[[], Method]]:
    """Return the constructors of all methods by name, including those of installed packages."""
    found = dict(METHODS)
    for name, entry in installed_methods().items():
        try:
            found.setdefault(name, entry.load())
        except Exception as error:  # whatever a stranger's package raises when it is imported
            warnings.warn(f"method {name} of an installed package is left out: {error}", stacklevel=2)
    return found


def get_method(name: str, *, imports: Iterable[str | ModuleType] = ()) -> Method:
    """Return the method called ``name``, with its default settings.

    ``name`` is one of ``trifecta list``, or ``module:function`` of one of your own modules, ``imports``.
    """
    if name in METHODS:  # Looking for installed packages takes ten milliseconds.
        return METHODS[name]()
    allowed = Imports(imports)
    if ":" not in name:
        try:
            return lookup(all_methods(), name, "method")()
        except UnknownName as error:
            raise allowed.advised(error) from None
    made = allowed.resolve(name)
    with blamed(f"method {name}"):
        made = made() if callable(made) else made
    if not isinstance(made, Method):
        raise ValueError(
            f"a method is a function without arguments that returns a trifecta.Method: {name} returned "
            f"{type(made).__name__}"
        )
    return made
