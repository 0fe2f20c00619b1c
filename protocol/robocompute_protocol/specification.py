"""The parts of docs/protocol.md that follow from the code: messages, and the agreement's phases.

``python -m robocompute_protocol.specification DOCUMENT`` writes them between their marks. The table
of messages is exact enough to be read by a program, and one does: ``tests/interop``.
"""

from __future__ import annotations

import ast
import inspect as source
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import inspect
from msgspec.structs import replace

from robocompute_protocol import message_fields, messages, stream_messages
from robocompute_protocol.agreement import (
    ClientAgreement,
    ClientPhase,
    IllegalTransition,
    ProviderAgreement,
    ProviderPhase,
    UnexpectedMessage,
    advance,
    order,
)
from robocompute_protocol.causes import Cause
from robocompute_protocol.identifiers import AgreementId, Digest, NodeKey, Signature
from robocompute_protocol.messages import Signed
from robocompute_protocol.money import MicroUnits, Millis
from robocompute_protocol.steps import (
    CancelReceived,
    CancelRequested,
    ChannelClosing,
    ClientEvent,
    ExtensionFellDue,
    HorizonPassed,
    JobEnded,
    KeptReceived,
    LeaseGranted,
    NeverLeasedReceived,
    OrderDeclined,
    OrderReceived,
    PrepaidRanOut,
    ProviderEvent,
    ReceiptReceived,
    ReceiptSigned,
    RefusalReceived,
    Restarted,
    ResultsStored,
    RetentionPassed,
    StopOrdered,
    TickReceived,
    VoucherAccepted,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

BEGIN: Final = "<!-- from the code: {} -->"
END: Final = "<!-- end -->"
MODULES: Final = (message_fields, messages, stream_messages)
INT_WORDS: Final[dict[tuple[float | None, float | None], str]] = {
    (0, 2**53): "u53",
    (0, 2**62): "u62",
    (0, 2**62 - 1): "slots",
    (None, None): "int",
}
"""Bounds that have a name of their own in the document."""


def _definitions() -> list[tuple[ModuleType, ast.ClassDef]]:
    """Return every class that the modules of messages define, in order."""
    return [
        (module, definition)
        for module in MODULES
        for definition in ast.parse(source.getsource(module)).body
        if isinstance(definition, ast.ClassDef) and definition.name != "Message"
    ]


def structs() -> tuple[type[msgspec.Struct], ...]:
    """Return every message, in the order of their definitions."""
    return tuple(getattr(module, definition.name) for module, definition in _definitions())


def type_words(type_: inspect.Type) -> str:
    """Return how the document writes a field's type."""
    match type_:
        case inspect.IntType(ge=ge, le=le):
            return INT_WORDS.get((ge, le)) or f"int({ge}..{le})"
        case inspect.BoolType():
            return "bool"
        case inspect.BytesType(min_length=least, max_length=most):
            return f"b{most}" if least == most and most else f"bytes({least or 0}..{most or ''})"
        case inspect.StrType(pattern=pattern) if pattern:
            return "class"
        case inspect.StrType(min_length=least, max_length=most):
            return f"text({least or 0}..{most})"
        case inspect.VarTupleType(item_type=item, min_length=least, max_length=most):
            return f"[{type_words(item)}; {least or 0}..{'' if most is None else most}]"
        case inspect.TupleType(item_types=items):
            return f"[{', '.join(type_words(item) for item in items)}]"
        case inspect.UnionType(types=types):
            (inner,) = [each for each in types if not isinstance(each, inspect.NoneType)]
            return type_words(inner) + "?"
        case inspect.StructType(cls=cls):
            return cls.__name__
        case inspect.LiteralType(values=values):
            return "/".join(str(value) for value in values)
        case inspect.EnumType():
            return "cause"
        case _:
            raise TypeError(f"the document has no word for {type_}")


def _default(field: inspect.Field) -> str:
    if field.required:
        return ""
    value: Any = msgspec.to_builtins(field.default)
    return " = " + json.dumps(value)


def _plain(text: str) -> str:
    """Return a docstring's words as one line of the document."""
    return " ".join(text.split()).replace("``", "`")


def message_table() -> str:
    """Return section 4's table: every message, its tag, its fields in order, what it is for."""
    rows = ["| message | tag | fields | is |", "| --- | --- | --- | --- |"]
    for struct in structs():
        info = inspect.type_info(struct)
        assert isinstance(info, inspect.StructType)
        fields = ", ".join(
            f"`{field.name}` {type_words(field.type)}{_default(field)}" for field in info.fields
        )
        tag = "" if info.tag is None else f"`{info.tag}`"
        meaning = _plain((struct.__doc__ or "").partition("\n\n")[0])
        rows.append(f"| `{struct.__name__}` | {tag} | {fields} | {meaning} |")
    return "\n".join(rows)


def field_notes() -> str:
    """Return what the definitions say of single fields."""
    notes: list[str] = []
    for _, struct in _definitions():
        for field, note in zip(struct.body, struct.body[1:], strict=False):
            match field, note:
                case (
                    ast.AnnAssign(target=ast.Name(id=name)),
                    ast.Expr(value=ast.Constant(value=str(text))),
                ):
                    notes.append(f"- `{struct.name}.{name}`: {_plain(text)}")
                case _:
                    pass
    return "\n".join(notes)


_NAME: Final = AgreementId(bytes(32))
_TERMS: Final = Digest(bytes(32))
_PAID: Final = Millis(10_000)
_MORE: Final = Millis(65_000)
_SIGNED: Final = Signed(key=NodeKey(bytes(32)), body=b"", signature=Signature(bytes(64)))
_AMOUNT: Final = MicroUnits(1)
CLIENT_EVENTS: Final[tuple[ClientEvent, ...]] = (
    TickReceived(prepaid_ms=_PAID, elapsed_ms=Millis(0), at_ms=_PAID),
    RefusalReceived(code="busy"),
    NeverLeasedReceived(),
    ReceiptReceived(receipt=_SIGNED, amount=_AMOUNT),
    ExtensionFellDue(prepaid_ms=_MORE),
    CancelRequested(),
    HorizonPassed(),
    ResultsStored(),
    Restarted(),
)
"""One of each, to be tried in every phase."""
PROVIDER_EVENTS: Final[tuple[ProviderEvent, ...]] = (
    OrderReceived(),
    LeaseGranted(at_ms=_PAID, prepaid_ms=_PAID),
    OrderDeclined(reason="busy"),
    VoucherAccepted(prepaid_ms=_MORE),
    CancelReceived(reason="cancelled"),
    ChannelClosing(),
    PrepaidRanOut(),
    StopOrdered(cause=Cause.PROVIDER_STOPPED, detail=""),
    JobEnded(cause=Cause.EXITED, detail=""),
    ReceiptSigned(receipt=_SIGNED, amount=_AMOUNT),
    KeptReceived(),
    RetentionPassed(),
    Restarted(),
)


def client_in(phase: ClientPhase) -> ClientAgreement:
    """Return a payer's agreement that came to ``phase`` the usual way."""
    state, _ = order(_NAME, _TERMS, first_tick_ms=_PAID)
    state = replace(state, phase=phase, reason="busy" if phase is ClientPhase.CANCELLING else "")
    if phase in (ClientPhase.ACTIVE, ClientPhase.ENDED, ClientPhase.KEPT):
        state = replace(state, leased_ms=_PAID, ticks=1, started_ms=_PAID)
    if phase in (ClientPhase.ENDED, ClientPhase.KEPT):
        state = replace(state, receipt=_SIGNED)
    return state


def provider_in(phase: ProviderPhase) -> ProviderAgreement:
    """Return a payee's agreement that came to ``phase`` the usual way."""
    state = ProviderAgreement(agreement=_NAME, terms=_TERMS, phase=phase)
    if phase not in (ProviderPhase.ORDERED, ProviderPhase.NEVER_LEASED):
        state = replace(state, prepaid_ms=_PAID, ticks=1, started_ms=_PAID)
    if phase in (ProviderPhase.STOPPING, ProviderPhase.ENDED, ProviderPhase.KEPT):
        state = replace(state, cause=Cause.CANCELLED)
    if phase in (ProviderPhase.ENDED, ProviderPhase.KEPT):
        state = replace(state, receipt=_SIGNED)
    return state


def cell(state: ClientAgreement | ProviderAgreement, event: ClientEvent | ProviderEvent) -> str:
    """Return what an event does in a phase: where it leads, and what is to be done."""
    try:
        if isinstance(state, ClientAgreement):
            assert isinstance(event, ClientEvent)
            new, effects = advance(state, event)
        else:
            assert isinstance(event, ProviderEvent)
            new, effects = advance(state, event)
    except UnexpectedMessage:
        return "*breach*"
    except IllegalTransition:
        return "*bug*"
    names = [type(effect).__name__ for effect in effects]
    return " ".join([f"**{new.phase}**" if new.phase != state.phase else "=", *names])


def _phase_table(
    states: tuple[ClientAgreement | ProviderAgreement, ...],
    events: tuple[ClientEvent | ProviderEvent, ...],
) -> str:
    """Return one side's table: what each event does in each phase."""
    return "\n".join(
        [
            "| event | " + " | ".join(f"`{state.phase}`" for state in states) + " |",
            "| --- |" + " --- |" * len(states),
            *(
                f"| `{type(event).__name__}` | "
                + " | ".join(cell(state, event) for state in states)
                + " |"
                for event in events
            ),
        ]
    )


def client_phases() -> str:
    """Return every pair of phase and event of the payer's side."""
    return _phase_table(tuple(client_in(phase) for phase in ClientPhase), CLIENT_EVENTS)


def provider_phases() -> str:
    """Return every pair of phase and event of the payee's side."""
    return _phase_table(tuple(provider_in(phase) for phase in ProviderPhase), PROVIDER_EVENTS)


PARTS: Final[dict[str, Callable[[], str]]] = {
    "messages": message_table,
    "fields": field_notes,
    "client": client_phases,
    "provider": provider_phases,
}


def written(document: str) -> str:
    """Return ``document`` with every part as it follows from the code.

    Raises:
        ValueError: a part's marks are not in it.
    """
    for name, part in PARTS.items():
        begin = BEGIN.format(name)
        before, found, rest = document.partition(begin)
        _, end, after = rest.partition(END)
        if not found or not end:
            raise ValueError(f"the document has no place marked {begin}")
        document = f"{before}{begin}\n{part()}\n{END}{after}"
    return document


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(written(path.read_text("utf-8")), "utf-8")
