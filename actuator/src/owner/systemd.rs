//! systemd: `SetUnitProperties` of its manager, as `systemctl set-property --runtime` calls it. What it takes it keeps until
//! the next boot, through daemon-reload and through restarts of the unit.

use std::time::Duration;

use tidegate_model::{Limit, Resource, Write};

use crate::owner::late::Said;
use crate::owner::{MemoryWish, NotTold, Owner, Told, dbus};
use crate::quota::CpuMax;
use crate::runtime::daemon::Daemon;

/// A call takes systemd a millisecond; a busy one may take longer.
pub(super) const TIMEOUT: Duration = Duration::from_secs(2);
/// How systemd writes that there is no limit.
const INFINITY: u64 = u64::MAX;

pub(super) struct Unit<'a> {
    pub(super) systemd: &'a Daemon,
    pub(super) unit: String,
}

impl Unit<'_> {
    fn set(&self, properties: &[(&str, u64)]) -> Result<Told, NotTold> {
        let unit = &self.unit;
        let answer = self.systemd.send(|socket| dbus::set_unit_properties(socket, unit, properties, TIMEOUT));
        let answer = answer.map_err(|why| NotTold::unanswered(self.systemd, why, said(properties)))?;
        answer.map_err(|why| NotTold::new(format!("systemd refused it: {why}")))?;
        let text = |value: u64| if value == INFINITY { "infinity".to_owned() } else { value.to_string() };
        let value: Vec<String> = properties.iter().map(|(name, value)| format!("{name}={}", text(*value))).collect();
        let target = format!("systemd: SetUnitProperties {unit} (runtime)");
        Ok(Told { write: Write { target, value: value.join(" ") }, exact: true })
    }
}

impl Owner for Unit<'_> {
    fn set_cpu(&self, new: CpuMax, beside: MemoryWish, changed: bool) -> Result<Told, NotTold> {
        let mut properties = vec![cpu(new)];
        if changed {
            properties.extend(memory(beside));
        }
        self.set(&properties)
    }

    fn set_memory(&self, new: MemoryWish, beside: CpuMax, changed: bool) -> Result<Told, NotTold> {
        let mut properties = memory(new);
        if changed {
            properties.push(cpu(beside));
        }
        self.set(&properties)
    }

    /// A daemon-reload writes knobs as well as limits over what stands in the files.
    fn set_knob(
        &self,
        knob: Resource,
        value: Limit,
        beside: (CpuMax, MemoryWish),
        changed: bool,
    ) -> Result<Told, NotTold> {
        let property = if knob == Resource::MemoryHigh { "MemoryHigh" } else { "CPUWeight" };
        let mut properties = vec![(property, value.value().map_or(INFINITY, |value| value as u64))];
        if changed {
            let memory = memory(beside.1).into_iter().filter(|(name, _)| *name != property);
            properties.extend(memory.chain([cpu(beside.0)]));
        }
        self.set(&properties)
    }

    fn is_behind(&self) -> bool {
        self.systemd.is_behind()
    }
}

/// What properties make of limits and knobs.
fn said(properties: &[(&str, u64)]) -> Said {
    let limit = |name: &str, value: u64| match (name, value) {
        (_, INFINITY) => Limit::Unlimited,
        ("CPUQuotaPerSecUSec", us) => Limit::At(us as f64 / 1e6),
        (_, value) => Limit::At(value as f64),
    };
    let resource = |name: &str| match name {
        "CPUQuotaPerSecUSec" => Some(Resource::Cpu),
        "CPUWeight" => Some(Resource::CpuWeight),
        "MemoryHigh" => Some(Resource::MemoryHigh),
        "MemoryMax" => Some(Resource::Memory),
        _ => None,
    };
    properties.iter().filter_map(|(name, value)| Some((resource(name)?, limit(name, *value)))).collect()
}

/// CPU time in µs for each second, whatever the period is.
fn cpu(new: CpuMax) -> (&'static str, u64) {
    let per_second = new.quota.map_or(INFINITY, |quota| {
        (u128::from(quota) * 1_000_000 / u128::from(new.period.max(1))).min(u128::from(INFINITY - 1)) as u64
    });
    ("CPUQuotaPerSecUSec", per_second.max(1))
}

