"""Putting the settlement program on a cluster, or a newer one in its place, and reading it back.

The program goes into a buffer account piece by piece, and is made the program in one transaction at
the end. The buffer's address follows from the authority's key, the program's address and the bytes,
so an interrupted deployment is found again and goes on with the pieces that are missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Final

import trio
from solders.keypair import Keypair
from solders.pubkey import Pubkey
from solders.system_program import CreateAccountParams, create_account

from robocompute_protocol.errors import ChainError, ChainRefused
from robocompute_protocol.identifiers import Address, to_base58
from robocompute_settlement import loader
from robocompute_settlement.addresses import BPF_LOADER_UPGRADEABLE
from robocompute_settlement.clusters import sol_text
from robocompute_settlement.embedded.genesis import rent_exempt
from robocompute_settlement.port import Commitment

if TYPE_CHECKING:
    from collections.abc import Callable

    from solders.instruction import Instruction

    from robocompute_settlement.loader import DeployedProgram
    from robocompute_settlement.port import Sent
    from robocompute_settlement.solana import SolanaSettlement

AT_ONCE: Final = 8
"""Writes on their way: a public endpoint bears that, and a slot takes them all."""
ROUNDS: Final = 5
"""Of reading the buffer back and writing what is still missing."""
SIGNATURE_LAMPORTS: Final = 5_000
"""What each signature of a transaction costs."""
PRIORITY_LAMPORTS: Final = 1_000
"""Set aside for each transaction's priority: more than is usually offered."""
VISIBLE_S: Final = 30.0
"""A program that was deployed is readable in the next block."""
POLL_S: Final = 0.4
"""A slot."""
CALLABLE_SLOTS: Final = 1
"""A program can be called from the slot after the one it was deployed in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentPlan:
    """What putting a program somewhere will do, and what it costs."""

    program_id: Address
    elf: bytes
    replaces: DeployedProgram | None
    room: int
    """Bytes there will be for the program."""
    missing: tuple[int, ...]
    """Offsets of the pieces that are not in the buffer yet."""
    buffer_lamports: int
    """Still to be put into the buffer; all of it comes back."""
    rent_lamports: int
    """Locked for as long as the program is there."""
    fee_lamports: int

    @property
    def needed_lamports(self) -> int:
        """What the payer must hold now."""
        if self.replaces is None:
            # The buffer's lamports pay for the program's own account.
            return max(self.buffer_lamports, self.rent_lamports) + self.fee_lamports
        return self.buffer_lamports + self.rent_lamports + self.fee_lamports

    @property
    def cost_lamports(self) -> int:
        """What is not in the payer's hands when all is done."""
        return self.rent_lamports + self.fee_lamports


async def read_deployed(chain: SolanaSettlement, program_id: Address) -> DeployedProgram | None:
    """Return what is deployed at an address; None where nothing is.

    Raises:
        ChainBusy: the chain does not answer.
        ChainRefused: something else is there.
    """
    account = await chain.rpc.account(program_id, Commitment.CONFIRMED)
    if account is None:
        return None
    loader.require_program(program_id, account)
    where = loader.program_data_address(program_id)
    data = await chain.rpc.account(where, Commitment.CONFIRMED)
    if data is None:
        raise ChainRefused(f"program {to_base58(program_id)} has no code: it was closed")
    return loader.read_program_data(program_id, data)


def is_same(code: bytes, elf: bytes) -> bool:
    """Whether deployed code is ``elf``, with nothing but zeros behind it."""
    return code[: len(elf)] == elf and not any(code[len(elf) :])


