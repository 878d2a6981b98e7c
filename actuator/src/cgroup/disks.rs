//! The disks of a host, and what limits the bandwidth of a cgroup to them.
//!
//! A limit stands for each disk by itself: the kernel knows none on several disks together. So a limit is written to all disks
//! of the host, whichever of them the container uses by now, and holds on each of them. What a container has is the highest
//! of these, and nothing where one of the disks has no limit: that is all that can be said of every disk.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::RwLock;
use tidegate_model::{CgroupVersion, Limit, Resource};

use crate::cgroup::v1;
use crate::error::ActuatorError;
use crate::knobs::setting::{Device, RATES, parse_rates};

/// Made of memory or of files on other disks: what goes there is counted where it comes to, if anywhere.
const NO_DISKS: [&str; 5] = ["loop", "ram", "zram", "fd", "sr"];

/// The whole disks of this machine, shared by all who hold a hierarchy.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disks {
    /// Where the kernel lists them; none are where this is empty.
    path: PathBuf,
    known: Arc<RwLock<Known>>,
}

#[derive(Debug, Default)]
struct Known {
    /// Of all block devices: as long as no other comes or goes, there is nothing to look at.
    names: BTreeSet<OsString>,
    disks: Arc<[Device]>,
}

impl Disks {
    /// The disks listed at `path`, as `/sys/block` is.
    pub(crate) fn at(path: &Path) -> Self {
        let disks = Self { path: path.to_owned(), known: Arc::default() };
        disks.refresh();
        disks
    }

    /// Looks again; true when there are others than before.
    pub(crate) fn refresh(&self) -> bool {
        let Ok(entries) = fs::read_dir(&self.path) else { return false };
        let names: BTreeSet<OsString> = entries.flatten().map(|entry| entry.file_name()).collect();
        if names == self.known.read().names {
            return false;
        }
        let disks = list(&self.path, &names);
        let mut known = self.known.write();
        let is_new = *known.disks != *disks;
        *known = Known { names, disks: disks.into() };
        is_new
    }

    pub(crate) fn devices(&self) -> Arc<[Device]> {
        Arc::clone(&self.known.read().disks)
    }
}

/// Partitions have no limits of their own. Where there is hardware behind a disk, what is stacked on top of it (LVM, RAID)
/// is not limited once more: the kernel remembers whose a request is on its way down.
fn list(path: &Path, names: &BTreeSet<OsString>) -> Vec<Device> {
    let mut disks = Vec::new();
    for name in names {
        let dir = path.join(name);
        let text = |file: &str| fs::read_to_string(dir.join(file)).unwrap_or_default();
        let is_none = NO_DISKS.iter().any(|kind| {
            let number = name.to_str().and_then(|name| name.strip_prefix(kind));
            number.is_some_and(|number| number.bytes().all(|digit| digit.is_ascii_digit()))
        });
        // A path of a multipath NVMe disk is hidden, and an empty card reader has no size.
        if is_none || text("hidden").trim() == "1" || text("size").trim() == "0" {
            continue;
        }
        disks.extend(Device::parse(text("dev").trim()).map(|device| (device, dir.join("device").exists())));
    }
    let is_hardware_known = disks.iter().any(|(_, is_hardware)| *is_hardware);
    let mut disks: Vec<Device> =
        disks.into_iter().filter(|(_, is_hardware)| *is_hardware || !is_hardware_known).map(|(disk, _)| disk).collect();
    disks.sort_unstable();
    disks
}

/// The place of a resource's rate in [`RATES`], and of its file in [`v1::THROTTLES`].
pub(crate) fn rate_of(resource: Resource) -> usize {
    usize::from(resource == Resource::DiskWrite)
}

/// What the file of a resource says of the disks of the host: `io.max`, or with v1 that of the rate.
pub(crate) fn limit(
    text: &str,
    version: CgroupVersion,
    resource: Resource,
    disks: &[Device],
    path: &Path,
) -> Result<Limit, ActuatorError> {
    let malformed = || ActuatorError::malformed(path, text, "limits of devices");
    let mut limits = Vec::with_capacity(disks.len());
    for line in text.lines() {
        let (device, limit) = line.split_once(' ').ok_or_else(malformed)?;
        let Some(device) = Device::parse(device).filter(|device| disks.contains(device)) else { continue };
        let rate = match version {
            CgroupVersion::V1 => Some(limit.trim().parse().map_err(|_| malformed())?).filter(|rate| *rate > 0),
            CgroupVersion::V2 => parse_rates(limit).ok_or_else(malformed)?[rate_of(resource)].flatten(),
        };
        limits.extend(rate.map(|rate: u64| (device, rate)));
    }
    let is_everywhere = disks.iter().all(|disk| limits.iter().any(|(limited, _)| limited == disk));
    let highest = limits.iter().map(|(_, rate)| *rate).max();
    Ok(highest.filter(|_| is_everywhere).map_or(Limit::Unlimited, |rate| Limit::At(rate as f64)))
}

