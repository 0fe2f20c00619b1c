"""What the fields of a message may hold, read off its type: for its specification and its vectors."""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec
from msgspec import inspect

LONGEST_WRITTEN: Final = 1_025
"""Items or bytes of a value that is too long for its field: longer ones would swell the vectors."""


class RefusedValue(NamedTuple):
    """A value that makes a message invalid when it stands in ``field``."""

    field: str
    encoded: bytes
    why: str


def refused_values(message: type[msgspec.Struct]) -> tuple[RefusedValue, ...]:
    """Return, for each field, values that are another type, and such as are just out of bounds."""
    found: list[RefusedValue] = []
    info = inspect.type_info(message)
    assert isinstance(info, inspect.StructType)
    for field in info.fields:
        for why, value in (*_other_types(field.type), *_out_of_bounds(field.type)):
            found.append(RefusedValue(field.encode_name, msgspec.msgpack.encode(value), why))
    return tuple(found)


def _other_types(type_: inspect.Type) -> list[tuple[str, object]]:
    match _inner(type_):
        case inspect.IntType():
            return [("not an integer", 1.0), ("not an integer", True)]
        case inspect.BoolType():
            return [("not a boolean", 1)]
        case inspect.BytesType():
            return [("not bytes", "x" * 32)]
        case inspect.StrType():
            return [("not text", b"cpu")]
        case _:
            return [("not such a thing", 7)]


def _out_of_bounds(type_: inspect.Type) -> list[tuple[str, object]]:
    values: list[tuple[str, object]] = []
    match _inner(type_):
        case inspect.IntType(ge=ge, le=le):
            values += [("too small", ge - 1)] if ge is not None else []
            values += [("too large", le + 1)] if le is not None else []
        case inspect.BytesType(min_length=least, max_length=most):
            values += [("too short", bytes(least - 1))] if least else []
            values += [("too long", bytes(most + 1))] if most and most < LONGEST_WRITTEN else []
        case inspect.StrType(min_length=least, max_length=most, pattern=pattern):
            values += [("too short", "")] if least else []
            values += [("too long", "x" * (most + 1))] if most and most < LONGEST_WRITTEN else []
            values += [("not of these characters", text) for text in ("A", "a\n") if pattern]
        case inspect.VarTupleType(item_type=inner, min_length=least, max_length=most):
            values += [("too few", [])] if least else []
            values += [("an item that is " + why, [each]) for why, each in _out_of_bounds(inner)]
            filler = _filler(inner)
            if most is not None and most < LONGEST_WRITTEN // 8 and filler is not None:
                values.append(("too many", [filler] * (most + 1)))
        case inspect.LiteralType() | inspect.EnumType():
            values.append(("not one of the words", "nonsense"))
        case _:
            pass
    return values


def _filler(type_: inspect.Type) -> object:
    """Return a value that is good in itself, or None where that takes more than one."""
    match type_:
        case inspect.BytesType(min_length=least):
            return bytes(least or 1)
        case inspect.StrType():
            return "x"
        case _:
            return None


def _inner(type_: inspect.Type) -> inspect.Type:
    """Return what an optional field holds where it holds something."""
    if isinstance(type_, inspect.UnionType):
        return next(each for each in type_.types if not isinstance(each, inspect.NoneType))
    return type_