/// It writes all of a unit's memory files at once, memory.high as it knows it included.
fn memory(new: MemoryWish) -> Vec<(&'static str, u64)> {
    let bytes = |limit: Option<u64>| limit.unwrap_or(INFINITY);
    let high = new.high.map(|high| ("MemoryHigh", bytes(high)));
    high.into_iter().chain([("MemoryMax", bytes(new.max))]).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::net::UnixListener;
    use std::path::Path;
    use std::process::Command;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;
    use std::time::Instant;

    use tempfile::TempDir;
    use tidegate_model::{ContainerKey, Limit, Outcome, OutcomeStatus, Resource, TimeMs, VirtualClock};

    use super::*;
    use crate::baseline::{Life, Squeeze};
    use crate::owner::dbus::fake::{FakeSystemd, SetProperties};
    use crate::{Actuator, ActuatorConfig, Change, KnobMode, KnobRule, LocalHost, Source, WriteVia};

    const MIB: u64 = 1 << 20;

    /// A v2 tree with one service, which holds 20 MiB.
    fn tree() -> TempDir {
        let tree = tempfile::tempdir().unwrap();
        fs::write(tree.path().join("cgroup.controllers"), "cpu memory").unwrap();
        let dir = tree.path().join("system.slice/nginx.service");
        fs::create_dir_all(&dir).unwrap();
        for (file, text) in [
            ("cpu.max", "max 100000\n"),
            ("cpu.weight", "100\n"),
            ("cpu.stat", "usage_usec 0\n"),
            ("memory.current", "20971520\n"),
            ("memory.stat", "anon 1048576\nkernel 0\ninactive_file 0\n"),
            ("memory.max", "max\n"),
            ("memory.high", "max\n"),
            ("memory.events", "oom_kill 0\n"),
        ] {
            fs::write(dir.join(file), text).unwrap();
        }
        tree
    }

    /// As systemd does: it writes the files of a unit, memory.high as it knows it along with memory.max.
    fn systemd(tree: &Path) -> Option<FakeSystemd> {
        systemd_unless(tree, || false)
    }

    fn systemd_unless(tree: &Path, refuses: impl Fn() -> bool + Send + 'static) -> Option<FakeSystemd> {
        let dir = tree.join("system.slice");
        let mut high = "max".to_owned();
        FakeSystemd::start(move |call| {
            if refuses() {
                return Err("Unit nginx.service not loaded.".to_owned());
            }
            let dir = dir.join(&call.unit);
            let text = |value: u64| if value == INFINITY { "max".to_owned() } else { value.to_string() };
            for (name, value) in &call.properties {
                match name.as_str() {
                    "CPUQuotaPerSecUSec" if *value == INFINITY => fs::write(dir.join("cpu.max"), "max 100000").unwrap(),
                    "CPUQuotaPerSecUSec" => fs::write(dir.join("cpu.max"), format!("{} 100000", value / 10)).unwrap(),
                    "MemoryHigh" => {
                        high = text(*value);
                        fs::write(dir.join("memory.high"), &high).unwrap();
                    }
                    "CPUWeight" => fs::write(dir.join("cpu.weight"), text(*value)).unwrap(),
                    "MemoryMax" => {
                        fs::write(dir.join("memory.high"), &high).unwrap();
                        fs::write(dir.join("memory.max"), text(*value)).unwrap();
                    }
                    _ => return Err(format!("Cannot set property {name}, or unknown property.")),
                }
            }
            Ok(())
        })
    }

    fn host(tree: &Path, bus: &Path, write_via: WriteVia) -> (Arc<LocalHost>, Box<dyn Source>) {
        host_of(config(tree, bus, write_via))
    }

    fn config(tree: &Path, bus: &Path, write_via: WriteVia) -> ActuatorConfig {
        ActuatorConfig {
            host: "h".into(),
            mount: tree.to_owned(),
            system_bus: bus.to_owned(),
            docker_socket: "".into(),
            podman_socket: "".into(),
            write_via,
            tell_owner_every_s: 0,
            ..Default::default()
        }
    }

    fn host_of(config: ActuatorConfig) -> (Arc<LocalHost>, Box<dyn Source>) {
        let host = LocalHost::new(config).unwrap();
        let mut source = host.source();
        assert_eq!(source.collect(TimeMs(1_000)).present.len(), 1);
        (host, source)
    }

    fn apply(host: &LocalHost, resource: Resource, target: f64) -> Outcome {
        let container = ContainerKey { host: "h".into(), name: "nginx.service".into() };
        let change = Change { container, resource, target, limit_before: None, decision: "d1".into() };
        host.apply(&change, &VirtualClock::new(TimeMs(1_000)))
    }

    fn set(properties: &[(&str, u64)]) -> SetProperties {
        let properties = properties.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
        SetProperties { unit: "nginx.service".to_owned(), runtime: true, properties }
    }

    #[test]
    fn a_services_limits_go_through_systemd_in_whole_percents() {
        let tree = tree();
        let Some(systemd) = systemd(tree.path()) else { return };
        let (host, mut source) = host(tree.path(), &systemd.socket(), WriteVia::Auto);
        let cpu = apply(&host, Resource::Cpu, 0.4567);
        assert_eq!((cpu.status, cpu.limit_after), (OutcomeStatus::Applied, Some(0.46)), "{}", cpu.message);
        assert_eq!(cpu.writes[0].target, "systemd: SetUnitProperties nginx.service (runtime)");
        assert_eq!(cpu.writes[0].value, "CPUQuotaPerSecUSec=460000");
        assert_eq!(cpu.writes.len(), 1);
        assert_eq!(systemd.calls(), [set(&[("CPUQuotaPerSecUSec", 460_000)])]);
        assert_eq!(apply(&host, Resource::Cpu, 0.4567).status, OutcomeStatus::Unchanged);
        assert_eq!(apply(&host, Resource::Cpu, f64::INFINITY).limit_after, None);
        assert_eq!(systemd.calls(), [set(&[("CPUQuotaPerSecUSec", INFINITY)])]);

        let lower = apply(&host, Resource::Memory, (64 * MIB) as f64);
        assert_eq!(
            (lower.status, lower.limit_after),
            (OutcomeStatus::Applied, Some((64 * MIB) as f64)),
            "{}",
            lower.message
        );
        let no_quota = ("CPUQuotaPerSecUSec", INFINITY);
        assert_eq!(systemd.calls(), [set(&[("MemoryMax", 64 * MIB), no_quota])], "what we changed before goes along");
        let file = tree.path().join("system.slice/nginx.service/memory.high");
        assert_eq!(fs::read_to_string(&file).unwrap().trim(), "max", "the squeeze is over");
        fs::write(&file, (60 * MIB).to_string()).unwrap();
        let raise = apply(&host, Resource::Memory, (128 * MIB) as f64);
        assert_eq!(
            (raise.status, raise.limit_after),
            (OutcomeStatus::Applied, Some((128 * MIB) as f64)),
            "{}",
            raise.message
        );
        assert_eq!(systemd.calls(), [set(&[("MemoryHigh", 128 * MIB), ("MemoryMax", 128 * MIB), no_quota])]);
        assert_eq!(fs::read_to_string(&file).unwrap().trim(), (128 * MIB).to_string());
        let found = source.collect(TimeMs(2_000));
        assert!(found.drifts.is_empty());
        assert_eq!(found.present[0].baseline[&Resource::Cpu], Limit::Unlimited);
    }

    #[test]
    fn what_a_rule_makes_of_knobs_is_told_so_that_a_daemon_reload_keeps_it() {
        let tree = tree();
        let Some(systemd) = systemd(tree.path()) else { return };
        let (host, _source) = host(tree.path(), &systemd.socket(), WriteVia::Auto);
        let high = apply(&host, Resource::MemoryHigh, (32 * MIB) as f64);
        assert_eq!(
            (high.status, high.limit_after),
            (OutcomeStatus::Applied, Some((32 * MIB) as f64)),
            "{}",
            high.message
        );
        assert_eq!(systemd.calls(), [set(&[("MemoryHigh", 32 * MIB)])]);
        assert_eq!(apply(&host, Resource::CpuWeight, 200.0).status, OutcomeStatus::Applied);
        assert_eq!(systemd.calls(), [set(&[("CPUWeight", 200)])]);

        assert_eq!(apply(&host, Resource::Memory, (64 * MIB) as f64).status, OutcomeStatus::Applied);
        systemd.calls();
        let gone = apply(&host, Resource::MemoryHigh, f64::INFINITY);
        assert_eq!((gone.status, gone.limit_after), (OutcomeStatus::Applied, None), "{}", gone.message);
        let limits = [("MemoryMax", 64 * MIB), ("CPUQuotaPerSecUSec", INFINITY)];
        assert_eq!(systemd.calls(), [set(&[&[("MemoryHigh", INFINITY)], &limits[..]].concat())]);
        assert_eq!(fs::read_to_string(tree.path().join("system.slice/nginx.service/memory.high")).unwrap(), "max");
    }

    #[test]
    fn a_memory_high_of_the_configuration_is_taken_back_at_systemd_as_well() {
        for is_switched in [false, true] {
            let (tree, state) = (tree(), tempfile::tempdir().unwrap());
            let refuses = Arc::new(AtomicBool::new(false));
            let refusing = Arc::clone(&refuses);
            let Some(systemd) = systemd_unless(tree.path(), move || refusing.load(Ordering::Relaxed)) else { return };
            let start = |knobs: Vec<KnobRule>| {
                let state_dir = Some(state.path().to_owned());
                host_of(ActuatorConfig { knobs, state_dir, ..config(tree.path(), &systemd.socket(), WriteVia::Auto) })
            };
            let knobs = KnobRule { container: "*".into(), memory_high: Some("32MiB".into()), ..Default::default() };
            let high = || fs::read_to_string(tree.path().join("system.slice/nginx.service/memory.high")).unwrap();
            let tend = |host: &LocalHost, mode, seconds: i64| {
                host.tend_knobs(mode, &VirtualClock::new(TimeMs(seconds * 1_000)))
            };
            let (host, source) = start(vec![knobs]);
            tend(&host, KnobMode::Keep, 3);
            assert_eq!(high(), (32 * MIB).to_string());
            assert!(systemd.calls().is_empty(), "a knob alone goes into the file");
            assert_eq!(apply(&host, Resource::Memory, (64 * MIB) as f64).status, OutcomeStatus::Applied);
            assert_eq!(systemd.calls(), [set(&[("MemoryHigh", 32 * MIB), ("MemoryMax", 64 * MIB)])]);

            let given_back =
                set(&[("MemoryHigh", INFINITY), ("MemoryMax", 64 * MIB), ("CPUQuotaPerSecUSec", INFINITY)]);
            let (host, _source) = if is_switched {
                tend(&host, KnobMode::GiveBack, 4);
                (host, source)
            } else {
                drop((host, source));
                refuses.store(true, Ordering::Relaxed);
                let (host, source) = start(vec![]);
                tend(&host, KnobMode::Keep, 4);
                assert_eq!((high().trim(), systemd.calls().len()), ("max", 1), "the file is back and systemd refuses");
                tend(&host, KnobMode::Keep, 5);
                assert!(systemd.calls().is_empty(), "it is told again after a while");
                refuses.store(false, Ordering::Relaxed);
                drop((host, source));
                let (host, source) = start(vec![]);
                tend(&host, KnobMode::Keep, 5);
                (host, source)
            };
            assert_eq!((high().trim(), systemd.calls()), ("max", vec![given_back]));
            tend(&host, if is_switched { KnobMode::GiveBack } else { KnobMode::Keep }, 70);
            assert!(systemd.calls().is_empty(), "told once");
            let back = host.baselines.knobs(Life {
                name: "nginx.service",
                incarnation: inode(tree.path()),
                id: "nginx.service",
            });
            assert_eq!(back.is_empty(), !is_switched, "its record goes once systemd knows");
            // As a daemon-reload does: systemd writes what it knows.
            assert_eq!(apply(&host, Resource::Memory, (128 * MIB) as f64).status, OutcomeStatus::Applied);
            assert_eq!(high().trim(), "max");
        }
    }

    fn inode(tree: &Path) -> u64 {
        std::os::unix::fs::MetadataExt::ino(&fs::metadata(tree.join("system.slice/nginx.service")).unwrap())
    }

    #[test]
    fn the_squeeze_of_another_change_is_no_memory_high_to_keep() {
        let tree = tree();
        let Some(systemd) = systemd(tree.path()) else { return };
        let (host, mut source) = host(tree.path(), &systemd.socket(), WriteVia::Auto);
        assert_eq!(apply(&host, Resource::Memory, (64 * MIB) as f64).status, OutcomeStatus::Applied);
        let container = source.collect(TimeMs(2_000)).present.remove(0);
        let life = Life { name: &container.key.name, incarnation: container.incarnation, id: &container.id };
        let squeeze = Squeeze { former: Limit::Unlimited, goal: 60 * MIB };
        host.baselines.record_squeeze(life, Some(squeeze)).unwrap();
        fs::write(tree.path().join("system.slice/nginx.service/memory.high"), squeeze.goal.to_string()).unwrap();
        systemd.calls();
        assert_eq!(apply(&host, Resource::Cpu, 0.5).status, OutcomeStatus::Applied);
        assert_eq!(systemd.calls(), [set(&[("CPUQuotaPerSecUSec", 500_000), ("MemoryMax", 64 * MIB)])]);
    }

    #[test]
    fn what_systemd_carries_out_late_is_undone_at_once() {
        let tree = tree();
        let hangs = Arc::new(AtomicBool::new(false));
        let hanging = Arc::clone(&hangs);
        let waits = move || {
            while hanging.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(5));
            }
            false
        };
        let Some(systemd) = systemd_unless(tree.path(), waits) else { return };
        let (host, mut source) = host(tree.path(), &systemd.socket(), WriteVia::Auto);
        let memory = |mib: u64| apply(&host, Resource::Memory, (mib * MIB) as f64);
        assert_eq!(memory(200).status, OutcomeStatus::Applied);
        systemd.calls();
        hangs.store(true, Ordering::Relaxed);
        let lower = memory(64);
        assert!(
            lower.message.contains("systemd") && lower.message.contains("may carry this out later"),
            "{}",
            lower.message
        );
        assert!(memory(128).message.contains("has had an update"));
        hangs.store(false, Ordering::Relaxed);
        let file = tree.path().join("system.slice/nginx.service/memory.max");
        let started = Instant::now();
        // It is called late, and once more, with what stands, when it has answered.
        let mut calls = systemd.calls();
        while calls.len() < 2 {
            assert!(started.elapsed() < Duration::from_secs(10), "{calls:?}");
            thread::sleep(Duration::from_millis(20));
            calls.extend(systemd.calls());
        }
        assert_eq!(calls, [set(&[("MemoryMax", 64 * MIB)]), set(&[("MemoryMax", 128 * MIB)])]);
        assert_eq!(fs::read_to_string(file).unwrap(), (128 * MIB).to_string());
        let found = source.collect(TimeMs(5_000));
        assert!(found.drifts.is_empty(), "{:?}", found.drifts);
        assert_eq!(found.knobs.len(), 1);
    }

    #[test]
    fn our_call_is_the_one_that_busctl_makes() {
        let Some(systemd) = FakeSystemd::start(|_| Ok(())) else { return };
        let address = format!("--address=unix:path={}", systemd.socket().display());
        let name = "org.freedesktop.systemd1";
        let call = ["call", name, "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager", "SetUnitProperties"];
        let properties = ["2", "CPUQuotaPerSecUSec", "t", "460000", "MemoryMax", "t", "67108864"];
        let mut busctl = Command::new("busctl");
        busctl.arg(address).args(call).args(["sba(sv)", "a.service", "true"]).args(properties);
        match busctl.output() {
            Err(error) => return println!("SKIPPED: busctl: {error}"),
            Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr)),
        }
        let daemon = Daemon::new("systemd", &systemd.socket());
        let unit = Unit { systemd: &daemon, unit: "a.service".to_owned() };
        unit.set(&[("CPUQuotaPerSecUSec", 460_000), ("MemoryMax", 67_108_864)]).unwrap();
        let calls = systemd.calls();
        assert_eq!(calls.len(), 2);
        assert_eq!(calls[0], calls[1]);
    }

    #[test]
    fn what_systemd_refuses_is_written_to_the_file_and_told() {
        let tree = tree();
        let Some(systemd) = FakeSystemd::start(|_| Err("Unit nginx.service not loaded.".to_owned())) else { return };
        let (host, _source) = host(tree.path(), &systemd.socket(), WriteVia::Auto);
        let outcome = apply(&host, Resource::Cpu, 0.5);
        assert_eq!((outcome.status, outcome.limit_after), (OutcomeStatus::Applied, Some(0.5)));
        for part in ["not loaded", "NoSuchUnit", "cgroup file"] {
            assert!(outcome.message.contains(part), "{}", outcome.message);
        }
    }

    #[test]
    fn a_bus_that_hangs_or_is_gone_delays_a_change_and_does_not_prevent_it() {
        let tree = tree();
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("bus");
        let _listener = UnixListener::bind(&socket).unwrap();
        let (hanging, _source) = host(tree.path(), &socket, WriteVia::Auto);
        let outcome = apply(&hanging, Resource::Cpu, 0.5);
        assert_eq!((outcome.status, outcome.limit_after), (OutcomeStatus::Applied, Some(0.5)));
        assert!(outcome.message.contains("does not answer"), "{}", outcome.message);

        let (gone, _source) = host(tree.path(), Path::new("/no/such"), WriteVia::Owner);
        let outcome = apply(&gone, Resource::Cpu, 0.3);
        assert_eq!((outcome.status, outcome.limit_after), (OutcomeStatus::Refused, Some(0.5)), "{}", outcome.message);
    }
}
