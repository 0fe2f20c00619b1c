"""The requests of the parity test, in the order of Solana's own documentation."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, Final

from chain_parity import BASE64, CLOCK, CONFIRMED, LOADER, Case, Stage, bad_voucher, nonsense
from solders.hash import Hash
from solders.instruction import Instruction
from solders.keypair import Keypair
from solders.message import MessageV0
from solders.pubkey import Pubkey
from solders.system_program import TransferParams, transfer
from solders.token import ID as TOKEN_PROGRAM

from robocompute_protocol.identifiers import to_base58
from robocompute_settlement.addresses import associated_token_account
from robocompute_settlement.localworld import local_seed

if TYPE_CHECKING:
    from collections.abc import Iterator

NOBODY: Final = str(Pubkey.from_bytes(local_seed("nobody")))
GIFTED: Final = str(Pubkey.from_bytes(local_seed("gifted")))
NO_SIGNATURE: Final = "1" * 64
"""Base58 of 64 zero bytes."""
FUTURE: Final = 1_000_000_000
"""A slot no test lives to see."""


def cases(stage: Stage) -> Iterator[Case]:
    """Every request, for one chain's own addresses; each is made when it is to be sent."""
    yield from _history(stage)  # first, while the last of it is not final
    yield from _chain(stage)
    yield from _blocks(stage)
    yield from _accounts(stage)
    yield from _tokens(stage)
    yield from _sending(stage)
    yield from _simulation(stage)
    yield from _refusals(stage)


def _chain(stage: Stage) -> Iterator[Case]:
    for name in (
        "getHealth", "getVersion", "getGenesisHash", "getIdentity", "getClusterNodes",
        "getSlot", "getBlockHeight", "getEpochInfo", "getTransactionCount", "getSlotLeader",
        "getInflationGovernor", "getVoteAccounts", "getLargestAccounts",
    ):  # fmt: skip
        yield Case(method=name, params=(CONFIRMED,) if name not in _PLAIN else ())
    yield Case(method="getSupply", params=(CONFIRMED,), loose=True)
    yield Case(
        method="getSupply",
        params=({**CONFIRMED, "excludeNonCirculatingAccountsList": True},),
        note="without a list",
    )
    for name in (
        "getFirstAvailableBlock", "minimumLedgerSlot", "getInflationRate", "getHighestSnapshotSlot",
        "getMaxRetransmitSlot", "getMaxShredInsertSlot",
    ):  # fmt: skip
        yield Case(method=name)
    yield Case(method="getEpochSchedule", same_value=True)
    yield Case(method="getSlotLeaders", params=(1, 2))
    yield Case(method="getLeaderSchedule", params=(None, CONFIRMED))
    yield Case(method="getLatestBlockhash", params=(CONFIRMED,))
    yield Case(method="getLatestBlockhash", note="finalized by default")
    blockhash = str(stage.blockhash())
    yield Case(method="isBlockhashValid", params=(blockhash, CONFIRMED))
    yield Case(method="isBlockhashValid", params=(NOBODY, CONFIRMED), note="unknown")
    yield Case(method="getFeeForMessage", params=(_message(stage), CONFIRMED))
    yield Case(method="getRecentPrioritizationFees")
    yield Case(method="getRecentPrioritizationFees", params=([NOBODY],), note="of an account")
    yield Case(method="getRecentPerformanceSamples", params=(1,), loose=True)
    yield Case(method="getMinimumBalanceForRentExemption", params=(165,), same_value=True)
    yield Case(method="getMinimumBalanceForRentExemption", params=(0,), same_value=True, note="0")
    yield Case(method="getStakeMinimumDelegation", params=(CONFIRMED,))
    yield Case(method="getInflationReward", params=([NOBODY],))


_PLAIN: Final = frozenset({"getHealth", "getVersion", "getGenesisHash", "getIdentity",
                           "getClusterNodes"})  # fmt: skip


def _message(stage: Stage) -> str:
    payer = Keypair.from_seed(stage.sender.seed).pubkey()
    message = MessageV0.try_compile(payer, [stage.pay(1)], [], stage.blockhash())
    return base64.b64encode(bytes(message)).decode()


