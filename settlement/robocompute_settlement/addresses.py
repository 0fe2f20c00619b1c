"""The settlement program's addresses: PDAs of one deployment on one chain. Nothing is looked up."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final

from solders.pubkey import Pubkey
from solders.token.associated import get_associated_token_address

from robocompute_protocol.identifiers import Address, ChannelId, Digest, digest

DOMAIN_TAG: Final = b"robocompute/domain/1"
BPF_LOADER_UPGRADEABLE: Final = Pubkey.from_string("BPFLoaderUpgradeab1e11111111111111111111111")


def domain_of(genesis_hash: bytes, program_id: bytes) -> Digest:
    """What separates one deployment on one chain from all others; vouchers are scoped by it."""
    return digest(DOMAIN_TAG, genesis_hash, program_id)


def associated_token_account(owner: Address, mint: Address) -> Address:
    """Where a wallet keeps its tokens of a mint."""
    return Address(
        bytes(get_associated_token_address(Pubkey.from_bytes(owner), Pubkey.from_bytes(mint)))
    )


def has_a_key(address: Address) -> bool:
    """Whether a secret key can exist for it. Programs make their addresses so that none can."""
    return any(address) and Pubkey.from_bytes(address).is_on_curve()


@dataclass(frozen=True)
class Addresses:
    """Every address of one deployment."""

    program_id: Address
    domain: Digest

    @cached_property
    def config(self) -> Address:
        """The only address without the domain: it holds it."""
        return self._find(b"config")

    @cached_property
    def vault_authority(self) -> Address:
        """Owns the vaults."""
        return self._find(b"auth", self.domain)

    @cached_property
    def program_data(self) -> Address:
        """Where the upgradeable loader keeps the program's code and upgrade authority."""
        found, _ = Pubkey.find_program_address([self.program_id], BPF_LOADER_UPGRADEABLE)
        return Address(bytes(found))

    def vault(self, mint: Address) -> Address:
        return self._find(b"vault", self.domain, mint)

    def balance(self, owner: Address, mint: Address) -> Address:
        return self._find(b"balance", self.domain, owner, mint)

    def stake(self, owner: Address, mint: Address) -> Address:
        return self._find(b"stake", self.domain, owner, mint)

    def channel(self, payer: Address, payee: Address, mint: Address, nonce: int) -> ChannelId:
        number = nonce.to_bytes(8, "little")
        return ChannelId(self._find(b"channel", self.domain, payer, payee, mint, number))

    def _find(self, *seeds: bytes) -> Address:
        found, _ = Pubkey.find_program_address(list(seeds), Pubkey.from_bytes(self.program_id))
        return Address(bytes(found))


class AddressBook:
    """What every adapter tells of addresses; a subclass knows the deployment."""

    @property
    def addresses(self) -> Addresses:
        """The deployment's addresses."""
        raise NotImplementedError

    def channel_address(
        self, payer: Address, payee: Address, mint: Address, nonce: int
    ) -> ChannelId:
        return self.addresses.channel(payer, payee, mint, nonce)

    def stake_address(self, owner: Address, mint: Address) -> Address:
        return self.addresses.stake(owner, mint)

    def balance_address(self, owner: Address, mint: Address) -> Address:
        return self.addresses.balance(owner, mint)
