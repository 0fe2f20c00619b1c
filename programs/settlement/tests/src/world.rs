//! A deployment in a virtual machine, and the people on it. Every key is made from a number, so each
//! run is the same.

use std::{collections::HashMap, path::Path};

use base64::Engine;
use litesvm::{LiteSVM, types::TransactionMetadata};
use settlement_interface::{
    Key,
    error::ERRORS,
    event::EVENTS,
    seeds,
    state::{Balance, Channel as ChannelRecord, Config, Record, Stake},
    statement::{Lease, Voucher},
};
use solana_account::Account;
use solana_address::Address;
use solana_clock::Clock;
use solana_instruction::{AccountMeta, Instruction};
use solana_instruction_error::InstructionError;
use solana_keypair::Keypair;
use solana_message::Message;
use solana_signer::Signer;
use solana_transaction::Transaction;
use solana_transaction_error::TransactionError;

use crate::calls::Call;

pub const NOW: i64 = 1_800_000_000;
pub const DAY: u64 = 86_400;
/// The unbonding time of the worlds here.
pub const UNBOND_S: u64 = 7 * DAY;
pub const GENESIS: Key = [9; 32];
pub const SYSTEM: Address = Address::new_from_array([0; 32]);
pub const TOKEN: Address = Address::from_str_const("TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA");
pub const LOADER: Address = Address::from_str_const("BPFLoaderUpgradeab1e11111111111111111111111");
pub const ED25519: Address = Address::from_str_const("Ed25519SigVerify111111111111111111111111111");
pub const SYSVAR: Address = Address::from_str_const("Sysvar1nstructions1111111111111111111111111");
const SOL: u64 = 1_000_000_000;

/// A key by its number. It signs wherever its address must.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Person {
    pub seed: Key,
    pub address: Address,
}

impl Person {
    /// The person of a number.
    pub fn numbered(number: u64) -> Self {
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&number.to_le_bytes());
        seed[31] = 1;
        Self { seed, address: Keypair::new_from_array(seed).pubkey() }
    }

    pub fn keypair(&self) -> Keypair {
        Keypair::new_from_array(self.seed)
    }

    pub fn key(&self) -> Key {
        self.address.to_bytes()
    }

    /// Where this person's tokens of the world's first mint are.
    pub fn tokens(&self) -> Address {
        let mut address = self.seed;
        address[30] = 7;
        Address::new_from_array(address)
    }
}

/// A channel, and who signs its vouchers.
#[derive(Clone, Copy, Debug)]
pub struct Channel {
    pub address: Address,
    pub payer: Person,
    pub payee: Person,
    pub signer: Person,
}

/// A stake, and who signs its leases.
#[derive(Clone, Copy, Debug)]
pub struct Provider {
    pub owner: Person,
    pub node: Person,
    pub stake: Address,
}

/// What a call came to: units, logs and events, or the name of the refusal.
pub type Outcome = Result<TransactionMetadata, String>;

#[derive(Clone)]
pub struct World {
    pub svm: LiteSVM,
    pub program: Address,
    pub fee_payer: Person,
    pub upgrade_authority: Person,
    pub admin: Person,
    pub treasury: Person,
    pub mints: [Address; 2],
    people: HashMap<Address, Person>,
}