/// What is written for one disk: the file, and the line. Rates of v2 that are not named keep their values.
pub(crate) fn line(
    version: CgroupVersion,
    resource: Resource,
    disk: Device,
    rate: Option<u64>,
) -> (&'static str, String) {
    let at = rate_of(resource);
    match version {
        CgroupVersion::V1 => (v1::THROTTLES[at], format!("{disk} {}", rate.unwrap_or(0))),
        CgroupVersion::V2 => {
            let rate = rate.map_or_else(|| "max".to_owned(), |rate| rate.to_string());
            (super::v2::IO_MAX, format!("{disk} {}={rate}", RATES[at]))
        }
    }
}

/// The file that holds the limits of a resource.
pub(crate) fn file(version: CgroupVersion, resource: Resource) -> &'static str {
    match version {
        CgroupVersion::V1 => v1::THROTTLES[rate_of(resource)],
        CgroupVersion::V2 => super::v2::IO_MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SDA: Device = Device { major: 8, minor: 0 };
    const SDB: Device = Device { major: 8, minor: 16 };

    fn of(text: &str, version: CgroupVersion, resource: Resource, disks: &[Device]) -> Option<f64> {
        limit(text, version, resource, disks, Path::new("/x")).unwrap().value()
    }

    #[test]
    fn a_limit_is_the_highest_of_all_disks_and_none_where_one_has_none() {
        use CgroupVersion::{V1, V2};
        use Resource::{DiskRead, DiskWrite};

        let both = "8:0 rbps=5 wbps=max riops=max wiops=max\n8:16 rbps=7 wbps=9 riops=1 wiops=max\n";
        assert_eq!(of(both, V2, DiskRead, &[SDA, SDB]), Some(7.0));
        assert_eq!(of(both, V2, DiskWrite, &[SDA, SDB]), None);
        assert_eq!(of(both, V2, DiskWrite, &[SDB]), Some(9.0));
        assert_eq!(
            of("8:0 5\n253:0 9\n", V1, DiskRead, &[SDA]),
            Some(5.0),
            "of what is no disk of the host nothing counts"
        );
        assert_eq!(of("8:0 5\n", V1, DiskRead, &[SDA, SDB]), None);
        assert_eq!(of("", V1, DiskRead, &[SDA]), None);
        assert_eq!(of("8:0 5\n", V1, DiskRead, &[]), None, "where no disk is known there is no limit");
        assert!(limit("8:0\n", V1, DiskRead, &[SDA], Path::new("/x")).is_err());
        assert!(limit("8:0 rbps=x\n", V2, DiskRead, &[SDA], Path::new("/x")).is_err());
    }

    #[test]
    fn a_line_names_one_rate_of_one_disk() {
        use CgroupVersion::{V1, V2};
        use Resource::{DiskRead, DiskWrite};

        assert_eq!(line(V2, DiskWrite, SDB, Some(5)), ("io.max", "8:16 wbps=5".to_owned()));
        assert_eq!(line(V2, DiskRead, SDA, None), ("io.max", "8:0 rbps=max".to_owned()));
        assert_eq!(line(V1, DiskWrite, SDA, Some(5)), ("blkio.throttle.write_bps_device", "8:0 5".to_owned()));
        assert_eq!(line(V1, DiskRead, SDA, None), ("blkio.throttle.read_bps_device", "8:0 0".to_owned()));
    }

    #[test]
    fn the_disks_of_a_host_are_whole_real_and_not_hidden() {
        let dir = tempfile::tempdir().unwrap();
        let disk = |name: &str, dev: &str, is_hardware: bool, size: &str, hidden: &str| {
            let disk = dir.path().join(name);
            fs::create_dir(&disk).unwrap();
            fs::write(disk.join("dev"), format!("{dev}\n")).unwrap();
            fs::write(disk.join("size"), format!("{size}\n")).unwrap();
            fs::write(disk.join("hidden"), format!("{hidden}\n")).unwrap();
            if is_hardware {
                fs::create_dir(disk.join("device")).unwrap();
            }
        };
        disk("loop0", "7:0", false, "8", "0");
        disk("zram0", "253:0", false, "8", "0");
        disk("dm-0", "252:0", false, "8", "0");
        let disks = Disks::at(dir.path());
        assert_eq!(disks.devices().to_vec(), [Device { major: 252, minor: 0 }], "better than none");
        disk("sdb", "8:16", true, "8", "0");
        disk("sda", "8:0", true, "8", "0");
        disk("sr0", "11:0", true, "8", "0");
        disk("sdc", "8:32", true, "0", "0");
        disk("nvme0c0n1", "259:1", true, "8", "1");
        assert!(disks.clone().refresh() && !disks.refresh());
        assert_eq!(disks.devices().to_vec(), [SDA, SDB]);
        assert!(Disks::at(&dir.path().join("none")).devices().is_empty());
    }
}
