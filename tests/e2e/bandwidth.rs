//! A rule about a bandwidth, from its first sample to the explained decision: what disks and the network have in common.

use std::ops::RangeInclusive;
use std::time::Duration;

use serde_json::Value;

use super::support::{Server, TestContainers, wait_for};

pub const LONG: Duration = Duration::from_secs(240);
pub const MIB: f64 = 1_048_576.0;

/// A server without the default rules, and the resource that a load uses.
pub struct Bandwidth {
    pub server: Server,
    resource: &'static str,
}

impl Bandwidth {
    pub fn start(containers: &TestContainers, resource: &'static str) -> Self {
        let settings = [containers.settings(), vec!["--install-default-rules".into(), "false".into()]].concat();
        Self { server: Server::start(&settings.iter().map(String::as_str).collect::<Vec<_>>()), resource }
    }

    pub fn recent(&self, column: &str) -> Option<f64> {
        let sql = format!("SELECT {column} FROM recent(INTERVAL '5 seconds') WHERE resource = '{}'", self.resource);
        self.server.number(&sql)
    }

    /// What the load gets in ten seconds without a limit, and without a number for one.
    pub fn free(&self) -> f64 {
        let counted = format!("SELECT count(*) FROM usage WHERE resource = '{}' AND value > 0", self.resource);
        wait_for("ten seconds of usage", LONG, || self.server.number(&counted).filter(|samples| *samples >= 10.0));
        let free = self.recent("usage_avg").unwrap();
        println!("{}: {:.1} MiB/s without a limit", self.resource, free / MIB);
        assert_eq!(self.recent("allocated"), None);
        free
    }

    /// A rule limits it, and then the load gets a share of the limit that is in a range.
    pub fn follows(&self, limit: f64, share: RangeInclusive<f64>) {
        let rule = format!(
            "CREATE OR REPLACE RULE bandwidth WITH (every = '1s', mode = 'on', cooldown_down = '1s', step_down = 1.0) AS \
             SELECT host, container, resource, {limit:.1} AS target, 'a share of what it had' AS reason \
             FROM recent(INTERVAL '10 seconds') WHERE resource = '{}'",
            self.resource
        );
        let (status, text) = self.server.post("/api/v1/sql", &[], rule.as_bytes());
        assert_eq!(status, 200, "{text}");
        wait_for("the limit", LONG, || self.recent("allocated").filter(|allocated| *allocated == limit));
        let got = wait_for("usage to follow the limit", LONG, || {
            let (got, least) = (self.recent("usage_avg")?, self.recent("samples")?);
            (least >= 4.0 && share.contains(&(got / limit))).then_some(got)
        });
        println!("{}: {:.1} MiB/s of {:.1} MiB/s", self.resource, got / MIB, limit / MIB);
    }

    /// Two limits were written, each once, and the second is explained in these words.
    pub fn is_explained(&self, words: &str) {
        let decided =
            "SELECT id, message FROM decisions WHERE rule = 'bandwidth' AND outcome = 'applied' ORDER BY time";
        let decisions = self.server.sql(decided);
        assert_eq!(decisions.len(), 2, "each limit is written once: {decisions:?}");
        assert!(decisions[0][1].as_str().unwrap().starts_with("unlimited to "), "{decisions:?}");
        let id = decisions[1][0].as_str().unwrap();
        let explained: Value = self.server.get(&format!("/api/v1/decisions/{id}/explain")).unwrap();
        assert!(explained.to_string().contains(words), "{explained}");
    }

    /// The kill switch takes the limit away again.
    pub fn restore(&self) {
        let restored = self.server.command(&["freeze", "--restore"]);
        assert!(restored.status.success(), "{restored:?}");
    }

    /// The load has it to itself again: it gets more than `rate`.
    pub fn is_free_again(&self, rate: f64) {
        wait_for("the load to be free again", LONG, || self.recent("usage_avg").filter(|got| *got > rate));
    }
}