def _blocks(stage: Stage) -> Iterator[Case]:
    slot = stage.slots[stage.transferred]
    full: dict[str, Any] = {**CONFIRMED, "maxSupportedTransactionVersion": 0, "rewards": False}
    yield Case(method="getBlockTime", params=(slot,))
    yield Case(method="getBlockTime", params=(FUTURE,), note="future")
    for details in ("full", "accounts", "signatures", "none"):
        options = {**full, "transactionDetails": details}
        yield Case(method="getBlock", params=(slot, options), note=details)
    for encoding in ("base64", "base58", "jsonParsed"):
        yield Case(method="getBlock", params=(slot, {**full, "encoding": encoding}), note=encoding)
    yield Case(method="getBlock", params=(FUTURE, full), note="future")
    yield Case(method="getBlocks", params=(slot, slot + 1, CONFIRMED))
    yield Case(method="getBlocks", params=(slot, slot + 600_000, CONFIRMED), note="too many")
    yield Case(method="getBlocks", params=(slot, slot - 1, CONFIRMED), note="backwards")
    yield Case(method="getBlocksWithLimit", params=(slot, 2, CONFIRMED))
    yield Case(method="getBlockProduction", params=(CONFIRMED,))
    yield Case(method="getBlockCommitment", params=(slot,))


def _accounts(stage: Stage) -> Iterator[Case]:
    sender, program = to_base58(stage.sender.address), to_base58(stage.world.plan.program_id)
    data, _ = Pubkey.find_program_address(
        [bytes(stage.world.plan.program_id)], Pubkey.from_string(LOADER)
    )
    wallet = to_base58(associated_token_account(stage.sender.address, stage.world.usdc))
    yield Case(method="getBalance", params=(sender, CONFIRMED))
    yield Case(method="getBalance", params=(NOBODY, CONFIRMED), note="nobody's")
    for encoding in ("base58", "base64", "base64+zstd", "jsonParsed", "binary"):
        options = {**CONFIRMED, "encoding": encoding}
        yield Case(method="getAccountInfo", params=(sender, options), note=f"wallet {encoding}")
        yield Case(method="getAccountInfo", params=(wallet, options), note=f"token {encoding}")
        yield Case(method="getAccountInfo", params=(program, options), note=f"program {encoding}")
        yield Case(method="getAccountInfo", params=(CLOCK, options), note=f"clock {encoding}")
        mint = to_base58(stage.world.usdc)
        yield Case(method="getAccountInfo", params=(mint, options), note=f"mint {encoding}")
    sliced = {**BASE64, "dataSlice": {"offset": 0, "length": 45}}
    yield Case(method="getAccountInfo", params=(str(data), sliced), note="sliced programdata")
    yield Case(method="getAccountInfo", params=(NOBODY, BASE64), note="nobody's")
    yield Case(method="getAccountInfo", params=(wallet,), note="without options")
    yield Case(method="getAccountInfo", params=(str(data), CONFIRMED), note="too large for base58")
    yield Case(method="getMultipleAccounts", params=([sender, NOBODY, wallet], BASE64))
    yield Case(method="getMultipleAccounts", params=([wallet], CONFIRMED), note="default encoding")
    kind_and_owner = [{"dataSize": 152}, {"memcmp": {"offset": 8, "bytes": sender}}]
    for note, extra in (
        ("", {}),
        ("with context", {"withContext": True}),
        ("sliced", {"dataSlice": {"offset": 8, "length": 32}}),
        ("zstd", {"encoding": "base64+zstd"}),
    ):
        options = {**BASE64, "filters": kind_and_owner, **extra}
        yield Case(method="getProgramAccounts", params=(program, options), note=note)
    memcmp = {"offset": 8, "bytes": base64.b64encode(stage.sender.address).decode(),
              "encoding": "base64"}  # fmt: skip
    options = {**BASE64, "filters": [{"memcmp": memcmp}]}
    yield Case(method="getProgramAccounts", params=(program, options), note="memcmp in base64")
    options = {**BASE64, "filters": [{"dataSize": 7}]}
    yield Case(method="getProgramAccounts", params=(program, options), note="none")
    options = {**BASE64, "filters": [{"memcmp": {"offset": 0, "bytes": "1" * 200}}]}
    yield Case(method="getProgramAccounts", params=(program, options), note="memcmp too long")
    options = {**BASE64, "filters": [{"dataSize": 1}] * 5}
    yield Case(method="getProgramAccounts", params=(program, options), note="too many filters")


