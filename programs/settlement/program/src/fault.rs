//! Why a call fails: a refusal of ours, or one of the runtime or of a program that was called.

use pinocchio::error::ProgramError;
use settlement_interface::error::Error;

/// The number the runtime is given.
pub struct Fault(u64);

pub type Outcome<T = ()> = Result<T, Fault>;

impl From<Error> for Fault {
    #[inline(always)]
    fn from(error: Error) -> Self {
        Self(error as u64)
    }
}

impl From<ProgramError> for Fault {
    #[inline(always)]
    fn from(error: ProgramError) -> Self {
        Self(error.into())
    }
}

impl From<Fault> for ProgramError {
    #[inline(always)]
    fn from(fault: Fault) -> Self {
        fault.0.into()
    }
}
