"""The exception of a run that was stopped."""


class Interrupted(Exception):  # noqa: N818  (it is not an error)
    """A run stopped where it was asked to; its checkpoint continues it."""
