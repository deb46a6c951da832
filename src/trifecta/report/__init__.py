"""Showing a run to people: tables on a terminal, one self-contained page."""
