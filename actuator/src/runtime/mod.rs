//! What only a container's runtime knows: its name and its labels.

pub(crate) mod docker;

use std::collections::BTreeMap;
use std::path::Path;

use tidegate_model::Runtime;

use crate::discovery::Identity;

/// A container's name and labels as its runtime knows them.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Described {
    pub(crate) name: Option<String>,
    pub(crate) labels: BTreeMap<String, String>,
}

/// Asks the runtime. What cannot be found out is left out: then the name from the path counts.
pub(crate) fn describe(identity: &Identity, docker_root: &Path) -> Described {
    match identity.runtime {
        Runtime::Docker => docker::describe(&identity.id, docker_root),
        _ => Described::default(),
    }
}
