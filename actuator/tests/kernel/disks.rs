//! Bandwidth to disks: measured, limited on each of them, and given back.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use tidegate_actuator::agent::restore_baselines;
use tidegate_actuator::{ActuatorConfig, Collected, KnobMode, KnobRule, LocalHost, Source};
use tidegate_model::{CgroupVersion, Clock, Limit, OutcomeStatus, Resource, SystemClock, metrics};

use crate::knobs::{Further, text, with_knobs};
use crate::lab::{Lab, MIB, value};

#[test]
fn what_goes_to_a_disk_is_measured() {
    let Some(lab) = Lab::open() else { return };
    let Some(_further) = Further::make(&lab, "blkio") else { return println!("SKIPPED: no controller of disks here") };
    // The lab's own host has seen the container before it had a group for disks.
    let mut source = LocalHost::new(lab.config.clone()).unwrap().source();
    let collect = |source: &mut Box<dyn Source>| source.collect(SystemClock.now());
    let rate = |collected: &Collected, disk: Resource| {
        let mut rows = collected.samples.rows();
        rows.find(|(key, ..)| key.metric() == metrics::USAGE && key.tag("resource") == Some(disk.as_str()))
            .map(|row| row.2)
    };
    let first = collect(&mut source);
    assert_eq!((rate(&first, Resource::DiskWrite), first.problems), (None, Vec::new()), "nothing was written yet");
    let counts = ["blkio.throttle.io_service_bytes_recursive", "io.stat"];
    let is_counted = |dir: &PathBuf| counts.iter().any(|name| dir.join(name).exists());
    let Some(group) = lab.dirs("web").into_iter().find(is_counted) else {
        return println!("SKIPPED: this kernel does not count what goes to disks");
    };
    let file = tempfile::NamedTempFile::new().unwrap();
    let of = format!("of={}", file.path().display());
    // Past the page cache, of which nobody is charged for with v1; a RAM disk is none, but reading a disk itself is counted.
    let copied: &[&str] = match statfs(file.path()).unwrap().filesystem_type() {
        TMPFS_MAGIC if Path::new("/dev/vda").exists() => &["if=/dev/vda", "of=/dev/null", "skip=100"],
        TMPFS_MAGIC => return println!("SKIPPED: no file system on a disk here"),
        _ => &["if=/dev/zero", &of, "oflag=direct"],
    };
    let script = r#"echo $$ > "$0/cgroup.procs" && exec dd bs=1M count=8 "$@" 2> /dev/null"#;
    let began = Instant::now();
    assert!(Command::new("sh").args(["-c", script]).arg(&group).args(copied).status().unwrap().success());
    let collected = collect(&mut source);
    let elapsed = began.elapsed().as_secs_f64();
    let [read, written] = Resource::DISKS.map(|disk| rate(&collected, disk).unwrap());
    println!("{read} and {written} bytes a second");
    assert!((read + written) * elapsed > 4.0 * MIB);
    thread::sleep(Duration::from_millis(20));
    assert_eq!(rate(&collect(&mut source), Resource::DiskWrite), Some(0.0), "idle is zero");
}

/// Lists these devices as `/sys/block` does.
fn block_devices(devices: &[&str]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (at, device) in devices.iter().enumerate() {
        let disk = dir.path().join(format!("disk{at}"));
        fs::create_dir_all(disk.join("device")).unwrap();
        fs::write(disk.join("dev"), device).unwrap();
    }
    dir
}

/// The disk, and one or two devices that are there, as the kernel numbers them.
fn real_devices() -> Option<(String, Vec<String>)> {
    let dev = |name: &str| Some(fs::read_to_string(format!("/sys/block/{name}/dev")).ok()?.trim().to_owned());
    let disk = dev("vda").or_else(|| dev("sda"))?;
    let devices = [Some(disk.clone()), dev("loop0").or_else(|| dev("zram0"))].into_iter().flatten().collect();
    Some((disk, devices))
}

