//! Which CPUs a machine has, and the orders in which they can be given away.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::str::FromStr;

use crate::error::ActuatorError;

/// CPUs by socket and core. The threads of a core are in ascending order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Topology {
    /// By socket, then by core. A core's number is unique within its die only.
    pub(crate) sockets: BTreeMap<u32, BTreeMap<(u32, u32), Vec<u32>>>,
    /// The memory node of each CPU, where the kernel tells one.
    pub(crate) nodes: BTreeMap<u32, u32>,
}

/// In which order CPUs are taken. `P` stands for the first thread of a core, `L` for the others; the names are those of
/// Serverless Containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CoreOrder {
    /// Socket by socket, core by core, all threads of each.
    GroupCores,
    /// Socket by socket: the first threads of all its cores, then the others.
    GroupSockets,
    /// The first threads of all cores, socket by socket, then the others likewise: whole cores first.
    GroupThreads,
    /// Core by core, from socket to socket in turn, all threads of each.
    SpreadCores,
    /// The first threads, from socket to socket in turn, then the others.
    SpreadThreads,
}

impl FromStr for CoreOrder {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Ok(match name {
            "Group_P&L" => Self::GroupCores,
            "Group_1P_2L" => Self::GroupSockets,
            "Group_PP_LL" => Self::GroupThreads,
            "Spread_P&L" => Self::SpreadCores,
            "Spread_PP_LL" => Self::SpreadThreads,
            _ => return Err(format!("unknown order of cores '{name}'")),
        })
    }
}

impl Topology {
    /// Reads what is below `devices`, which is `/sys/devices/system`.
    ///
    /// # Errors
    /// The list of online CPUs or a CPU's place cannot be read.
    pub(crate) fn read(devices: &Path) -> Result<Self, ActuatorError> {
        let mut found = Self::default();
        for cpu in read_list(&devices.join("cpu/online"))? {
            let place = devices.join(format!("cpu/cpu{cpu}/topology"));
            let socket = number(&place.join("physical_package_id"))?;
            // Kernels before 5.1 have no dies; some virtual machines tell a die of -1.
            let die = number(&place.join("die_id")).unwrap_or(0);
            let core = number(&place.join("core_id"))?;
            found.sockets.entry(socket).or_default().entry((die, core)).or_default().push(cpu);
        }
        for entry in fs::read_dir(devices.join("node")).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let Some(node) = name.to_str().and_then(|name| name.strip_prefix("node")?.parse::<u32>().ok()) else {
                continue;
            };
            // A node that has memory and no CPUs has an empty list.
            let cpus = read_list(&entry.path().join("cpulist")).unwrap_or_default();
            found.nodes.extend(cpus.into_iter().map(|cpu| (cpu, node)));
        }
        Ok(found)
    }

    /// All CPUs in an order. Spreading begins with the last socket, as the original does.
    pub(crate) fn order(&self, order: CoreOrder) -> Vec<u32> {
        let grouped: Vec<(usize, &Vec<u32>)> = self
            .sockets
            .values()
            .enumerate()
            .flat_map(|(at, cores)| cores.values().map(move |core| (at, core)))
            .collect();
        let deepest = self.sockets.values().map(BTreeMap::len).max().unwrap_or(0);
        let spread: Vec<&Vec<u32>> = (0..deepest)
            .flat_map(|at| self.sockets.values().rev().filter_map(move |cores| cores.values().nth(at)))
            .collect();
        let all = |cores: &[&Vec<u32>]| cores.iter().flat_map(|core| core.iter().copied()).collect::<Vec<u32>>();
        let by_thread = |cores: &[&Vec<u32>]| {
            let most = cores.iter().map(|core| core.len()).max().unwrap_or(0);
            (0..most).flat_map(|thread| cores.iter().filter_map(move |core| core.get(thread).copied())).collect()
        };
        let cores: Vec<&Vec<u32>> = grouped.iter().map(|(_, core)| *core).collect();
        match order {
            CoreOrder::GroupCores => all(&cores),
            CoreOrder::GroupThreads => by_thread(&cores),
            CoreOrder::SpreadCores => all(&spread),
            CoreOrder::SpreadThreads => by_thread(&spread),
            CoreOrder::GroupSockets => (0..self.sockets.len())
                .flat_map(|socket| {
                    let of_socket: Vec<_> =
                        grouped.iter().filter(|(at, _)| *at == socket).map(|(_, core)| *core).collect();
                    by_thread(&of_socket)
                })
                .collect(),
        }
    }
}

