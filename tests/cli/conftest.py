"""Commands without pages: drawing one takes longer than a tiny run, and has tests of its own."""

import pytest

from trifecta import launch


@pytest.fixture(autouse=True)
def _no_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "write_report", lambda run: None)