/// A lab whose host has these disks, and what says where a limit on writing stands.
fn open_with_disks(config: ActuatorConfig, devices: &tempfile::TempDir) -> Option<(Lab, Further, PathBuf)> {
    let config = ActuatorConfig { block_devices: devices.path().to_owned(), ..config };
    let mut lab = Lab::open_with(config)?;
    let Some(further) = Further::make(&lab, "blkio") else {
        println!("SKIPPED: no controller of disks here");
        return None;
    };
    // The directory of disks is looked for as long as a container is new.
    lab.collect();
    let name = if lab.version() == CgroupVersion::V1 { "blkio.throttle.write_bps_device" } else { "io.max" };
    let file = lab.file("web", name);
    Some((lab, further, file))
}

#[test]
fn bandwidth_is_limited_on_each_disk_read_back_and_given_back() {
    let Some((_, devices)) = real_devices() else { return println!("SKIPPED: no disk here") };
    let listed = block_devices(&devices.iter().map(String::as_str).collect::<Vec<_>>());
    let Some((mut lab, _further, file)) = open_with_disks(ActuatorConfig::default(), &listed) else { return };
    let limit = |collected: &Collected, disk| value(collected, metrics::LIMIT, disk);
    let first = lab.collect();
    assert_eq!((limit(&first, Resource::DiskWrite), value(&first, metrics::USAGE, Resource::DiskWrite)), (None, None));
    assert!(!first.present[0].baseline.contains_key(&Resource::DiskWrite), "nothing is known of its disks");

    let down = lab.apply(Resource::DiskWrite, 8.0 * MIB);
    assert_eq!((down.status, down.limit_after), (OutcomeStatus::Applied, Some(8.0 * MIB)), "{}", down.message);
    assert_eq!((down.writes.len(), down.message.as_str()), (devices.len(), "unlimited to 8.0 MiB/s"));
    let stands = text(&file);
    assert!(devices.iter().all(|device| stands.contains(device.as_str()) && stands.contains("8388608")), "{stands}");
    assert_eq!(lab.apply(Resource::DiskWrite, 8.0 * MIB).status, OutcomeStatus::Unchanged);
    let seen = lab.collect();
    assert_eq!((limit(&seen, Resource::DiskWrite), limit(&seen, Resource::DiskRead)), (Some(8.0 * MIB), None));
    let usage = Resource::DISKS.map(|disk| value(&seen, metrics::USAGE, disk));
    assert_eq!(usage, [Some(0.0); 2], "whoever has a limit is measured");
    assert_eq!(seen.present[0].baseline[&Resource::DiskWrite], Limit::Unlimited);

    // Reading has a limit of its own, and neither touches the other.
    assert_eq!(lab.apply(Resource::DiskRead, 3.0 * MIB).status, OutcomeStatus::Applied);
    let seen = lab.collect();
    assert_eq!(
        (limit(&seen, Resource::DiskWrite), limit(&seen, Resource::DiskRead)),
        (Some(8.0 * MIB), Some(3.0 * MIB))
    );

    // What somebody else makes of it is seen, and left alone for a while.
    let key = if lab.version() == CgroupVersion::V1 { "" } else { "wbps=" };
    for device in &devices {
        fs::write(&file, format!("{device} {key}1000000")).unwrap();
    }
    let drifts = lab.collect().drifts;
    assert_eq!((drifts.len(), drifts[0].resource, drifts[0].found), (1, Resource::DiskWrite, Some(1e6)));
    assert_eq!(lab.apply(Resource::DiskWrite, 5.0 * MIB).status, OutcomeStatus::Drifted);
    for device in &devices {
        fs::write(&file, format!("{device} {key}8388608")).unwrap();
    }

    for disk in Resource::DISKS {
        let back = lab.apply(disk, f64::INFINITY);
        assert_eq!((back.status, back.limit_after), (OutcomeStatus::Applied, None), "{}", back.message);
    }
    assert_eq!(text(&file), "");
    assert_eq!(lab.apply(Resource::DiskRead, 0.0).status, OutcomeStatus::Refused);
}

