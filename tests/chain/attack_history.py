"""What happened so far in a random history, and what must be true after every step of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from attack_actors import MINTS, Cast
from hypothesis.stateful import RuleBasedStateMachine, invariant
from settlement_layouts import NOW
from settlement_model import Deal, Model, Promise, Refused, Settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from solders.instruction import Instruction
    from solders.keypair import Keypair
    from solders.pubkey import Pubkey

PEOPLE = 6
"""The last one is the treasury at the beginning."""
CHEATER = 2
"""The one provider that lets slots as it likes."""
START = 10**6


@dataclass(frozen=True)
class Deed:
    """Something that was sent once."""

    calls: tuple[Instruction, ...]
    act: Callable[[], None] | None
    """What it does in the model when anybody may send it; None where somebody must sign."""


@dataclass
class Person:
    """What a test keeps of somebody, whatever the program says. By mint where there are two."""

    address: Pubkey
    node: Pubkey
    gave: dict[int, int] = field(default_factory=lambda: dict.fromkeys(MINTS, 0))
    """Paid out to others' token accounts."""
    fined: dict[int, int] = field(default_factory=lambda: dict.fromkeys(MINTS, 0))
    granted: dict[int, int] = field(default_factory=lambda: dict.fromkeys(MINTS, 0))
    """The allowance as it was last set, and what the delegate set aside since."""
    used: dict[int, int] = field(default_factory=lambda: dict.fromkeys(MINTS, 0))


@dataclass
class Opened:
    """A channel that once was, and the most its key signed for."""

    key: Keypair
    deal: Deal
    best: int = 0


class History(RuleBasedStateMachine):
    """A chain with people on it, and the model beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.cast = cast = Cast()
        world = cast.world
        addresses = [cast.person(START) for _ in range(PEOPLE - 1)]
        addresses.append(cast.person(START, world.treasury))
        self.people = [Person(one, cast.key()) for one in addresses]
        self.attacker = cast.person(0)
        given = world.init_arguments()
        self.model = Model(
            admin=world.admin.pubkey(),
            settings=Settings(
                addresses[-1], given["slot_stake"], given["unbond_s"], given["min_challenge_s"],
                given["fee_bps"], given["slash_bps"],
            ),
            now=NOW,
        )  # fmt: skip
        for owner, account in cast.token_accounts.items():
            self.model.tokens[owner] = world.tokens(account)
        self.opened: dict[Pubkey, Opened] = {}
        self.deeds: list[Deed] = []
        self.leases: list[Promise] = []

    # Doing something, in the model and on the chain

    def attempt(self, act: Callable[[], None], *calls: Instruction, anybody: bool = False) -> bool:
        """Do it in both; return whether it was taken, which must be the same in both."""
        try:
            act()
        except Refused as refusal:
            expected = str(refusal)
        else:
            expected = ""
        taken = self.cast.take(*calls)
        assert taken == (not expected), expected
        self.deeds.append(Deed(calls, act if anybody else None))
        return taken

    def signer(self, owner: Pubkey, how: str) -> Pubkey:
        """Somebody who signs for a person: rightly or not."""
        index = self.index(owner)
        return {
            "owner": owner,
            "delegate": self.people[index].node,
            "other": self.people[(index + 1) % PEOPLE].address,
            "admin": self.model.admin,
        }[how]

    def index(self, owner: Pubkey) -> int:
        return next(n for n, one in enumerate(self.people) if one.address == owner)

    def pick(self, which: int) -> tuple[Pubkey, Opened]:
        return list(self.opened.items())[which % len(self.opened)]

    def teardown(self) -> None:
        """After all that happened nobody can begin anew, not even who began."""
        world = self.cast.world
        arguments = world.init_arguments()
        arguments.update(admin=self.attacker, treasury=self.attacker)
        call = world.instruction("init_config", world.init_accounts(), **arguments)
        assert not self.cast.take(call)
        assert self.cast.differences(self.model, self.opened) == []

    # What is true after every step

    @invariant()
    def chain_and_model_agree_on_every_account(self) -> None:
        assert self.cast.differences(self.model, self.opened) == []

    @invariant()
    def the_vaults_hold_what_the_books_say(self) -> None:
        for mint, vault in self.cast.vaults.items():
            held = self.cast.world.tokens(vault)
            assert held == self.model.booked(mint) + self.model.donated[mint]

    @invariant()
    def no_channel_pays_more_than_it_has_or_its_key_signed(self) -> None:
        for one in self.opened.values():
            assert one.deal.settled <= min(one.deal.deposit, one.best)

    @invariant()
    def nobody_has_less_than_what_they_gave_away_themselves(self) -> None:
        for one in self.people:
            for mint in MINTS:
                promised = sum(
                    min(opened.best, opened.deal.deposit)
                    for opened in self.opened.values()
                    if (opened.deal.payer, opened.deal.mint) == (one.address, mint)
                )
                floor = START - one.gave[mint] - one.fined[mint] - promised
                assert self.model.worth(one.address, mint) >= floor
