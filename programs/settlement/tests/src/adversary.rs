//! Every account of a call, in every wrong way: what is not refused must change nothing.
//!
//! What each attempt comes to is in a committed table, `tests/refusals/<instruction>.txt`, so a
//! refusal keeps its number. `UPDATE_REFUSALS=1` writes the tables anew, to be read in review.

use std::{fmt::Write, fs, path::Path};

use solana_account::Account;
use solana_address::Address;
use solana_instruction::AccountMeta;

use crate::{
    Call, Person, World,
    world::{TOKEN, token_data},
};

/// One way of giving a wrong account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attack {
    /// Without the signature it needs.
    Unsigned,
    /// Without the right to change it.
    Readonly,
    /// A stranger's account of the same kind.
    Stranger,
    /// An account with the same bytes that belongs to another program.
    Imposter,
    /// The account of another place in the list.
    Alias(&'static str),
    /// Not there: the following ones move up.
    Missing,
}

/// An attempt that may succeed, and why that is right.
pub type Allowed = (&'static str, Attack, &'static str);

const OTHER_PROGRAM: Address = Address::new_from_array([123; 32]);
const NOWHERE: Address = Address::new_from_array([124; 32]);

/// Somebody with one account of every kind.
struct Stranger {
    person: Person,
    balance: Address,
    stake: Address,
    channel: Address,
}

impl Stranger {
    /// Only where Config is: elsewhere a stranger has a wallet and tokens alone.
    fn arrive(world: &mut World) -> Self {
        if world.svm.get_account(&world.config()).is_none() {
            let person = world.wallet(900);
            return Self { person, balance: NOWHERE, stake: NOWHERE, channel: NOWHERE };
        }
        let provider = world.provider(900, 1_000);
        let (person, friend) = (provider.owner, world.wallet(903));
        for call in [world.deposit(&person, 1_000), world.deposit(&friend, 0)] {
            world.ok(&call);
        }
        let channel = world.channel(person, friend, 500).address;
        Self { person, balance: world.balance_of(&person), stake: provider.stake, channel }
    }

    /// The stranger's account of the kind of `account`; an address without an account where there is
    /// no kind. There is one Config, so nobody has another.
    fn alike(&self, world: &mut World, address: &Address) -> Option<Address> {
        if world.can_sign(address) {
            return Some(self.person.address);
        }
        let Some(account) = world.svm.get_account(address) else { return Some(NOWHERE) };
        if account.owner == world.program {
            return [None, Some(self.balance), Some(self.stake), Some(self.channel)]
                [usize::from(account.data[0]) - 1];
        }
        if account.owner != TOKEN {
            return Some(NOWHERE);
        }
        if account.data.len() == 82 {
            return world.mints.into_iter().find(|one| one != address);
        }
        let mint = Address::try_from(&account.data[..32]).expect("a token account has a mint");
        let data = token_data(mint, self.person.address, 1_000);
        world.put(self.person.tokens(), data, TOKEN);
        Some(self.person.tokens())
    }
}

/// Try every attack on every listed account of the call that `prepare` makes possible.
pub fn attack(name: &str, allowed: &[Allowed], prepare: impl Fn(&mut World) -> Call, world: World) {
    let mut world = world;
    let call = prepare(&mut world);
    let stranger = Stranger::arrive(&mut world);
    world.clone().ok(&call);

    let mut used = vec![false; allowed.len()];
    let mut table = String::new();
    for at in 0..call.accounts.len() {
        let spec = call.spec.accounts[at];
        for attack in attacks(&call, at) {
            let mut world = world.clone();
            let Some(metas) = metas(&mut world, &stranger, &call, at, attack) else { continue };
            let before = snapshot(&world, &call, &metas);
            let result = match world.send_with(&call, metas.clone()) {
                Err(why) => why,
                Ok(_) if before == snapshot(&world, &call, &metas) => "nothing changes".to_owned(),
                Ok(_) => {
                    let found = allowed
                        .iter()
                        .position(|(account, one, _)| *account == spec.name && *one == attack);
                    let found = found
                        .unwrap_or_else(|| panic!("{name}: {} was taken as {attack:?}", spec.name));
                    used[found] = true;
                    format!("taken: {}", allowed[found].2)
                }
            };
            writeln!(table, "{} {attack:?}: {result}", spec.name).expect("text grows");
        }
    }
    for (one, used) in allowed.iter().zip(used) {
        assert!(used, "{name}: {one:?} was refused");
    }
    compare(name, &table);
}

fn attacks(call: &Call, at: usize) -> Vec<Attack> {
    let spec = call.spec.accounts[at];
    let mut all = Vec::new();
    if spec.signer {
        all.push(Attack::Unsigned);
    }
    if spec.writable {
        all.push(Attack::Readonly);
    }
    all.extend([Attack::Stranger, Attack::Imposter]);
    let others = call
        .spec
        .accounts
        .iter()
        .zip(&call.accounts)
        .filter(|(other, address)| other.name != spec.name && **address != call.accounts[at]);
    all.extend(others.map(|(other, _)| Attack::Alias(other.name)));
    all.push(Attack::Missing);
    all
}

/// The accounts of the call under an attack; `None` where the attack makes no sense.
fn metas(
    world: &mut World,
    stranger: &Stranger,
    call: &Call,
    at: usize,
    attack: Attack,
) -> Option<Vec<AccountMeta>> {
    let mut metas = call.metas();
    let address = metas[at].pubkey;
    match attack {
        Attack::Unsigned => metas[at].is_signer = false,
        Attack::Readonly => metas[at].is_writable = false,
        Attack::Stranger => metas[at].pubkey = stranger.alike(world, &address)?,
        Attack::Imposter => {
            let account = world.svm.get_account(&address).filter(|one| !one.data.is_empty())?;
            metas[at].is_signer = false;
            metas[at].pubkey = Address::new_from_array([125; 32]);
            world.put(metas[at].pubkey, account.data, OTHER_PROGRAM);
        }
        Attack::Alias(other) => {
            let j = call.spec.accounts.iter().position(|one| one.name == other)?;
            metas[at].pubkey = metas[j].pubkey;
            metas[at].is_signer &= world.can_sign(&metas[j].pubkey);
        }
        Attack::Missing => {
            metas.remove(at);
        }
    }
    Some(metas)
}

/// All that the call could have changed. Who pays the transaction's fee always changes.
fn snapshot(world: &World, call: &Call, metas: &[AccountMeta]) -> Vec<Option<Account>> {
    let all = call.accounts.iter().chain(&call.rest).chain(metas.iter().map(|one| &one.pubkey));
    all.filter(|one| **one != world.fee_payer.address)
        .map(|one| world.svm.get_account(one))
        .collect()
}

fn compare(name: &str, table: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/refusals");
    let path = folder.join(format!("{name}.txt"));
    if std::env::var_os("UPDATE_REFUSALS").is_some() {
        fs::write(&path, table).expect("the table can be written");
        return;
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    for (was, is) in committed.lines().zip(table.lines()) {
        assert_eq!(was, is, "{name}: UPDATE_REFUSALS=1 writes the tables anew");
    }
    assert_eq!(committed.lines().count(), table.lines().count(), "{name}: lines of the table");
}
