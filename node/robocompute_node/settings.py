"""Kinds of settings: how a value in a TOML file is read, bounded and written.

A kind never guesses: a value of the wrong type is refused with a sentence, not converted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

from robocompute_protocol.identifiers import Address, NodeKey, address_from_base58, to_base58
from robocompute_protocol.money import MAX_AMOUNT, format_amount, parse_amount

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from enum import StrEnum

ABOUT: Final = "about"
"""The key under which a dataclass field's metadata holds its ``About``."""
MAX_TEXT: Final = 1_024
"""Characters of one text value: longer than any URL or path that makes sense here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """How values of one sort are read from TOML and written to it."""

    read: Callable[[object], object]
    """Raises: ValueError with a sentence that completes "must be …" on a value it refuses."""
    show: Callable[[object], str]
    """The value as it stands in a TOML file."""
    bound: str
    """The allowed values in words, for the documentation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What a setting means, and what it may be."""

    doc: str
    kind: Kind


def about(doc: str, kind: Kind) -> Mapping[str, About]:
    """Return the metadata of a settings field."""
    return {ABOUT: About(doc=doc, kind=kind)}


def quoted(text: str) -> str:
    """Write a TOML basic string."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _refuse(bound: str) -> ValueError:
    return ValueError(f"must be {bound}")


def integer(low: int, high: int) -> Kind:
    """A whole number from ``low`` to ``high``, both allowed."""
    bound = f"a whole number from {low} to {high}"

    def read(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise _refuse(bound)
        return value

    return Kind(read=read, show=str, bound=bound)


def seconds(low: float, high: float) -> Kind:
    """A duration in seconds from ``low`` to ``high``, fractions allowed."""
    return number(low, high, of=" of seconds")


def text(*, high: int = MAX_TEXT, prefixes: tuple[str, ...] = ()) -> Kind:
    """A string, beginning with one of ``prefixes`` where any are given."""
    bound = f"a string of at most {high} characters"
    if prefixes:
        bound = "a string that begins with " + " or ".join(prefixes)

    def read(value: object) -> str:
        if not isinstance(value, str) or len(value) > high:
            raise _refuse(bound)
        if prefixes and not value.startswith(prefixes):
            raise _refuse(bound)
        return value

    return Kind(read=read, show=lambda value: quoted(str(value)), bound=bound)


def amount() -> Kind:
    """Money: a decimal string with at most six places, so that no float ever touches it."""
    bound = 'a decimal string like "12.50", with at most six places'

    def read(value: object) -> int:
        if not isinstance(value, str):
            raise _refuse(bound)
        try:
            return parse_amount(value)
        except ValueError:
            raise _refuse(bound) from None

    def show(value: object) -> str:
        number = value if isinstance(value, int) else MAX_AMOUNT
        whole, places = format_amount(number).split(".")
        return quoted(f"{whole}.{places.rstrip('0').ljust(2, '0')}")

    return Kind(read=read, show=show, bound=bound)


def address() -> Kind:
    """A Solana address in base58."""
    bound = "a Solana address in base58"

    def read(value: object) -> Address:
        if not isinstance(value, str):
            raise _refuse(bound)
        try:
            return address_from_base58(value)
        except ValueError:
            raise _refuse(bound) from None

    def show(value: object) -> str:
        return quoted(to_base58(value)) if isinstance(value, bytes) else quoted("")

    return Kind(read=read, show=show, bound=bound)


def node_key() -> Kind:
    """A node's key in base58."""
    bound = "a node's key in base58"

    def read(value: object) -> NodeKey:
        if not isinstance(value, str):
            raise _refuse(bound)
        try:
            return NodeKey(bytes(address_from_base58(value)))
        except ValueError:
            raise _refuse(bound) from None

    def show(value: object) -> str:
        return quoted(to_base58(value)) if isinstance(value, bytes) else quoted("")

    return Kind(read=read, show=show, bound=bound)


def yes_or_no() -> Kind:
    """True or false."""
    bound = "true or false"

    def read(value: object) -> bool:
        if not isinstance(value, bool):
            raise _refuse(bound)
        return value

    return Kind(read=read, show=lambda value: str(value).lower(), bound=bound)


def one_of(words: type[StrEnum]) -> Kind:
    """One of a closed list of words."""
    bound = "one of " + ", ".join(quoted(word) for word in words)

    def read(value: object) -> StrEnum:
        if not isinstance(value, str):
            raise _refuse(bound)
        try:
            return words(value)
        except ValueError:
            raise _refuse(bound) from None

    return Kind(read=read, show=lambda value: quoted(str(value)), bound=bound)


def word_of(words: tuple[str, ...]) -> Kind:
    """One of a closed list of strings, or the empty string for none."""
    bound = "one of " + ", ".join(quoted(word) for word in words) + ', or ""'

    def read(value: object) -> str:
        if not isinstance(value, str) or (value and value not in words):
            raise _refuse(bound)
        return value

    return Kind(read=read, show=lambda value: quoted(str(value)), bound=bound)


def number(low: float, high: float, *, of: str = "") -> Kind:
    """A number from ``low`` to ``high``, fractions allowed; ``of`` names the unit in the bound."""
    bound = f"a number{of} from {low:g} to {high:g}"

    def read(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise _refuse(bound)
        if not low <= value <= high:
            raise _refuse(bound)
        return float(value)

    return Kind(read=read, show=lambda value: f"{value:g}", bound=bound)


def list_of(kind: Kind, *, low: int = 0, high: int = 64) -> Kind:
    """A list of ``low`` to ``high`` values of ``kind``."""
    bound = f"a list of {low} to {high} items, each {kind.bound}"

    def read(value: object) -> tuple[object, ...]:
        if not isinstance(value, list) or not low <= len(value) <= high:  # pyright: ignore[reportUnknownArgumentType]
            raise _refuse(bound)
        items: list[object] = list(value)  # pyright: ignore[reportUnknownArgumentType]
        return tuple(kind.read(item) for item in items)

    def show(value: object) -> str:
        items = cast("tuple[object, ...]", value)
        return "[" + ", ".join(kind.show(item) for item in items) + "]"

    return Kind(read=read, show=show, bound=bound)


def one_or_several(kind: Kind, *, high: int) -> Kind:
    """One value of ``kind``, or a list of one to ``high`` different ones; read as a tuple."""
    several = list_of(kind, low=1, high=high)
    bound = f"{kind.bound}, or a list of 1 to {high} different ones"

    def read(value: object) -> tuple[object, ...]:
        try:
            found = several.read(value if isinstance(value, list) else [value])  # pyright: ignore[reportUnknownArgumentType]
        except ValueError:
            raise _refuse(bound) from None
        items = cast("tuple[object, ...]", found)
        if len(set(items)) < len(items):
            raise _refuse(bound)
        return items

    def show(value: object) -> str:
        items = cast("tuple[object, ...]", value)
        return kind.show(items[0]) if len(items) == 1 else several.show(items)

    return Kind(read=read, show=show, bound=bound)
