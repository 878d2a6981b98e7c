//! What something used, was allocated and had reserved over a range of time.

mod cover;
mod ledger;
mod read;
mod reserved;

pub(crate) use ledger::{Grid, Ledger, Sums};
pub(crate) use read::{Reading, counts, kills, read};
pub(crate) use reserved::{Reserved, ReservedBy, reserved};
