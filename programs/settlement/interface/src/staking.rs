//! The rules about stakes: leaving, keys, and what a slot let twice costs.

use crate::{
    BPS, Key, MAX_SLASH_BPS, ROTATION_GRACE_S,
    error::{Error, Result},
    rules::{Verified, add},
    state::Stake,
    statement::Lease,
};

/// `time + seconds`, or a refusal.
#[inline(always)]
fn after(time: i64, seconds: u64) -> Result<i64> {
    time.checked_add_unsigned(seconds).ok_or(Error::Overflow)
}

/// Begin to take `amount` out of what is bonded, and start the clock of all that is unbonding anew.
///
/// Whoever takes less than an unbonding time ago lets no lease escape: one that began before this
/// is evidence for just as long as the money stays.
#[inline(always)]
pub fn unstake(stake: &mut Stake, amount: u64, unbond_s: u64, now: i64) -> Result<()> {
    if amount == 0 {
        return Err(Error::ZeroAmount);
    }
    let left = stake.bonded().checked_sub(amount).ok_or(Error::InsufficientFunds)?;
    stake.set_unbonding(add(stake.unbonding(), amount)?);
    stake.set_unbond_at(after(now, unbond_s)?);
    stake.set_bonded(left);
    Ok(())
}

/// Take out all that is unbonding, provided its time is over. Until then, and until somebody asks,
/// it can be slashed.
#[inline(always)]
pub fn claim_unbonded(stake: &mut Stake, now: i64) -> Result<u64> {
    let amount = stake.unbonding();
    if amount == 0 {
        return Err(Error::ZeroAmount);
    }
    if now < stake.unbond_at() {
        return Err(Error::UnbondingNotOver);
    }
    stake.set_unbonding(0);
    stake.set_unbond_at(0);
    Ok(amount)
}

/// Let `node_key` sign from `now` on.
///
/// The key before it is remembered until none of its leases is evidence any more; only then may it
/// be forgotten for another.
#[inline(always)]
pub fn rotate_key(stake: &mut Stake, node_key: &Key, unbond_s: u64, now: i64) -> Result<()> {
    if *node_key == [0; 32] {
        return Err(Error::ZeroKey);
    }
    let rotated = stake.prev_key != [0; 32];
    let again_at = after(after(stake.rotated_at(), unbond_s)?, ROTATION_GRACE_S)?;
    if rotated && now < again_at {
        return Err(Error::RotationTooSoon);
    }
    stake.prev_key = stake.node_key;
    stake.node_key = *node_key;
    stake.set_rotated_at(now);
    Ok(())
}

/// The lease that `statement` is, provided it is one of this stake, signed by its key, or by the key
/// before it for a time when that still counted.
#[inline(always)]
pub fn lease(statement: &Verified, address: &Key, stake: &Stake) -> Result<Lease> {
    let lease = Lease::read(statement.message)?;
    let current = statement.key == stake.node_key;
    let before = stake.prev_key != [0; 32]
        && statement.key == stake.prev_key
        && lease.start < after(stake.rotated_at(), ROTATION_GRACE_S)?;
    if lease.stake != *address || !(current || before) {
        return Err(Error::WrongLease);
    }
    Ok(lease)
}

/// Refuses unless the two leases let one slot to two payers for one moment.
///
/// One payer's leases may overlap as they like: they are ticks of one job, or of jobs that share.
#[inline(always)]
pub fn check_double_sale(first: &Lease, second: &Lease) -> Result<()> {
    // This is true only of two leases that each end after they begin.
    let moment = first.start.max(second.start) < first.end.min(second.end);
    let slot = first.slots & second.slots != 0;
    if !moment || !slot || first.payer == second.payer {
        return Err(Error::NoDoubleSale);
    }
    Ok(())
}

/// Refuses a lease that has not begun, that began before the last penalty, or that began so long ago
/// that the money behind it may have left.
#[inline(always)]
pub fn check_lease_time(lease: &Lease, stake: &Stake, unbond_s: u64, now: i64) -> Result<()> {
    let oldest = now.checked_sub_unsigned(unbond_s).ok_or(Error::Overflow)?;
    if lease.start > now || lease.start <= stake.watermark() || lease.start <= oldest {
        return Err(Error::LeaseOutOfTime);
    }
    Ok(())
}

/// What a penalty takes, and who gets it. The treasury has the rest of the division.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Penalty {
    pub from_bonded: u64,
    pub from_unbonding: u64,
    pub to_reporter: u64,
    /// Each of the two.
    pub to_payer: u64,
    pub to_treasury: u64,
}

/// The penalty for one double sale, rounded down.
///
/// What is unbonding pays first: it would be the first to leave, so what stays can be slashed for
/// longest.
#[inline(always)]
pub fn penalty(stake: &Stake, slash_bps: u16) -> Result<Penalty> {
    if slash_bps > MAX_SLASH_BPS {
        return Err(Error::SettingOutOfRange);
    }
    let all = add(stake.bonded(), stake.unbonding())?;
    let bps = u64::from(slash_bps);
    // all / 10⁴ × 5 000 < 2⁶⁴, and 10⁴ × 5 000 is small.
    let amount = add((all / BPS).wrapping_mul(bps), (all % BPS).wrapping_mul(bps) / BPS)?;
    if amount == 0 {
        return Err(Error::NothingToSlash);
    }
    let from_unbonding = amount.min(stake.unbonding());
    let (to_reporter, to_payer) = (amount / 10, amount / 5);
    Ok(Penalty {
        from_bonded: amount - from_unbonding,
        from_unbonding,
        to_reporter,
        to_payer,
        to_treasury: amount - to_reporter - to_payer - to_payer,
    })
}

/// Take the penalty out of the stake. Every lease that began until `now` is paid for by it.
#[inline(always)]
pub fn punish(stake: &mut Stake, penalty: &Penalty, now: i64) -> Result<()> {
    let bonded = stake.bonded().checked_sub(penalty.from_bonded).ok_or(Error::Overflow)?;
    let unbonding = stake.unbonding().checked_sub(penalty.from_unbonding).ok_or(Error::Overflow)?;
    stake.set_bonded(bonded);
    stake.set_unbonding(unbonding);
    if unbonding == 0 {
        stake.set_unbond_at(0);
    }
    // A count that nothing depends on: at its end it stays there, and no penalty fails for it.
    let taken = penalty.from_bonded.saturating_add(penalty.from_unbonding);
    stake.set_slashed(stake.slashed().saturating_add(taken));
    stake.set_watermark(now);
    Ok(())
}
