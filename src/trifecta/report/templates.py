"""Pages from this package's templates. jinja2 is imported where it is used."""

import re
import warnings
from collections.abc import Iterable
from importlib import util

from trifecta._utils.names import printable
from trifecta.report.terminal import percent

# Characters that no page may hold: controls but white space, and halves of pairs.
_UNREADABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def fill(template: str, **values: object) -> str:
    """Render the template at a path below this package, such as ``report/page.html``, with ``values``."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("trifecta", "."), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["percent"] = percent
    return _UNREADABLE.sub("\ufffd", environment.get_template(template).render(values))


def plain_names(names: Iterable[str]) -> tuple[str, ...]:
    """Replace control characters, which no page and no figure may hold."""
    return tuple(printable(name) for name in names)


def missing_libraries() -> list[str]:
    """Return the libraries that pages need and are not installed; warn of them."""
    missing = [name for name in ("matplotlib", "jinja2") if util.find_spec(name) is None]
    if missing:
        warnings.warn(
            f"no page without {' and '.join(missing)}: pip install 'trifecta[report]'", stacklevel=3
        )
    return missing
