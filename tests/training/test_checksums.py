"""Checksums: what is written is read, anything else is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trifecta._utils.files import checked_record, record_text

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.text().filter(lambda name: name != "crc32"), VALUES, min_size=1), st.booleans())
def test_a_record_is_read_as_it_was_written(record: dict[str, object], indented: bool) -> None:
    text = record_text(record, indent=2 if indented else None)
    assert checked_record(text, "it") == record


@given(st.integers(0), st.booleans())
def test_a_changed_record_is_refused(position: int, indented: bool) -> None:
    text = record_text({"a": 1, "b": {"c": [1.5]}}, indent=2 if indented else None)
    position %= len(text)
    changed = text[:position] + chr(ord(text[position]) ^ 1) + text[position + 1 :]
    with pytest.raises(ValueError, match="line 3 of it is damaged"):
        checked_record(changed, "line 3 of it")
