//! What a controller remembers of each host with an agent between its frames.

use std::collections::BTreeMap;

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
    /// Its containers, as the last frame that listed them did.
    present: Option<Vec<Container>>,
}

impl Agents {
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
            *heard = Heard { spool: spool.to_owned(), present: heard.present.take(), last: 0 };
        }
        heard.last = number;
        if present.is_some() {
            heard.present = present;
        }
    }
}
