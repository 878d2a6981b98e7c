//! A host's own part of many: what an agent keeps and decides without a network.
//!
//! An agent measures its host and carries out what a controller orders. The network may lose either for a while, so the
//! agent keeps measurements on disk until they are taken ([`Spool`]), refuses orders that are late or of an older
//! controller ([`Executor`]), and puts the baselines back when nobody has spoken to it for long ([`Silence`]). What the two
//! sides say to each other stands in [`wire`]; the controller's side is [`crate::Remote`].
//!
//! Time here is a [`Duration`] since this machine's start, by a clock that nobody sets and that goes on while the machine
//! sleeps ([`uptime`]): hosts' clocks need not agree.

mod brake;
mod executor;
mod fence;
mod restore;
mod silence;
mod spool;
mod uptime;
pub mod wire;

use serde::{Deserialize, Serialize};

pub use brake::{Brake, Braked};
pub use executor::{Delivery, Executor};
pub use fence::Fence;
pub use restore::restore_baselines;
pub use silence::{Due, Silence};
pub use spool::{Dropped, Spool};
pub use uptime::uptime;

/// How an agent behaves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AgentConfig {
    /// The controller, such as `https://tidegate.example:8642`.
    pub server: Option<String>,
    /// A file that holds the token for it, with the right `agent`.
    pub token_file: Option<std::path::PathBuf>,
    /// A file of certificates (PEM) to trust, when the controller's is signed by none that are trusted everywhere.
    pub ca_file: Option<std::path::PathBuf>,
    /// Where the face of the original's NodeRescaler listens, such as `127.0.0.1:8000`; nowhere by default.
    pub rescaler_listen: Option<std::net::SocketAddr>,
    /// Lets it listen outside loopback: it knows no tokens, so whoever reaches it changes limits.
    pub rescaler_unprotected: bool,
    /// After how long without a word from the controller nothing is changed any more, in seconds.
    pub hold_after_s: u64,
    /// After how long without a word from the controller all baselines are put back, in seconds; 0 never.
    pub restore_after_s: u64,
    /// An order that may be older than this is refused, in ms.
    pub order_max_age_ms: u64,
    /// How many bytes of measurements are kept on disk while the controller cannot be reached; then the oldest go.
    pub buffer_max_bytes: u64,
}

impl Default for AgentConfig {
    fn default() -> Self {
        Self {
            server: None,
            token_file: None,
            ca_file: None,
            rescaler_listen: None,
            rescaler_unprotected: false,
            hold_after_s: 30,
            restore_after_s: 600,
            order_max_age_ms: 5_000,
            buffer_max_bytes: 256 << 20,
        }
    }
}
