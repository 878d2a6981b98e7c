//! Rules that run when samples arrive, on the real clock.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tidegate_actuator::Actuator;
use tidegate_model::{Clock, Resource, SampleBatch, SeriesKey, SystemClock, metrics};
use tidegate_policy::{Engine, PolicyConfig};
use tidegate_store::{Store, StoreConfig};
use tokio_util::sync::CancellationToken;

use crate::world::Recorder;

/// Follows the newest sample, in either direction, as fast as it may.
const FOLLOW: &str = "CREATE RULE follow
    WITH (every = 'arrival', mode = 'on', dead_band = 0, cooldown_up = '0s', cooldown_down = '0s', step_down = 1,
          warm_up = '0s', watch = '0s') AS
    SELECT host, container, resource, 2 * usage AS target, 'twice its usage' AS reason
    FROM recent(INTERVAL '10 seconds') WHERE resource = 'cpu'";

struct Live {
    store: Arc<Store>,
    actuator: Arc<Recorder>,
    engine: Arc<Engine>,
    stop: CancellationToken,
    _dir: tempfile::TempDir,
}

impl Live {
    async fn new(rules: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(SystemClock);
        // Durable as by default: what is measured is what users get.
        let store = StoreConfig { dir: dir.path().join("data"), ..StoreConfig::default() };
        let store = Store::open(store, clock.now()).unwrap();
        let actuator: Arc<Recorder> = Arc::default();
        let config = PolicyConfig { min_change_interval_ms: 0, ..PolicyConfig::default() };
        let as_actuator = Arc::clone(&actuator) as Arc<dyn Actuator>;
        let engine = Engine::new(Arc::clone(&store), as_actuator, config, clock).unwrap();
        for rule in rules {
            engine.execute(rule, "test", SystemClock.now()).await.unwrap();
        }
        let stop = CancellationToken::new();
        tokio::spawn(Arc::clone(&engine).run(stop.clone()));
        let live = Self { store, actuator, engine, stop, _dir: dir };
        // The loop looks for rules that run on arrival every now and then.
        tokio::time::sleep(Duration::from_secs(1)).await;
        live
    }

    async fn push(&self, samples: &[(&str, f64)]) {
        let (mut batch, now) = (SampleBatch::new(), SystemClock.now());
        let tags = [("host", "node0"), ("container", "web"), ("resource", "cpu")];
        for (metric, value) in samples {
            let tags = tags.map(|(key, value)| (key.to_owned(), value.to_owned()));
            batch.push(SeriesKey::new(*metric, tags), now, *value);
        }
        self.store.append(&batch, now).await.unwrap();
    }

    async fn use_cpu(&self, cores: f64) {
        self.push(&[(metrics::LIMIT, 1.0), (metrics::USAGE, cores)]).await;
    }

    /// Waits until the limit is `wanted`, for at most a minute.
    async fn limit_becomes(&self, wanted: f64) -> bool {
        let key = ("web".to_owned(), Resource::Cpu);
        let end = Instant::now() + Duration::from_secs(60);
        while Instant::now() < end {
            if self.actuator.limits.lock().get(&key).is_some_and(|limit| (limit - wanted).abs() < 1e-9) {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        false
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_runs_when_samples_arrive_that_it_reads() {
    let live = Live::new(&[FOLLOW]).await;
    let runs = || live.engine.rules()[0].last_run;
    assert_eq!(runs(), None, "nothing has arrived");
    live.push(&[("some.other.metric", 1.0)]).await;
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    assert_eq!(runs(), None, "nothing that it reads has arrived");
    for cores in [0.75, 0.3, 0.9] {
        live.use_cpu(cores).await;
        assert!(live.limit_becomes(2.0 * cores).await, "{:?}", live.engine.rules());
    }
    live.stop.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_samples_makes_it_run_at_most_ten_times_a_second() {
    let live = Live::new(&[FOLLOW]).await;
    let mut ticks = live.engine.decisions();
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(2) {
        live.use_cpu(0.5 + began.elapsed().as_secs_f64()).await;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let mut instants = std::collections::BTreeSet::new();
    while let Ok(decision) = ticks.try_recv() {
        instants.insert(decision.time);
    }
    let apart = instants.iter().zip(instants.iter().skip(1)).map(|(a, b)| b.0 - a.0).min().unwrap();
    assert!(instants.len() > 1 && apart >= 90, "{} instants, {apart} ms apart", instants.len());
    live.stop.cancel();
}

/// From a sample handed to the store until the limit is read back.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures"]
async fn measure_from_sample_to_limit() {
    let live = Live::new(&[FOLLOW]).await;
    let mut took = Vec::new();
    for n in 0..500 {
        let cores = 0.6 + f64::from(n % 7) / 10.0 + f64::from(n % 2);
        let began = Instant::now();
        live.use_cpu(cores).await;
        assert!(live.limit_becomes(2.0 * cores).await);
        took.push(began.elapsed());
        tokio::time::sleep(Duration::from_millis(130)).await;
    }
    took.sort_unstable();
    println!("from sample to limit: p50 {:?}, p99 {:?}, worst {:?}", took[250], took[495], took[499]);
}
