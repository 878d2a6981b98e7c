//! One file a subcommand.

pub mod backup;
pub mod check;
pub mod doctor;
pub mod restore;
pub mod rule;
pub mod serve;
pub mod sql;
pub mod token;