def _tokens(stage: Stage) -> Iterator[Case]:
    sender, mint = to_base58(stage.sender.address), to_base58(stage.world.usdc)
    wallet = to_base58(associated_token_account(stage.sender.address, stage.world.usdc))
    classic = {"programId": str(TOKEN_PROGRAM)}
    parsed = {**CONFIRMED, "encoding": "jsonParsed"}
    yield Case(method="getTokenAccountBalance", params=(wallet, CONFIRMED), same_value=False)
    yield Case(method="getTokenAccountBalance", params=(NOBODY, CONFIRMED), note="nobody's")
    yield Case(
        method="getTokenAccountBalance", params=(sender, CONFIRMED), note="no token account"
    )
    yield Case(method="getTokenSupply", params=(mint, CONFIRMED))
    yield Case(method="getTokenSupply", params=(sender, CONFIRMED), note="no mint")
    yield Case(method="getTokenSupply", params=(NOBODY, CONFIRMED), note="nobody's")
    yield Case(method="getTokenAccountsByOwner", params=(sender, {"mint": mint}, BASE64))
    yield Case(method="getTokenAccountsByOwner", params=(sender, classic, parsed), note="parsed")
    yield Case(method="getTokenAccountsByOwner", params=(NOBODY, classic, parsed), note="none")
    bad = {"mint": NOBODY}
    yield Case(method="getTokenAccountsByOwner", params=(sender, bad, BASE64), note="unknown mint")
    bad = {"programId": NOBODY}
    yield Case(method="getTokenAccountsByOwner", params=(sender, bad, BASE64), note="no program")
    yield Case(method="getTokenAccountsByDelegate", params=(sender, classic, parsed))
    yield Case(method="getTokenLargestAccounts", params=(mint, CONFIRMED))


def _history(stage: Stage) -> Iterator[Case]:
    sender = to_base58(stage.sender.address)
    signatures = [stage.transferred, stage.failed, NO_SIGNATURE]
    yield Case(method="getSignatureStatuses", params=([stage.recent],), note="recent")
    yield Case(method="getSignatureStatuses", params=(signatures,))
    search = {"searchTransactionHistory": True}
    yield Case(method="getSignatureStatuses", params=(signatures, search), note="searched")
    yield Case(method="getSignatureStatuses", params=([NO_SIGNATURE] * 257,), note="too many")
    yield Case(method="getSignatureStatuses", params=(["zzz"],), note="nonsense")
    yield Case(method="getSignaturesForAddress", params=(sender, CONFIRMED))
    for note, extra in (
        ("limit", {"limit": 1}),
        ("limit 0", {"limit": 0}),
        ("limit too large", {"limit": 1001}),
        ("before", {"before": stage.failed}),
        ("until", {"until": stage.failed}),
        ("before and until", {"before": stage.recent, "until": stage.transferred}),
        ("before unknown", {"before": NO_SIGNATURE}),
        ("min context", {"minContextSlot": 1}),
        ("min context too late", {"minContextSlot": FUTURE}),
    ):
        options = {**CONFIRMED, **extra}
        yield Case(method="getSignaturesForAddress", params=(sender, options), note=note)
    yield Case(method="getSignaturesForAddress", params=(NOBODY, CONFIRMED), note="nobody's")
    newest = {**CONFIRMED, "maxSupportedTransactionVersion": 0}
    for name in ("deposited", "transferred", "failed", "versioned"):
        signature = getattr(stage, name)
        for encoding in ("json", "base64", "jsonParsed"):
            options = {**newest, "encoding": encoding}
            yield Case(
                method="getTransaction", params=(signature, options), note=f"{name} {encoding}"
            )
        yield Case(method="getTransaction", params=(signature, CONFIRMED), note=f"{name} old")
    yield Case(method="getTransaction", params=(NO_SIGNATURE, newest), note="unknown")
    yield Case(method="getTransaction", params=("zzz", newest), note="nonsense")


def _sending(stage: Stage) -> Iterator[Case]:
    send = "sendTransaction"
    yield Case(method=send, params=(stage.legacy(stage.pay(3_000_000)), BASE64))
    yield Case(method=send, params=(_base58(stage.legacy(stage.pay(3_000_001))),), note="base58")
    confirmed = {**BASE64, "preflightCommitment": "confirmed"}
    failing = stage.legacy(stage.pay(1), nonsense())
    yield Case(method=send, params=(failing, confirmed), note="that fails")
    poor = stage.legacy(stage.pay(10**12))
    yield Case(method=send, params=(poor, confirmed), note="too poor")
    broken = stage.legacy(stage.pay(1), bad_voucher())
    yield Case(method=send, params=(broken, confirmed), note="that fails in a precompile")
    stranger = stage.legacy(Instruction(Pubkey.from_string(NOBODY), b"", []))
    yield Case(method=send, params=(stranger, confirmed), note="of no program")
    small = stage.legacy(_to_nobody(stage))
    yield Case(method=send, params=(small, confirmed), note="below rent")
    unknown = stage.legacy(stage.pay(1))
    wire = bytearray(base64.b64decode(unknown))
    wire[10] ^= 1
    bad = base64.b64encode(bytes(wire)).decode()
    yield Case(method=send, params=(bad, confirmed), note="badly signed")
    unknown = stage.legacy(stage.pay(1), blockhash=Hash.default())
    yield Case(method=send, params=(unknown, confirmed), note="unknown blockhash")
    blind = {**confirmed, "skipPreflight": True}
    yield Case(method=send, params=(unknown, blind), note="unknown blockhash, unseen")
    again = stage.legacy(stage.pay(4_000_000))
    yield Case(method=send, params=(again, confirmed), note="the first time")
    late = {**confirmed, "minContextSlot": FUTURE}
    yield Case(method=send, params=(again, late), note="min context too late")
    yield Case(method=send, params=("AAAA", BASE64), note="too short")
    yield Case(method=send, params=("!", BASE64), note="no base64")
    yield Case(method=send, params=("0OIl",), note="no base58")
    long = base64.b64encode(bytes(1_233)).decode()
    yield Case(method=send, params=(long, BASE64), note="too long by one")
    long = base64.b64encode(bytes(1_300)).decode()
    yield Case(method=send, params=(long, BASE64), note="too long")
    yield Case(method=send, params=(again, {"encoding": "utf8"}), note="unknown encoding")
    yield Case(method="requestAirdrop", params=(GIFTED, 1_000_000_000, CONFIRMED))