impl World {
    /// The program lies on the chain, and nobody configured it.
    pub fn bare() -> Self {
        let mut world = Self {
            svm: LiteSVM::new(),
            program: Address::new_from_array([77; 32]),
            fee_payer: Person::numbered(1),
            upgrade_authority: Person::numbered(2),
            admin: Person::numbered(3),
            treasury: Person::numbered(4),
            mints: [Address::new_from_array([81; 32]), Address::new_from_array([82; 32])],
            people: HashMap::new(),
        };
        let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../settlement.so");
        world.svm.add_program_from_file(world.program, built).expect("the program is built");
        for number in 1..=4 {
            world.wallet(number);
        }
        for mint in world.mints {
            world.put(mint, mint_data(), TOKEN);
        }
        let mut data = vec![3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        data.extend(world.upgrade_authority.key());
        world.put(world.program_data(), data, LOADER);
        world.set_time(NOW);
        world
    }

    /// A deployment for two mints with a fee of 2.5 % and a penalty of 20 %.
    pub fn configured() -> Self {
        let mut world = Self::bare();
        let call = world.init_config();
        world.ok(&call);
        world
    }

    // Addresses

    pub fn pda(&self, seeds: &[&[u8]]) -> Address {
        Address::find_program_address(seeds, &self.program).0
    }

    pub fn config(&self) -> Address {
        self.pda(&[seeds::CONFIG])
    }

    pub fn program_data(&self) -> Address {
        Address::find_program_address(&[self.program.as_ref()], &LOADER).0
    }

    /// Read from Config; before there is one, nothing is at an address that depends on it.
    pub fn domain(&self) -> Key {
        self.record::<Config>(self.config()).domain
    }

    pub fn balance_of(&self, owner: &Person) -> Address {
        self.balance_of_mint(owner, self.mints[0])
    }

    pub fn balance_of_mint(&self, owner: &Person, mint: Address) -> Address {
        self.pda(&[seeds::BALANCE, &self.domain(), owner.address.as_ref(), mint.as_ref()])
    }

    pub fn stake_of(&self, owner: &Person) -> Address {
        let mint = self.mints[0];
        self.pda(&[seeds::STAKE, &self.domain(), owner.address.as_ref(), mint.as_ref()])
    }

    pub fn channel_of(&self, payer: &Person, payee: &Person, nonce: u64) -> Address {
        self.pda(&[
            seeds::CHANNEL,
            &self.domain(),
            payer.address.as_ref(),
            payee.address.as_ref(),
            self.mints[0].as_ref(),
            &nonce.to_le_bytes(),
        ])
    }

    // The chain

    pub fn put(&mut self, address: Address, data: Vec<u8>, owner: Address) {
        let account = Account { lamports: SOL, data, owner, ..Account::default() };
        self.svm.set_account(address, account).expect("the account may be set");
    }

    pub fn set_time(&mut self, unix: i64) {
        let mut clock: Clock = self.svm.get_sysvar();
        clock.unix_timestamp = unix;
        self.svm.set_sysvar(&clock);
    }

    /// An account as a record of ours.
    pub fn record<R: Record + Copy>(&self, address: Address) -> R {
        let account = self.svm.get_account(&address).expect("the account exists");
        assert_eq!(account.owner, self.program);
        *R::load(&account.data).expect("it is of that kind")
    }

    pub fn balance(&self, owner: &Person) -> Balance {
        self.record(self.balance_of(owner))
    }

    pub fn stake_record(&self, owner: &Person) -> Stake {
        self.record(self.stake_of(owner))
    }

    pub fn channel_record(&self, channel: &Channel) -> ChannelRecord {
        self.record(channel.address)
    }

    pub fn tokens(&self, address: Address) -> u64 {
        let account = self.svm.get_account(&address).expect("the account exists");
        u64::from_le_bytes(account.data[64..72].try_into().expect("eight bytes"))
    }

    /// Send a call with the accounts that the interface lists for it.
    pub fn send(&mut self, call: &Call) -> Outcome {
        self.send_with(call, call.metas())
    }

    /// Send a call with any accounts. Everybody whose signature these ask for signs.
    pub fn send_with(&mut self, call: &Call, metas: Vec<AccountMeta>) -> Outcome {
        let mut instructions = call.before.clone();
        instructions.push(Instruction::new_with_bytes(self.program, &call.data, metas));
        self.svm.expire_blockhash();
        let message = Message::new_with_blockhash(
            &instructions,
            Some(&self.fee_payer.address),
            &self.svm.latest_blockhash(),
        );
        let wanted = usize::from(message.header.num_required_signatures);
        let keys: Vec<Keypair> = message.account_keys[..wanted]
            .iter()
            .map(|address| {
                let person = self.people.get(address);
                person.unwrap_or_else(|| panic!("{address} is nobody who can sign")).keypair()
            })
            .collect();
        let mut transaction = Transaction::new_unsigned(message);
        transaction.sign(&keys.iter().collect::<Vec<_>>(), self.svm.latest_blockhash());
        self.svm.send_transaction(transaction).map_err(|failed| refusal(&failed.err))
    }

    /// Send a call that must be taken.
    pub fn ok(&mut self, call: &Call) -> TransactionMetadata {
        self.send(call).unwrap_or_else(|why| panic!("{} was refused: {why}", call.spec.name))
    }

    /// Send a call that must not be taken, and return why it was not.
    pub fn refused(&mut self, call: &Call) -> String {
        match self.send(call) {
            Ok(_) => panic!("{} was taken", call.spec.name),
            Err(why) => why,
        }
    }

    /// Whether somebody of this address can sign.
    pub fn can_sign(&self, address: &Address) -> bool {
        self.people.contains_key(address)
    }

    // People, and what they usually do

    /// Somebody with SOL and tokens, and nothing in the program.
    pub fn wallet(&mut self, number: u64) -> Person {
        let person = Person::numbered(number);
        self.people.insert(person.address, person);
        self.svm.airdrop(&person.address, 100 * SOL).expect("SOL is free here");
        let data = token_data(self.mints[0], person.address, 1_000_000_000);
        self.put(person.tokens(), data, TOKEN);
        person
    }

    /// Somebody with a Balance.
    pub fn depositor(&mut self, number: u64, amount: u64) -> Person {
        let person = self.wallet(number);
        let call = self.deposit(&person, amount);
        self.ok(&call);
        person
    }

    /// An open channel between two who have a Balance; the payer's node key signs its vouchers.
    pub fn channel(&mut self, payer: Person, payee: Person, deposit: u64) -> Channel {
        let nonce = self.balance(&payer).next_nonce();
        let signer = Person::numbered(1_000_000 + nonce);
        let call = self.open_channel(&payer, &payee, &signer, deposit);
        self.ok(&call);
        Channel { address: self.channel_of(&payer, &payee, nonce), payer, payee, signer }
    }

    /// Somebody with a stake and an empty Balance.
    pub fn provider(&mut self, number: u64, bonded: u64) -> Provider {
        let owner = self.depositor(number, bonded);
        let node = self.wallet(number + 1);
        for call in [self.register(&owner, &node), self.stake(&owner, bonded)] {
            self.ok(&call);
        }
        Provider { owner, node, stake: self.stake_of(&owner) }
    }
}

/// A voucher and its signature.
pub fn voucher(channel: &Channel, cumulative: u64) -> (Person, Vec<u8>) {
    let voucher = Voucher { channel: channel.address.to_bytes(), cumulative, alloc_root: [5; 32] };
    (channel.signer, voucher.signing_bytes().to_vec())
}

/// A lease of slot 0 and its signature.
pub fn lease(provider: &Provider, payer: &Person, start: i64, end: i64) -> (Person, Vec<u8>) {
    let lease = Lease {
        stake: provider.stake.to_bytes(),
        agreement: [6; 32],
        payer: payer.key(),
        slots: 1,
        start,
        end,
    };
    (provider.node, lease.signing_bytes().to_vec())
}

/// The Ed25519 instruction over statements, in the one form that counts.
pub fn check(signed: &[(Person, Vec<u8>)]) -> Instruction {
    let (mut head, mut body) = (vec![signed.len() as u8, 0], Vec::new());
    for (person, message) in signed {
        let at = 2 + 14 * signed.len() + body.len();
        for field in [at, 0xffff, at + 64, 0xffff, at + 96, message.len(), 0xffff] {
            head.extend((field as u16).to_le_bytes());
        }
        body.extend(person.keypair().sign_message(message).as_ref());
        body.extend(person.key());
        body.extend(message);
    }
    head.extend(body);
    Instruction::new_with_bytes(ED25519, &head, Vec::new())
}

/// The bytes of the events that a transaction told, in order.
pub fn events(result: &TransactionMetadata) -> Vec<Vec<u8>> {
    let data = result.logs.iter().filter_map(|line| line.strip_prefix("Program data: "));
    data.map(|text| {
        let bytes = base64::engine::general_purpose::STANDARD.decode(text).expect("it is base64");
        assert!(EVENTS.iter().any(|event| event.discriminator == bytes[..8]));
        bytes
    })
    .collect()
}

/// A refusal's name and number where it is the program's, and the runtime's words otherwise.
fn refusal(error: &TransactionError) -> String {
    let TransactionError::InstructionError(_, inner) = error else { return format!("{error:?}") };
    let InstructionError::Custom(number) = inner else { return format!("{inner:?}") };
    let ours = ERRORS.iter().find(|(one, ..)| one == number);
    ours.map_or(format!("Custom {number}"), |(_, name, _)| format!("{name} {number}"))
}

pub fn mint_data() -> Vec<u8> {
    let mut data = vec![0; 82];
    data[36..44].copy_from_slice(&1_000_000_000_000_000u64.to_le_bytes());
    data[44] = 6;
    data[45] = 1;
    data
}

pub fn token_data(mint: Address, owner: Address, amount: u64) -> Vec<u8> {
    let mut data = vec![0; 165];
    data[..32].copy_from_slice(mint.as_ref());
    data[32..64].copy_from_slice(owner.as_ref());
    data[64..72].copy_from_slice(&amount.to_le_bytes());
    data[108] = 1;
    data
}
