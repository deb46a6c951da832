"""The table of methods: one file per paper, one line here."""

import inspect
import warnings
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

from trifecta._utils.references import Imports, UnknownName, blamed, installed_methods, lookup
from trifecta.method import Method
from trifecta.methods.asge import asge
from trifecta.methods.auglocal import auglocal
from trifecta.methods.backprop import backprop
from trifecta.methods.class_groups import class_groups
from trifecta.methods.cwcomp import cwcomp
from trifecta.methods.deep_supervision import deep_supervision
from trifecta.methods.deeper_forward import deeper_forward
from trifecta.methods.dgl import dgl
from trifecta.methods.distance_forward import distance_forward
from trifecta.methods.dtg_ff import dtg_ff
from trifecta.methods.ff import ff
from trifecta.methods.hcl_ff import hcl_ff
from trifecta.methods.local_losses import pred, predsim, sim
from trifecta.methods.masked_mix import masked_mix
from trifecta.methods.mono_forward import mono_forward
from trifecta.methods.rec_lra import rec_lra
from trifecta.methods.scff import scff
from trifecta.methods.superfecta import superfecta
from trifecta.methods.symba import symba
from trifecta.methods.tierce import tierce
from trifecta.methods.trifecta import trifecta

METHODS: dict[str, Callable[[], Method]] = {
    "superfecta": superfecta,
    "trifecta": trifecta,
    "tierce": tierce,
    "ff": ff,
    "symba": symba,
    "class-groups": class_groups,
    "cwcomp": cwcomp,
    "deeper-forward": deeper_forward,
    "asge": asge,
    "dtg-ff": dtg_ff,
    "mono-forward": mono_forward,
    "hcl-ff": hcl_ff,
    "distance-forward": distance_forward,
    "scff": scff,
    "masked-mix": masked_mix,
    "pred": pred,
    "sim": sim,
    "predsim": predsim,
    "dgl": dgl,
    "auglocal": auglocal,
    "rec-lra": rec_lra,
    "backprop": backprop,
    "deep-supervision": deep_supervision,
}


def all_methods() -> dict[str, Callable[[], Method]]:
    """Return the methods of this package, and those that installed packages add."""
    added = dict(METHODS)
    for name, entry in installed_methods().items():
        try:
            added.setdefault(name, entry.load())
        except Exception as error:  # whatever a stranger's package raises when it is imported
            warnings.warn(f"method {name} of an installed package is left out: {error}", stacklevel=2)
    return added


def get_method(name: str, *, imports: Iterable[str | ModuleType] = ()) -> Method:
    """Return the method called ``name``, with its default settings.

    Args:
        name: as in ``trifecta list``, or ``module:function`` of your own.
        imports: your own modules.

    Raises:
        ValueError: no such method; names the nearest ones.
    """
    if name in METHODS:  # Looking for installed packages takes ten milliseconds.
        return METHODS[name]()
    allowed = Imports(imports)
    if ":" in name:
        return _own_method(name, allowed.resolve(name))
    try:
        return lookup(all_methods(), name, "method")()
    except UnknownName as error:
        raise allowed.advised(error) from None


def _needed(function: Callable[..., Any]) -> list[str]:
    """Name the arguments that a function cannot be called without."""
    given = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.default is p.empty and p.kind not in given]


def _own_method(name: str, part: Any) -> Method:
    """Call a user's own function that returns a method."""
    if isinstance(part, Method):
        return part
    rule = f"a method is a function without arguments that returns a trifecta.Method: {name}"
    if not callable(part):
        raise ValueError(f"{rule} is {type(part).__name__}")
    if _needed(part):
        raise ValueError(f"{rule} needs {', '.join(_needed(part))}; is it a network?")
    with blamed(f"method {name}"):
        method = part()
    if not isinstance(method, Method):
        raise ValueError(f"{rule} returned {type(method).__name__}")
    return method


__all__ = [
    "METHODS",
    "Method",
    "all_methods",
    "asge",
    "auglocal",
    "backprop",
    "class_groups",
    "cwcomp",
    "deep_supervision",
    "deeper_forward",
    "dgl",
    "distance_forward",
    "dtg_ff",
    "ff",
    "get_method",
    "hcl_ff",
    "masked_mix",
    "mono_forward",
    "pred",
    "predsim",
    "rec_lra",
    "scff",
    "sim",
    "superfecta",
    "symba",
    "tierce",
    "trifecta",
]
