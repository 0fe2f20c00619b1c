//! Calls: each instruction with the accounts and the arguments it usually has.

use settlement_interface::{
    instruction::{self, InstructionSpec},
    layout::Digest,
    seeds,
};
use solana_address::Address;
use solana_instruction::{AccountMeta, Instruction};

use crate::world::{
    Channel, GENESIS, Person, Provider, SYSTEM, SYSVAR, TOKEN, UNBOND_S, World, check, lease,
    voucher,
};

/// One instruction, and what goes before it in its transaction.
#[derive(Clone)]
pub struct Call {
    pub spec: InstructionSpec,
    /// In the interface's order.
    pub accounts: Vec<Address>,
    /// Writable accounts behind the listed ones.
    pub rest: Vec<Address>,
    pub data: Vec<u8>,
    pub before: Vec<Instruction>,
}

impl Call {
    /// The accounts with the rights that the interface lists.
    pub fn metas(&self) -> Vec<AccountMeta> {
        let listed = self.spec.accounts.iter().zip(&self.accounts).map(|(spec, address)| {
            AccountMeta { pubkey: *address, is_signer: spec.signer, is_writable: spec.writable }
        });
        listed.chain(self.rest.iter().map(|one| AccountMeta::new(*one, false))).collect()
    }

    /// The same call with another account in one place.
    pub fn with(mut self, name: &str, address: Address) -> Self {
        let at = self.spec.accounts.iter().position(|one| one.name == name);
        self.accounts[at.expect("the instruction has such an account")] = address;
        self
    }

    /// The same call behind another instruction.
    pub fn after(mut self, before: Instruction) -> Self {
        self.before.push(before);
        self
    }
}

/// A call with these arguments and named accounts; every name is checked against the interface.
macro_rules! call {
    ($type:ident { $($field:ident: $value:expr),* $(,)? }, { $($name:ident: $address:expr),* $(,)? }) => {{
        let arguments = instruction::$type { $($field: $value,)* };
        let mut data = instruction::$type::DISCRIMINATOR.to_vec();
        let mut body = [0u8; instruction::$type::SIZE];
        arguments.write(&mut body);
        data.extend(body);
        let names = [$(stringify!($name)),*];
        let spec = instruction::$type::SPEC;
        assert_eq!(spec.accounts.iter().map(|one| one.name).collect::<Vec<_>>(), names);
        Call { spec, accounts: vec![$($address),*], rest: Vec::new(), data, before: Vec::new() }
    }};
}

impl World {
    pub fn init_config(&self) -> Call {
        let parts = seeds::domain_parts(&GENESIS, self.program.as_array());
        let domain = solana_domain(&parts);
        let vault = |mint: Address| self.pda(&[seeds::VAULT, &domain, mint.as_ref()]);
        call!(InitConfig {
            genesis_hash: Digest(GENESIS), admin: self.admin.key(), treasury: self.treasury.key(),
            slot_stake: 50_000_000, unbond_s: UNBOND_S, min_challenge_s: 60, fee_bps: 250,
            slash_bps: 2_000,
        }, {
            authority: self.upgrade_authority.address, config: self.config(),
            program_data: self.program_data(), mint0: self.mints[0], vault0: vault(self.mints[0]),
            mint1: self.mints[1], vault1: vault(self.mints[1]),
            vault_authority: self.pda(&[seeds::AUTH, &domain]), token_program: TOKEN,
            system_program: SYSTEM,
        })
    }

    pub fn update_config(&self, paused: bool) -> Call {
        call!(UpdateConfig {
            treasury: self.treasury.key(), slot_stake: 1, unbond_s: UNBOND_S, min_challenge_s: 60,
            fee_bps: 250, slash_bps: 2_000, paused: paused,
        }, { admin: self.admin.address, config: self.config() })
    }

    pub fn propose_admin(&self, new_admin: &Person) -> Call {
        call!(ProposeAdmin { new_admin: new_admin.key() }, {
            admin: self.admin.address, config: self.config(),
        })
    }

    pub fn accept_admin(&self, new_admin: &Person) -> Call {
        call!(AcceptAdmin {}, { new_admin: new_admin.address, config: self.config() })
    }

    pub fn vault(&self) -> Address {
        self.pda(&[seeds::VAULT, &self.domain(), self.mints[0].as_ref()])
    }

    pub fn deposit(&self, owner: &Person, amount: u64) -> Call {
        call!(Deposit { amount: amount }, {
            owner: owner.address, source: owner.tokens(), vault: self.vault(),
            balance: self.balance_of(owner), mint: self.mints[0], config: self.config(),
            token_program: TOKEN, system_program: SYSTEM,
        })
    }

    pub fn withdraw(&self, owner: &Person, amount: u64) -> Call {
        call!(Withdraw { amount: amount }, {
            owner: owner.address, balance: self.balance_of(owner), vault: self.vault(),
            destination: owner.tokens(), mint: self.mints[0],
            vault_authority: self.pda(&[seeds::AUTH, &self.domain()]), config: self.config(),
            token_program: TOKEN,
        })
    }

    pub fn set_delegate(&self, owner: &Person, delegate: &Person, expires: i64) -> Call {
        call!(SetDelegate { delegate: delegate.key(), allowance: 1_000_000, expires: expires }, {
            owner: owner.address, balance: self.balance_of(owner),
        })
    }

