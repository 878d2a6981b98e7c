//! What a controller remembers of each host with an agent between its frames.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tidegate_model::Container;

/// By host.
#[derive(Default)]
pub(crate) struct Agents(Mutex<BTreeMap<String, Heard>>);

/// What was heard of one host.
#[derive(Default)]
struct Heard {
    /// The agent's buffer, whose frames are counted.
    spool: String,
    /// The number of the last frame that was kept.
    last: u64,
    /// Held while frames are stored: one that was sent a second time waits for the first.
    turn: Arc<tokio::sync::Mutex<()>>,
    /// Its containers, as the last frame that listed them did.
    present: Option<Vec<Container>>,
}

impl Agents {
    /// Whose turn it is to store frames of a host.
    pub(crate) fn turn(&self, host: &str) -> Arc<tokio::sync::Mutex<()>> {
        self.0.lock().entry(host.to_owned()).or_default().turn.clone()
    }

    /// The number of the last frame of that buffer that was kept; those up to it are known already.
    pub(crate) fn last(&self, host: &str, spool: &str) -> u64 {
        let heard = self.0.lock();
        heard.get(host).filter(|heard| heard.spool == spool).map_or(0, |heard| heard.last)
    }

    /// The containers of a frame that does not list them; `None` when no frame has listed them yet.
    pub(crate) fn present(&self, host: &str) -> Option<Vec<Container>> {
        self.0.lock().get(host)?.present.clone()
    }

    /// A frame was kept.
    pub(crate) fn kept(&self, host: &str, spool: &str, number: u64, present: Option<Vec<Container>>) {
        let mut all = self.0.lock();
        let heard = all.entry(host.to_owned()).or_default();
        if heard.spool != spool {
            (heard.spool, heard.last) = (spool.to_owned(), 0);
        }
        heard.last = number;
        if present.is_some() {
            heard.present = present;
        }
    }
}
