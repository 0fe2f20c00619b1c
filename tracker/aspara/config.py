"""A run's two tables: what it was told (Config), and what came out (Summary)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, ItemsView, KeysView, Mapping, ValuesView


class Config:
    """Parameters, as attributes or items. Every change is on disk when the call returns."""

    def __init__(
        self, values: Mapping[str, Any] | None = None, changed: Callable[[], None] | None = None
    ) -> None:
        object.__setattr__(self, "_values", dict(values or {}))
        object.__setattr__(self, "_changed", changed or _nothing)

    _values: dict[str, Any]
    _changed: Callable[[], None]

    def __getattr__(self, name: str) -> Any:
        try:
            return self._values[name]
        except KeyError:
            raise AttributeError(f"Config has no attribute '{name}'") from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self._values[name] = value
        self._changed()

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def keys(self) -> KeysView[str]:
        return self._values.keys()

    def values(self) -> ValuesView[Any]:
        return self._values.values()

    def items(self) -> ItemsView[str, Any]:
        return self._values.items()

    def update(self, values: Mapping[str, Any] | None = None, **more: Any) -> None:
        self._values.update(values or {}, **more)
        self._changed()

    def to_dict(self) -> dict[str, Any]:
        """A copy."""
        return dict(self._values)

    def __repr__(self) -> str:
        return f"Config({self._values!r})"


class Summary:
    """Final results, as items. Every change is on disk when the call returns."""

    def __init__(
        self, values: Mapping[str, Any] | None = None, changed: Callable[[], None] | None = None
    ) -> None:
        self._values = dict(values or {})
        self._changed = changed or _nothing

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self._values[name] = value
        self._changed()

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def update(self, values: Mapping[str, Any] | None = None, **more: Any) -> None:
        self._values.update(values or {}, **more)
        self._changed()

    def to_dict(self) -> dict[str, Any]:
        """A copy."""
        return dict(self._values)

    def __repr__(self) -> str:
        return f"Summary({self._values!r})"


def _nothing() -> None:
    """Nobody keeps this table."""
