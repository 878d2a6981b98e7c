//! One file a subcommand.

pub mod doctor;
pub mod rule;
pub mod serve;
pub mod sql;
pub mod token;
