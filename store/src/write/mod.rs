//! The write path: what is accepted, under which series, and the write-ahead log that has it before anyone is told so.

pub(crate) mod append;
pub(crate) mod record;
pub(crate) mod series;
pub(crate) mod series_log;
pub(crate) mod wal;
