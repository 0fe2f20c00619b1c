"""What the tracker raises besides Python's own ValueError and RuntimeError."""

from __future__ import annotations


class AsparaError(Exception):
    """Base of the tracker's own errors."""


class RunAlreadyExistsError(AsparaError, ValueError):
    """A run of that name is there, and was not to be resumed. Nothing was changed."""

    def __init__(self, name: str, project: str) -> None:
        super().__init__(
            f"Run '{name}' already exists in project '{project}'. Use resume=True to continue the "
            "existing run, or choose a different run name."
        )
        self.name = name
        self.project = project


class NotYetAvailableError(AsparaError, NotImplementedError):
    """A part of the interface that this version has not; the text says what works instead."""
