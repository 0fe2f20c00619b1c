//! The built program on a chain in this process: a world with people on it, calls made from the
//! interface's own tables, and an adversary that tries each account of a call in every wrong way.

pub mod adversary;
pub mod calls;
pub mod world;

pub use calls::Call;
pub use world::{Channel, Person, Provider, World};