class Deployer:
    """Deploys with one authority, which pays too."""

    def __init__(self, chain: SolanaSettlement, authority: Keypair) -> None:
        """Prepare. ``authority`` must be the key that ``chain`` signs with."""
        self._chain = chain
        self._authority = Address(bytes(authority.pubkey()))
        self._seed = authority.secret()

    async def plan(
        self, elf: bytes, program_id: Address, *, room: int | None = None
    ) -> DeploymentPlan | None:
        """Look at what is there. None: this very program is.

        Raises:
            ChainBusy: the chain does not answer.
            ChainRefused: it can never be put there: another's program, or something else.
        """
        there = await read_deployed(self._chain, program_id)
        if there is not None:
            if is_same(there.code, elf):
                return None
            if there.authority != self._authority:
                owner = "nobody" if there.authority is None else to_base58(there.authority)
                raise ChainRefused(
                    f"program {to_base58(program_id)} may be upgraded by {owner}, not by "
                    f"{to_base58(self._authority)}"
                )
        held = 0 if there is None else len(there.code)
        wanted = max(held, len(elf), room or 0)
        more = wanted - held
        if there is not None and more:
            more = max(more, loader.MIN_EXTENSION)
            wanted = held + more
        buffer = self._buffer(elf, program_id)
        present = await self._contents(buffer)
        missing = _missing(elf, present)
        create = rent_exempt(loader.BUFFER_HEADER + len(elf)) if present is None else 0
        if there is None:
            rent = rent_exempt(loader.PROGRAM_BYTES) + rent_exempt(loader.DATA_HEADER + wanted)
        else:
            rent = rent_exempt(more) - rent_exempt(0)
        transactions = len(missing) + (present is None) + 1 + bool(there is not None and more)
        signatures = transactions + (present is None) + (there is None)
        return DeploymentPlan(
            program_id=program_id,
            elf=elf,
            replaces=there,
            room=wanted,
            missing=missing,
            buffer_lamports=create,
            rent_lamports=rent,
            fee_lamports=signatures * SIGNATURE_LAMPORTS + transactions * PRIORITY_LAMPORTS,
        )

    async def carry_out(
        self, plan: DeploymentPlan, *, program_key: Keypair | None, tell: Callable[[str], None]
    ) -> str:
        """Do it; returns the signature of the transaction that made it the program.

        May be interrupted at any moment and planned anew. ``program_key`` signs for a new address.

        Raises:
            ChainBusy: a step was not taken; plan anew.
            ChainRefused: a step never will be; the text says why.
        """
        if plan.replaces is None and program_key is None:
            raise ChainRefused(
                f"nothing is deployed at {to_base58(plan.program_id)}, and its key is not here"
            )
        await self._require_sol(plan)
        buffer = self._buffer(plan.elf, plan.program_id)
        await self._fill(buffer, plan, tell)
        where = Address(bytes(buffer.pubkey()))
        if plan.replaces is None:
            assert program_key is not None
            tell("making it the program")
            sent = await self._make_program(plan, program_key, where)
        else:
            await self._extend(plan, tell)
            tell("replacing the program")
            sent = await self._chain.send(
                loader.upgrade(plan.program_id, where, self._authority, self._authority)
            )
        await self._see(plan)
        return sent.signature

    async def _make_program(
        self, plan: DeploymentPlan, program_key: Keypair, buffer: Address
    ) -> Sent:
        me = self._authority
        try:
            return await self._chain.send(
                _create(me, plan.program_id, loader.PROGRAM_BYTES),
                loader.deploy(me, plan.program_id, buffer, me, plan.room),
                also=(program_key,),
            )
        except ChainRefused as exc:
            raise ChainRefused(
                f"the chain's loader does not make it a program ({exc}): the embedded chain's "
                'deploys none, so use backend = "validator" or a cluster'
            ) from exc

    async def _require_sol(self, plan: DeploymentPlan) -> None:
        held = await self._chain.lamports(self._authority)
        if held < plan.needed_lamports:
            raise ChainRefused(
                f"{to_base58(self._authority)} holds {sol_text(held)} SOL, and "
                f"{sol_text(plan.needed_lamports)} are needed: send it the rest",
                details={"lamports": held, "needed": plan.needed_lamports},
            )

    def _buffer(self, elf: bytes, program_id: Address) -> Keypair:
        secret = sha256(
            b"robocompute/deploy-buffer/1" + self._seed + program_id + sha256(elf).digest()
        )
        return Keypair.from_seed(secret.digest())

    async def _contents(self, buffer: Keypair) -> bytes | None:
        account = await self._chain.rpc.account(bytes(buffer.pubkey()), Commitment.CONFIRMED)
        if account is None:
            return None
        authority, contents = loader.read_buffer(account)
        if authority != self._authority:
            raise ChainRefused(f"buffer {buffer.pubkey()} is another's")
        return contents

    async def _fill(
        self, buffer: Keypair, plan: DeploymentPlan, tell: Callable[[str], None]
    ) -> None:
        where, elf = Address(bytes(buffer.pubkey())), plan.elf
        for _ in range(ROUNDS):
            present = await self._contents(buffer)
            if present is None:
                tell(f"making buffer {to_base58(where)}")
                await self._chain.send(
                    _create(self._authority, where, loader.BUFFER_HEADER + len(elf)),
                    loader.initialize_buffer(where, self._authority),
                    also=(buffer,),
                )
            missing = _missing(elf, present)
            if not missing:
                return
            await self._write(where, elf, missing, tell)
        raise ChainRefused(
            "the buffer does not keep what is written to it: is the endpoint honest?"
        )

    async def _write(
        self, where: Address, elf: bytes, missing: tuple[int, ...], tell: Callable[[str], None]
    ) -> None:
        """Write pieces, several at once; the first failure stops the rest and is raised."""
        waiting, done = list(missing), 0
        failures: list[ChainError] = []

        async def write_some() -> None:
            nonlocal done
            while waiting and not failures:
                offset = waiting.pop(0)
                piece = elf[offset : offset + loader.WRITE_BYTES]
                try:
                    await self._chain.send(loader.write(where, self._authority, offset, piece))
                except ChainError as exc:
                    failures.append(exc)
                    return
                done += 1
                if done % AT_ONCE == 0 or done == len(missing):
                    tell(f"wrote {done} of {len(missing)} pieces")

        async with trio.open_nursery() as nursery:
            for _ in range(AT_ONCE):
                nursery.start_soon(write_some)
        if failures:
            raise failures[0]

    async def _extend(self, plan: DeploymentPlan, tell: Callable[[str], None]) -> None:
        assert plan.replaces is not None
        more = plan.room - len(plan.replaces.code)
        if not more:
            return
        tell(f"making room for {more} more bytes")
        me, program = self._authority, plan.program_id
        checked = loader.extend_checked(program, me, me, more)
        try:
            sent = await self._chain.send(checked)
        except ChainRefused:
            # A cluster that does not know the checked form yet.
            sent = await self._chain.send(loader.extend(program, me, more))
        # A program that was changed in a slot cannot be changed again in it.
        await self._pass(sent.slot)

    async def _pass(self, slot: int) -> None:
        """Wait until the chain is past ``slot`` by as much as it takes to call what was made in it."""
        with trio.move_on_after(VISIBLE_S):
            while True:
                now = await self._chain.rpc.endpoints.ask("getSlot", at=Commitment.CONFIRMED)
                if int(now) > slot + CALLABLE_SLOTS:
                    return
                await trio.sleep(POLL_S)

    async def _see(self, plan: DeploymentPlan) -> None:
        """Wait until the program is seen there, and may be called: from the slot after its own."""
        with trio.move_on_after(VISIBLE_S):
            while True:
                there = await read_deployed(self._chain, plan.program_id)
                if there is not None and is_same(there.code, plan.elf):
                    await self._pass(there.slot)
                    return
                await trio.sleep(POLL_S)
        raise ChainRefused("the chain took the transaction, and shows another program")


def _missing(elf: bytes, present: bytes | None) -> tuple[int, ...]:
    """Offsets of the pieces that a buffer lacks."""
    size = loader.WRITE_BYTES
    return tuple(
        at
        for at in range(0, len(elf), size)
        if present is None or present[at : at + size] != elf[at : at + size]
    )


def _create(payer: Address, address: Address, space: int) -> Instruction:
    return create_account(
        CreateAccountParams(
            from_pubkey=Pubkey.from_bytes(payer),
            to_pubkey=Pubkey.from_bytes(address),
            lamports=rent_exempt(space),
            space=space,
            owner=BPF_LOADER_UPGRADEABLE,
        )
    )
