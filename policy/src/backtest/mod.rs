//! Backtests: what a set of rules would have done to containers whose demand is known.
//!
//! The demand comes from the stored history ([`Trace::of_history`]) or from a file ([`Trace::of_file`]). It is played to a
//! simulated host whose limits bite, on a virtual clock, before the same engine, guards and store that run live: a replay
//! differs from a live host in the clock and the actuator, and in nothing else. What comes of it is added up by
//! [`score`]: how much lay idle, how much was missing, how often a limit changed.
//!
//! Of a container that was held by its limit only what it used is known, not what it wanted. Such samples count as they
//! are, as a lower bound of the demand, and the report says how many there were.

mod blind;
mod collected;
mod course;
mod file;
mod history;
mod laws;
mod pushed;
mod replay;
mod score;
mod scratch;
mod trace;

pub use course::Course;
pub use file::{Column, TraceColumns};
pub use laws::{LawScore, laws};
pub use pushed::{Pushed, pushed_metrics};
pub use replay::{Backtest, Progress, STEP};
pub use score::{ContainerScore, Figures, Report, RuleScore};
pub use trace::{Trace, Traced, Wanted};
