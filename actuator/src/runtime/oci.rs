//! Kubernetes: what containerd and CRI-O write into the annotations of a running container's OCI configuration.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Deserialize;

use crate::runtime::Described;

#[derive(Deserialize)]
struct Bundle {
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

/// The keys of namespace, pod and container, of containerd and of CRI-O.
const NAMES: [[&str; 3]; 2] = [
    ["io.kubernetes.cri.sandbox-namespace", "io.kubernetes.cri.sandbox-name", "io.kubernetes.cri.container-name"],
    ["io.kubernetes.pod.namespace", "io.kubernetes.pod.name", "io.kubernetes.container.name"],
];
/// What they are called as labels.
const LABELS: [&str; 3] = ["namespace", "pod_name", "container_name"];

/// Reads `k8s.io/ID/config.json` of containerd's state directory, or `ID/userdata/config.json` of CRI-O's.
pub(super) fn read(id: &str, containerd: &Path, crio: &Path) -> Described {
    let places = [containerd.join("k8s.io").join(id), crio.join(id).join("userdata")];
    let bytes = places.iter().find_map(|bundle| fs::read(bundle.join("config.json")).ok());
    let bundle = bytes.and_then(|bytes| serde_json::from_slice::<Bundle>(&bytes).ok());
    bundle.map(describe).unwrap_or_default()
}

/// The name is `NAMESPACE.POD.CONTAINER`. Annotations that begin with `tidegate.` are labels.
fn describe(bundle: Bundle) -> Described {
    let names = NAMES.iter().find_map(|keys| {
        let [namespace, pod, container] = keys.map(|key| bundle.annotations.get(key).filter(|name| !name.is_empty()));
        Some([namespace?.clone(), pod?.clone(), container?.clone()])
    });
    let mut labels: BTreeMap<String, String> =
        bundle.annotations.into_iter().filter(|(key, _)| key.starts_with("tidegate.")).collect();
    let name = names.as_ref().map(|names| names.join("."));
    labels.extend(names.into_iter().flat_map(|names| LABELS.map(str::to_owned).into_iter().zip(names)));
    Described { name, labels, incomplete: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_of_a_pod_is_named_after_namespace_pod_and_container() {
        let root = tempfile::tempdir().unwrap();
        let (containerd, crio) = (root.path().join("containerd"), root.path().join("crio"));
        let put = |dir: &Path, text: &str| {
            fs::create_dir_all(dir).unwrap();
            fs::write(dir.join("config.json"), text).unwrap();
        };
        put(
            &containerd.join("k8s.io/abc"),
            r#"{"ociVersion":"1.1.0","annotations":{"io.kubernetes.cri.container-name":"nginx","tidegate.app":"shop",
                "io.kubernetes.cri.sandbox-name":"web-7d9.x","io.kubernetes.cri.sandbox-namespace":"default"}}"#,
        );
        put(
            &crio.join("def/userdata"),
            r#"{"annotations":{"io.kubernetes.container.name":"db","io.kubernetes.pod.name":"pg-0",
                "io.kubernetes.pod.namespace":"data"}}"#,
        );
        put(&containerd.join("k8s.io/pause"), r#"{"annotations":{"io.kubernetes.cri.container-type":"sandbox"}}"#);
        let found = read("abc", &containerd, &crio);
        assert_eq!(found.name.as_deref(), Some("default.web-7d9.x.nginx"));
        assert_eq!((found.labels["tidegate.app"].as_str(), found.labels["pod_name"].as_str()), ("shop", "web-7d9.x"));
        assert_eq!(read("def", &containerd, &crio).name.as_deref(), Some("data.pg-0.db"));
        assert_eq!(read("pause", &containerd, &crio).name, None);
        assert_eq!(read("ghi", &containerd, &crio), Described::default());
    }
}