    /// With the next nonce; the payer signs and pays the rent.
    pub fn open_channel(
        &self,
        payer: &Person,
        payee: &Person,
        signer: &Person,
        deposit: u64,
    ) -> Call {
        let nonce = self.balance(payer).next_nonce();
        call!(OpenChannel {
            payee: payee.key(), voucher_key: signer.key(), nonce: nonce, deposit: deposit,
            challenge_s: 3_600,
        }, {
            authority: payer.address, rent_payer: payer.address,
            payer_balance: self.balance_of(payer), channel: self.channel_of(payer, payee, nonce),
            config: self.config(), system_program: SYSTEM,
        })
    }

    pub fn top_up(&self, channel: &Channel, amount: u64) -> Call {
        call!(TopUp { amount: amount }, {
            authority: channel.payer.address, payer_balance: self.balance_of(&channel.payer),
            channel: channel.address,
        })
    }

    /// Behind the check of a voucher over `cumulative`.
    pub fn settle(&self, channel: &Channel, cumulative: u64) -> Call {
        self.settle_entry(channel, 0).after(check(&[voucher(channel, cumulative)]))
    }

    /// By an entry of the transaction's first instruction, whatever that is.
    pub fn settle_entry(&self, channel: &Channel, entry: u8) -> Call {
        call!(Settle { ed_ix: 0, entry: entry, claim: u64::MAX }, {
            channel: channel.address, payee_balance: self.balance_of(&channel.payee),
            instructions: SYSVAR,
        })
    }

    pub fn close_by_payee(&self, channel: &Channel) -> Call {
        call!(CloseByPayee {}, {
            authority: channel.payee.address, channel: channel.address,
            payee_balance: self.balance_of(&channel.payee),
            payer_balance: self.balance_of(&channel.payer), rent_payer: channel.payer.address,
        })
    }

    pub fn request_close(&self, channel: &Channel) -> Call {
        call!(RequestClose {}, {
            authority: channel.payer.address, channel: channel.address,
            payer_balance: self.balance_of(&channel.payer),
        })
    }

    pub fn finalize_close(&self, channel: &Channel) -> Call {
        call!(FinalizeClose {}, {
            channel: channel.address, payer_balance: self.balance_of(&channel.payer),
            rent_payer: channel.payer.address,
        })
    }

    pub fn register(&self, owner: &Person, node: &Person) -> Call {
        call!(Register { node_key: node.key() }, {
            owner: owner.address, rent_payer: owner.address, stake: self.stake_of(owner),
            mint: self.mints[0], config: self.config(), system_program: SYSTEM,
        })
    }

    pub fn stake(&self, owner: &Person, amount: u64) -> Call {
        call!(Stake { amount: amount }, {
            owner: owner.address, balance: self.balance_of(owner), stake: self.stake_of(owner),
        })
    }

    pub fn unstake(&self, owner: &Person, amount: u64) -> Call {
        call!(Unstake { amount: amount }, {
            owner: owner.address, stake: self.stake_of(owner), config: self.config(),
        })
    }

    pub fn claim_unbonded(&self, owner: &Person) -> Call {
        call!(ClaimUnbonded {}, {
            owner: owner.address, balance: self.balance_of(owner), stake: self.stake_of(owner),
        })
    }

    pub fn rotate_key(&self, owner: &Person, node: &Person) -> Call {
        call!(RotateKey { node_key: node.key() }, {
            owner: owner.address, stake: self.stake_of(owner), config: self.config(),
        })
    }

    /// Of leases to these two, by entries 0 and 1 of the transaction's first instruction.
    pub fn slash_entries(
        &self,
        provider: &Provider,
        reporter: &Person,
        payers: [&Person; 2],
    ) -> Call {
        call!(Slash { ed_ix: 0, first: 0, second: 1 }, {
            reporter: reporter.address, config: self.config(), stake: provider.stake,
            reporter_balance: self.balance_of(reporter),
            first_balance: self.balance_of(payers[0]), second_balance: self.balance_of(payers[1]),
            treasury_balance: self.balance_of(&self.treasury), instructions: SYSVAR,
        })
    }

    /// Behind the check of two leases of one slot that have half a minute in common.
    pub fn slash(
        &self,
        provider: &Provider,
        reporter: &Person,
        payers: [&Person; 2],
        now: i64,
    ) -> Call {
        let leases = [
            lease(provider, payers[0], now - 60, now),
            lease(provider, payers[1], now - 30, now + 30),
        ];
        self.slash_entries(provider, reporter, payers).after(check(&leases))
    }

    pub fn sweep_fees(&self, balances: &[Address]) -> Call {
        let mut call = call!(SweepFees {}, {
            rent_payer: self.fee_payer.address, config: self.config(),
            treasury_balance: self.balance_of(&self.treasury), mint: self.mints[0],
            system_program: SYSTEM,
        });
        call.rest = balances.to_vec();
        call
    }
}

/// The SHA-256 of parts, by the chain's own rule for the domain.
fn solana_domain(parts: &[&[u8]]) -> [u8; 32] {
    use sha2::{Digest, Sha256};
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part);
    }
    hash.finalize().into()
}
