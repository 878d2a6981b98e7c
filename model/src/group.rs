//! Groups: apps, which are several containers, and users, who have several apps.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::container::{Container, ContainerKey};

/// Which kind of group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GroupKind {
    /// Several containers.
    App,
    /// Several apps, and the containers of the user that belong to none.
    User,
}

impl GroupKind {
    /// The name used in SQL and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            GroupKind::App => "app",
            GroupKind::User => "user",
        }
    }
}

impl fmt::Display for GroupKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for GroupKind {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "app" => Ok(GroupKind::App),
            "user" => Ok(GroupKind::User),
            _ => Err(format!("unknown kind of group '{name}': expected 'app' or 'user'")),
        }
    }
}

/// What names a group.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct GroupKey {
    /// App or user.
    pub kind: GroupKind,
    /// Its name.
    pub name: String,
}

impl fmt::Display for GroupKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

/// What the limits of a group's members may add up to, in the resource's base unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupBounds {
    /// They are not lowered to less.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<f64>,
    /// They are not raised to more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<f64>,
}

impl GroupBounds {
    /// Refuses ends that are no amounts or that leave nothing between them.
    pub fn check(&self) -> Result<(), String> {
        for (name, end) in [("min", self.min), ("max", self.max)] {
            if end.is_some_and(|end| !(end.is_finite() && end > 0.0)) {
                return Err(format!("{name} must be a number above 0; leave it out for none"));
            }
        }
        match (self.min, self.max) {
            (Some(min), Some(max)) if min > max => Err(format!("min {min} is above max {max}")),
            _ => Ok(()),
        }
    }

    /// Whether it bounds nothing.
    pub fn is_none(&self) -> bool {
        self.min.is_none() && self.max.is_none()
    }
}

/// Who belongs to which group.
///
/// An app belongs to one user at most: of several whom its containers name, the first in the alphabet, whichever container
/// comes or goes. All containers of the app are that user's then, also those that name nobody.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Membership {
    members: BTreeMap<GroupKey, Vec<ContainerKey>>,
    /// By app.
    users: BTreeMap<String, String>,
}

impl Membership {
    /// The groups of `containers`. Members stand in the order in which they come.
    pub fn of<'a>(containers: impl IntoIterator<Item = &'a Container> + Clone) -> Self {
        let mut users: BTreeMap<String, String> = BTreeMap::new();
        for container in containers.clone() {
            if let (Some(app), Some(user)) = (&container.app, &container.user) {
                let first = users.entry(app.clone()).or_insert_with(|| user.clone());
                if user < first {
                    first.clone_from(user);
                }
            }
        }
        let mut members: BTreeMap<GroupKey, Vec<ContainerKey>> = BTreeMap::new();
        for container in containers {
            let user = match &container.app {
                Some(app) => users.get(app),
                None => container.user.as_ref(),
            };
            let groups = [(GroupKind::App, container.app.as_ref()), (GroupKind::User, user)];
            for (kind, name) in groups.into_iter().filter_map(|(kind, name)| Some((kind, name?))) {
                members.entry(GroupKey { kind, name: name.clone() }).or_default().push(container.key.clone());
            }
        }
        Self { members, users }
    }

    /// All groups with members, apps first, each kind by name.
    pub fn groups(&self) -> impl Iterator<Item = (&GroupKey, &[ContainerKey])> {
        self.members.iter().map(|(group, members)| (group, members.as_slice()))
    }

    /// The containers of a group; none of one that is not known.
    pub fn members(&self, group: &GroupKey) -> &[ContainerKey] {
        self.members.get(group).map_or(&[], Vec::as_slice)
    }

    /// The user that an app belongs to.
    pub fn user_of(&self, app: &str) -> Option<&str> {
        self.users.get(app).map(String::as_str)
    }

    /// The apps of a user, by name.
    pub fn apps_of<'a>(&'a self, user: &'a str) -> impl Iterator<Item = &'a str> {
        self.users.iter().filter(move |(_, of)| *of == user).map(|(app, _)| app.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::TimeMs;
    use crate::container::{CgroupVersion, Runtime};

    fn container(name: &str, app: Option<&str>, user: Option<&str>) -> Container {
        Container {
            key: ContainerKey { host: "h".to_owned(), name: name.to_owned() },
            path: "/x".into(),
            cgroup: CgroupVersion::V2,
            runtime: Runtime::Bare,
            id: name.to_owned(),
            incarnation: 1,
            app: app.map(str::to_owned),
            user: user.map(str::to_owned),
            labels: BTreeMap::new(),
            first_seen: TimeMs(0),
            last_seen: TimeMs(0),
            baseline: BTreeMap::new(),
            bounds: BTreeMap::new(),
        }
    }

    fn names(membership: &Membership, kind: GroupKind, name: &str) -> Vec<String> {
        let members = membership.members(&GroupKey { kind, name: name.to_owned() });
        members.iter().map(|key| key.name.clone()).collect()
    }

    #[test]
    fn an_app_has_one_user_and_takes_all_its_containers_along() {
        let fleet = [
            container("a", Some("shop"), Some("bob")),
            container("b", Some("shop"), None),
            container("c", Some("shop"), Some("alice")),
            container("d", None, Some("bob")),
            container("e", Some("alone"), None),
            container("f", None, None),
        ];
        let membership = Membership::of(&fleet);
        assert_eq!(membership.user_of("shop"), Some("alice"));
        assert_eq!(membership.user_of("alone"), None);
        assert_eq!(names(&membership, GroupKind::App, "shop"), ["a", "b", "c"]);
        assert_eq!(names(&membership, GroupKind::User, "alice"), ["a", "b", "c"]);
        assert_eq!(names(&membership, GroupKind::User, "bob"), ["d"]);
        assert_eq!(membership.apps_of("alice").collect::<Vec<_>>(), ["shop"]);
        assert_eq!(membership.groups().count(), 4);
        // Whichever container is looked at first.
        assert_eq!(Membership::of(fleet.iter().rev()).user_of("shop"), Some("alice"));
    }

    #[test]
    fn bounds_are_amounts_with_room_between_them() {
        let check = |min, max| GroupBounds { min, max }.check().is_ok();
        assert!(check(None, None) && check(Some(1.0), None) && check(Some(2.0), Some(2.0)));
        assert!(!check(Some(2.0), Some(1.0)) && !check(Some(0.0), None) && !check(None, Some(f64::NAN)));
        assert!(!check(None, Some(-1.0)) && !check(Some(f64::INFINITY), None));
    }
}
