"""What a run's history and result hold, checked where they come from a file.

Shapes: L blocks.
"""

from collections.abc import Mapping, Sequence
from typing import Any

_NUMBER = (int, float)
# Lists have one value a block; what may be missing was added by a version, or by validation images.
_OF_EPOCH = {"seconds": _NUMBER, "images_per_second": _NUMBER}
_BY_BLOCK = ("loss", "first_loss", "block_accuracy", "positive_score", "negative_score")
_OF_RESULT: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("test_accuracy", "seconds", "images_per_second"), _NUMBER),
    **dict.fromkeys(("parameters", "epochs", "seed"), (int,)),
    **dict.fromkeys(("method", "network", "data", "locality"), (str,)),
    "block_accuracy": (list,),
}


def check_history(records: Sequence[Any]) -> None:
    """Check that records are those of epochs 1, 2, …, each with a value a block.

    Raises:
        ValueError: they are not; names epoch and member.
    """
    blocks: int | None = None
    for number, record in enumerate(records, 1):
        if not isinstance(record, Mapping) or record.get("epoch") != number:
            raise ValueError(f"epoch {number} is missing")
        _check(record, _OF_EPOCH, f"epoch {number}: ")
        if not _is_number_or_none(record.get("validation_accuracy")):
            accuracy = record["validation_accuracy"]
            raise ValueError(f"epoch {number}: validation_accuracy is {accuracy!r:.40}, not a number")
        if "evaluation_seconds" in record:
            _check(record, {"evaluation_seconds": _NUMBER}, f"epoch {number}: ")
        for name in _BY_BLOCK:
            values = record.get(name)
            if values is None and name != "loss":
                continue
            if not isinstance(values, list) or not all(map(_is_number_or_none, values)):
                raise ValueError(f"epoch {number}: {name} is {values!r:.40}, not a number a block")
            blocks = len(values) if blocks is None else blocks
            if len(values) != blocks:
                raise ValueError(f"epoch {number}: {name} has {len(values)} values for {blocks} blocks")


def check_result(result: Mapping[str, Any]) -> None:
    """Check that a result has what others read of it.

    Raises:
        ValueError: it has not; names the member.
    """
    _check(result, _OF_RESULT, "")


def _check(record: Mapping[str, Any], kinds: Mapping[str, tuple[type, ...]], where: str) -> None:
    for name, allowed in kinds.items():
        value = record.get(name)
        if not isinstance(value, allowed) or isinstance(value, bool):
            raise ValueError(f"{where}{name} is {value!r:.40}, not a {allowed[-1].__name__}")


def _is_number_or_none(value: Any) -> bool:
    return value is None or (isinstance(value, _NUMBER) and not isinstance(value, bool))