/// The CPUs of a kernel list such as `0-3,8`, in the order in which they stand there. An empty list has none.
pub(crate) fn parse_list(text: &str) -> Option<Vec<u32>> {
    let mut cpus = Vec::new();
    for range in text.trim().split(',').filter(|range| !range.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u32, u32) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        // Kernels are built for 8192 CPUs at most; a list with more is none.
        if last < first || last > 1 << 16 {
            return None;
        }
        cpus.extend(first..=last);
    }
    Some(cpus)
}

/// The shortest kernel list of some CPUs.
pub(crate) fn list_text(cpus: impl IntoIterator<Item = u32>) -> String {
    let mut cpus: Vec<u32> = cpus.into_iter().collect();
    cpus.sort_unstable();
    cpus.dedup();
    let ranges = cpus.chunk_by(|a, b| a + 1 == *b);
    let texts: Vec<String> = ranges
        .map(|range| match range {
            [one] => one.to_string(),
            [first, .., last] => format!("{first}-{last}"),
            [] => String::new(),
        })
        .collect();
    texts.join(",")
}

fn read_list(path: &Path) -> Result<Vec<u32>, ActuatorError> {
    let text = fs::read_to_string(path).map_err(|error| ActuatorError::file("read", path, error))?;
    parse_list(&text).ok_or_else(|| ActuatorError::malformed(path, &text, "a list of CPUs"))
}

fn number(path: &Path) -> Result<u32, ActuatorError> {
    let text = fs::read_to_string(path).map_err(|error| ActuatorError::file("read", path, error))?;
    text.trim().parse().map_err(|_| ActuatorError::malformed(path, &text, "a number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_read_from_its_devices() {
        let root = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        put("cpu/online", "0-3\n");
        for (cpu, socket, core) in [(0, 0, 0), (1, 1, 0), (2, 0, 0), (3, 1, 0)] {
            put(&format!("cpu/cpu{cpu}/topology/physical_package_id"), &format!("{socket}\n"));
            put(&format!("cpu/cpu{cpu}/topology/core_id"), &format!("{core}\n"));
        }
        // Offline, and so without a place.
        fs::create_dir_all(root.path().join("cpu/cpu4")).unwrap();
        put("node/node0/cpulist", "0,2\n");
        put("node/node1/cpulist", "1,3\n");
        put("node/node2/cpulist", "\n");
        let found = Topology::read(root.path()).unwrap();
        assert_eq!(found.order(CoreOrder::GroupThreads), [0, 1, 2, 3]);
        assert_eq!(found.order(CoreOrder::GroupCores), [0, 2, 1, 3]);
        assert_eq!(found.nodes, [(0, 0), (2, 0), (1, 1), (3, 1)].into());
        assert!(Topology::read(Path::new("/no/such")).is_err());
    }

    #[test]
    fn lists_are_read_and_written_as_the_kernel_does() {
        assert_eq!(parse_list("0-3,8\n"), Some(vec![0, 1, 2, 3, 8]));
        assert_eq!(parse_list("\n"), Some(vec![]));
        for wrong in ["3-1", "a", "0-99999999", "-1"] {
            assert_eq!(parse_list(wrong), None, "{wrong}");
        }
        assert_eq!(list_text([8, 0, 1, 2, 3, 10, 11, 1]), "0-3,8,10-11");
        assert_eq!(list_text([]), "");
    }
}
