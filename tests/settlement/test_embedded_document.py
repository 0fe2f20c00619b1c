"""``docs/chain.md`` says of the embedded chain what its code says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from embedded_ledgers import Chain

from robocompute_settlement.embedded import execution, http, pubsub, subscribers
from robocompute_settlement.embedded.faults import Faults
from robocompute_settlement.embedded.methods import Methods
from robocompute_settlement.embedded.requests import SOLANA_VERSION
from robocompute_settlement.embedded.storage import HISTORY_TRANSACTIONS
from robocompute_settlement.embedded.wire import MAX_TRANSACTION_BYTES

PAGE: Final = (Path(__file__).parents[2] / "docs" / "chain.md").read_text()
SECTION: Final = PAGE.partition("## The embedded chain\n")[2].partition("\n## ")[0]


def listed() -> set[str]:
    """The methods in the first column of the tables."""
    rows = [line.split("|")[1] for line in SECTION.splitlines() if line.startswith("| `")]
    return {name.split()[0] for row in rows for name in re.findall(r"`([^`]+)`", row)}


def test_every_method_is_documented_and_no_other(tmp_path: Path) -> None:
    chain = Chain(tmp_path / "chain")
    verbs = r"(get|is|send|simulate|request|minimum|embedded)[A-Z]\w*"
    named = {name for name in listed() if re.fullmatch(verbs, name)}
    started_with_faults = {*Methods(chain.ledger, faults=True).names, "embeddedCutConnections"}
    assert named == started_with_faults
    subscriptions = {name for name in listed() if name.endswith("Subscribe")}
    assert subscriptions == {f"{kind}Subscribe" for kind in subscribers.KINDS}
    chain.close()


def test_every_fault_is_documented() -> None:
    missing = [name for name in Faults.__struct_fields__ if f"`{name}`" not in SECTION]
    assert not missing


def test_bounds_are_documented_as_they_are() -> None:
    assert http.MAX_BODY_BYTES == pubsub.MAX_MESSAGE_BYTES
    assert http.MAX_CONNECTIONS == pubsub.MAX_CONNECTIONS
    bounds = (
        http.MAX_BODY_BYTES, http.MAX_CONNECTIONS, http.MAX_BATCH, subscribers.MAX_SUBSCRIPTIONS,
        subscribers.QUEUE, HISTORY_TRANSACTIONS, MAX_TRANSACTION_BYTES, execution.LOG_BYTES,
    )  # fmt: skip
    missing = [
        bound for bound in bounds
        if not re.search(rf"(?<![\d,]){bound:,}(?!\d|,\d)", SECTION)
    ]  # fmt: skip
    assert not missing
    assert SOLANA_VERSION in SECTION