#[test]
fn the_baseline_of_a_disk_is_kept_over_a_restart_and_given_back_without_a_controller() {
    let Some((disk, _)) = real_devices() else { return println!("SKIPPED: no disk here") };
    let (listed, state) = (block_devices(&[&disk]), tempfile::tempdir().unwrap());
    let config = ActuatorConfig { state_dir: Some(state.path().to_owned()), ..Default::default() };
    let Some((mut lab, _further, file)) = open_with_disks(config, &listed) else { return };
    let key = if lab.version() == CgroupVersion::V1 { "" } else { "wbps=" };
    fs::write(&file, format!("{disk} {key}20971520")).unwrap();
    assert_eq!(lab.apply(Resource::DiskWrite, 8.0 * MIB).status, OutcomeStatus::Applied);
    assert!(text(&file).contains("8388608"), "{}", text(&file));

    lab.host = LocalHost::new(lab.config.clone()).unwrap();
    lab.source = lab.host.source();
    assert_eq!(lab.collect().present[0].baseline[&Resource::DiskWrite], Limit::At(20.0 * MIB));
    assert_eq!(lab.apply(Resource::DiskWrite, 5.0 * MIB).status, OutcomeStatus::Applied);
    let reports = restore_baselines(&lab.host, "the controller is silent", &|| None, &SystemClock);
    let restored: Vec<_> = reports.iter().map(|report| (report.resource, report.outcome.status)).collect();
    assert_eq!(restored, [(Resource::DiskWrite, OutcomeStatus::Applied)], "nothing else was changed");
    assert!(text(&file).contains("20971520"), "{}", text(&file));
}

#[test]
fn a_disk_that_cannot_be_limited_leaves_no_limit_on_the_others() {
    let Some((disk, _)) = real_devices() else { return println!("SKIPPED: no disk here") };
    let listed = block_devices(&[&disk, "4095:7"]);
    let Some((lab, _further, file)) = open_with_disks(ActuatorConfig::default(), &listed) else { return };
    let refused = lab.apply(Resource::DiskWrite, 8.0 * MIB);
    assert_eq!((refused.status, refused.limit_after), (OutcomeStatus::Refused, None));
    assert!(refused.message.contains("no such disk any more"), "{}", refused.message);
    assert_eq!(text(&file), "");

    // Limits that differ were set by somebody, and could not be put back by one number.
    let Some((_, devices)) = real_devices().filter(|(_, devices)| devices.len() > 1) else { return };
    let listed = block_devices(&[&devices[0], &devices[1]]);
    drop((lab, _further));
    let Some((lab, _further, file)) = open_with_disks(ActuatorConfig::default(), &listed) else { return };
    let key = if lab.version() == CgroupVersion::V1 { "" } else { "wbps=" };
    fs::write(&file, format!("{disk} {key}1000000")).unwrap();
    let refused = lab.apply(Resource::DiskWrite, 8.0 * MIB);
    assert_eq!((refused.status, refused.writes.len()), (OutcomeStatus::Refused, 0), "{}", refused.message);
    assert!(refused.message.contains("different limits"), "{}", refused.message);
}

#[test]
fn a_configured_rate_is_refused_to_rules_and_one_that_is_not_stays_theirs() {
    let Some((disk, _)) = real_devices() else { return println!("SKIPPED: no disk here") };
    let listed = block_devices(&[&disk]);
    let io_max = vec![format!("{disk} wbps=10MiB riops=500")];
    let config = with_knobs(KnobRule { io_max, ..Default::default() });
    let Some((mut lab, _further, file)) = open_with_disks(config, &listed) else { return };
    let knob = format!("io.max {disk}");
    assert_eq!(lab.tend(KnobMode::Keep), [(knob.clone(), OutcomeStatus::Applied)]);
    let write = lab.apply(Resource::DiskWrite, 8.0 * MIB);
    assert_eq!(write.status, OutcomeStatus::Refused);
    assert!(write.message.contains("sets io.max") && write.message.contains("no rule limits disk_write"), "{write:?}");
    assert!(text(&file).contains("10485760"), "{}", text(&file));
    assert_eq!(lab.apply(Resource::DiskRead, 3.0 * MIB).status, OutcomeStatus::Applied);
    assert!(lab.tend(KnobMode::Keep).is_empty(), "the rate that it does not name is none of its affair");
    assert!(lab.collect().drifts.is_empty());

    // The kill switch gives back both, in whatever order.
    assert_eq!(lab.tend(KnobMode::GiveBack), [(knob, OutcomeStatus::Applied)]);
    assert_eq!(
        value(&lab.collect(), metrics::LIMIT, Resource::DiskRead),
        Some(3.0 * MIB),
        "a rule's limit is not the knob's"
    );
    assert_eq!(lab.apply(Resource::DiskRead, f64::INFINITY).status, OutcomeStatus::Applied);
    assert_eq!(text(&file), "");
}
