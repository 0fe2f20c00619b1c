use pinocchio::{AccountView, Address};
use settlement_interface::{
    Key,
    error::Error,
    event::Slashed,
    instruction::Slash,
    rules, seeds, staking,
    state::{Balance, Config, Stake},
    statement::Lease,
};

use crate::{
    Call,
    access::{check_balance, load, load_mut, signed},
    chain::{emit, now},
    fault::Outcome,
    signatures::{instructions, statements},
};

/// Take a penalty from a stake whose slot was let twice. Anyone may call; no pause stops it.
///
/// # Accounts expected
/// 0. `[signer]` reporter
/// 1. `[]` config
/// 2. `[writable]` stake
/// 3. `[writable]` reporter_balance: the reporter's, of the stake's mint
/// 4. `[writable]` first_balance: of the first lease's payer, or the address it would have
/// 5. `[writable]` second_balance: of the second lease's payer, or the address it would have
/// 6. `[writable]` treasury_balance: the treasury's, of the stake's mint
/// 7. `[]` instructions: the sysvar
#[inline(never)]
pub fn process(call: &mut Call) -> Outcome {
    let args = Slash::read(call.arguments)?;
    let [
        reporter,
        config,
        stake,
        reporter_balance,
        first_balance,
        second_balance,
        treasury_balance,
        sysvar,
        ..,
    ] = &mut *call.accounts
    else {
        return Err(Error::MissingAccount.into());
    };
    signed(reporter)?;
    let reporter = reporter.address().to_bytes();
    let (domain, treasury, unbond_s, slash_bps) = {
        let config = load::<Config>(config, call.program)?;
        (config.domain, config.treasury, config.unbond_s(), config.slash_bps())
    };
    let address = stake.address().to_bytes();
    let now = now()?;
    let (mint, first, second, penalty) = {
        let mut record = load_mut::<Stake>(stake, call.program)?;
        let leases = Evidence { sysvar, args: &args, stake: &record, address: &address };
        let (first, second) = leases.read()?;
        staking::check_double_sale(&first, &second)?;
        staking::check_lease_time(&first, &record, unbond_s, now)?;
        staking::check_lease_time(&second, &record, unbond_s, now)?;
        let penalty = staking::penalty(&record, slash_bps)?;
        staking::punish(&mut record, &penalty, now)?;
        (record.mint, first.payer, second.payer, penalty)
    };
    // One Balance may be named in several places: each share is credited before the next is looked at.
    let victim = |balance: &mut AccountView, payer: &Key| -> Outcome<u64> {
        if balance.owned_by(call.program) {
            credit(balance, payer, &mint, penalty.to_payer, call.program)?;
            return Ok(penalty.to_payer);
        }
        check_absent(balance.address(), &[seeds::BALANCE, &domain, payer, &mint], call.program)?;
        Ok(0)
    };
    let to_first = victim(first_balance, &first)?;
    let to_second = victim(second_balance, &second)?;
    // What an absent payer does not get is the treasury's.
    let to_treasury =
        penalty.to_treasury + (penalty.to_payer - to_first) + (penalty.to_payer - to_second);
    credit(reporter_balance, &reporter, &mint, penalty.to_reporter, call.program)?;
    credit(treasury_balance, &treasury, &mint, to_treasury, call.program)?;
    emit(
        &Slashed {
            stake: address,
            mint,
            reporter,
            first_payer: first,
            second_payer: second,
            treasury,
            from_bonded: penalty.from_bonded,
            from_unbonding: penalty.from_unbonding,
            to_reporter: penalty.to_reporter,
            to_first,
            to_second,
            to_treasury,
            watermark: now,
        }
        .bytes(),
    );
    Ok(())
}

/// Where the two leases are said to be.
struct Evidence<'a> {
    sysvar: &'a AccountView,
    args: &'a Slash,
    stake: &'a Stake,
    address: &'a Key,
}

impl Evidence<'_> {
    /// Both leases, each verified and the stake's own.
    #[inline(always)]
    fn read(&self) -> Outcome<(Lease, Lease)> {
        let entries = [self.args.first, self.args.second];
        let all = instructions(self.sysvar)?;
        statements(&all, self.args.ed_ix, entries, Lease::SIZE, |[first, second]| {
            let first = staking::lease(&first, self.address, self.stake)?;
            let second = staking::lease(&second, self.address, self.stake)?;
            Ok((first, second))
        })
    }
}

/// Add to what is available of this owner's Balance of this mint.
#[inline(always)]
fn credit(
    balance: &mut AccountView,
    owner: &Key,
    mint: &Key,
    amount: u64,
    program: &Address,
) -> Outcome {
    let mut record = load_mut::<Balance>(balance, program)?;
    check_balance(&record, owner, mint)?;
    let available = rules::add(record.available(), amount)?;
    record.set_available(available);
    Ok(())
}

/// Refuses unless this is the one address these seeds give: then an account there that is not the
/// program's shows that there is none of the program's.
#[inline(never)]
fn check_absent(account: &Address, seeds: &[&[u8]], program: &Address) -> Outcome {
    let (address, _) = Address::find_program_address(seeds, program);
    if address != *account {
        return Err(Error::WrongAddress.into());
    }
    Ok(())
}
