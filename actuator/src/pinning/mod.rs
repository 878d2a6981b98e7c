//! Giving containers CPUs of their own: whole cores first, socket by socket.
//!
//! A CPU's time is a hundred shares. A container with a limit of 2.5 cores holds 250 of them, on as few CPUs as there are
//! free; together no more than a hundred of any CPU are given away, so nobody waits for a CPU that somebody else's limit
//! entitles them to. The arithmetic is pure: [`topology`] says which CPUs there are and in which order they are taken,
//! [`cores`] who holds what, [`pins`] makes a container's cpuset of it.

pub(crate) mod cores;
pub(crate) mod pins;
pub(crate) mod topology;

pub(crate) use topology::{Topology, list_text, parse_list};

#[cfg(test)]
mod reference;