def _to_nobody(stage: Stage) -> Any:
    return transfer(
        TransferParams(
            from_pubkey=Pubkey.from_bytes(stage.sender.address),
            to_pubkey=Pubkey.from_bytes(local_seed("poor")),
            lamports=1,
        )
    )


def _base58(wire: str) -> str:
    return to_base58(base64.b64decode(wire))


def _simulation(stage: Stage) -> Iterator[Case]:
    run = "simulateTransaction"
    sender = to_base58(stage.sender.address)
    good = stage.legacy(stage.pay(1_000))
    yield Case(method=run, params=(good, BASE64))
    yield Case(method=run, params=(good, {**BASE64, "sigVerify": True}), note="signatures checked")
    yield Case(method=run, params=(good, {**BASE64, "innerInstructions": True}), note="inner")
    replaced = {**BASE64, "replaceRecentBlockhash": True}
    yield Case(method=run, params=(good, replaced), note="blockhash replaced")
    both = {**replaced, "sigVerify": True}
    yield Case(method=run, params=(good, both), note="replaced and checked")
    wanted = {"addresses": [sender, NOBODY], "encoding": "base64"}
    yield Case(method=run, params=(good, {**BASE64, "accounts": wanted}), note="accounts")
    many = {"addresses": [sender] * 20, "encoding": "base64"}
    yield Case(method=run, params=(good, {**BASE64, "accounts": many}), note="too many accounts")
    failing = stage.legacy(stage.pay(1), nonsense())
    yield Case(method=run, params=(failing, BASE64), note="that fails")
    yield Case(method=run, params=(stage.legacy(stage.pay(10**12)), BASE64), note="too poor")
    wire = bytearray(base64.b64decode(good))
    wire[10] ^= 1
    bad = base64.b64encode(bytes(wire)).decode()
    yield Case(method=run, params=(bad, {**BASE64, "sigVerify": True}), note="badly signed")
    yield Case(method=run, params=(bad, BASE64), note="badly signed, unchecked")
    unknown = stage.legacy(stage.pay(1), blockhash=Hash.default())
    yield Case(method=run, params=(unknown, BASE64), note="unknown blockhash")
    yield Case(method=run, params=(stage.v0(stage.pay(1)), BASE64), note="v0")


def _refusals(stage: Stage) -> Iterator[Case]:
    yield Case(method="noSuchMethod")
    yield Case(method="getBalance", note="without parameters")
    yield Case(method="getBalance", params=("not an address",), note="nonsense")
    yield Case(method="getBalance", params=("1" * 31,), note="too short")
    yield Case(method="getBalance", params=(5,), note="a number")
    late = {**CONFIRMED, "minContextSlot": FUTURE}
    yield Case(method="getBalance", params=(NOBODY, late), note="min context too late")
    yield Case(
        method="getBalance", params=(NOBODY, {"commitment": "x"}), note="unknown commitment"
    )
    yield Case(
        method="getAccountInfo", params=(NOBODY, {"encoding": "x"}), note="unknown encoding"
    )
    yield Case(method="getMultipleAccounts", params=([NOBODY] * 101,), note="too many")
    yield Case(method="getBlockTime", note="without parameters")
    yield Case(method="getSlotLeaders", params=(1, 6_000), note="too many")
    yield Case(method="getSlot", params=({"a": 1},), note="unknown option")
    yield Case(method="getHealth", params=(1, 2, 3), note="parameters for none")
    processed = {"commitment": "processed"}
    yield Case(method="getTransaction", params=(NO_SIGNATURE, processed), note="processed")
    yield Case(method="getSignaturesForAddress", params=(NOBODY, processed), note="processed")
    yield Case(method="getBlock", params=(1, processed), note="processed")
