//! The kill switch of one host, which works without any controller.
//!
//! A file in the agent's state directory, so that it holds across restarts and can be set while the agent does not run.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tidegate_model::TimeMs;

use crate::error::ActuatorError;
use crate::state_file;

const FILE: &str = "frozen.json";

/// The switch.
#[derive(Clone, Debug)]
pub struct Brake {
    path: PathBuf,
    /// There while baselines are to be put back: a file of its own, which the agent only ever removes, so that it cannot undo
    /// what somebody says meanwhile.
    restore: PathBuf,
}

/// Who turned it on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Braked {
    /// Since when.
    pub since: TimeMs,
    /// What for; may be empty.
    #[serde(default)]
    pub why: String,
    /// Baselines were wanted, too.
    #[serde(default)]
    pub restore: bool,
}

impl Brake {
    /// The switch of the agent whose state is kept in `state_dir`.
    pub fn of(state_dir: &Path) -> Self {
        Self { path: state_dir.join(FILE), restore: state_dir.join("restore-wanted") }
    }

    /// Whether it is on. A file that cannot be read or understood means that it is: somebody wanted it on.
    pub fn is_on(&self) -> Option<Braked> {
        match state_file::read(&self.path) {
            Ok(braked) => braked,
            Err(error) => Some(Braked { since: TimeMs(0), why: error.to_string(), restore: false }),
        }
    }

    /// Turns it on; on disk when this returns.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn set(&self, braked: &Braked) -> Result<(), ActuatorError> {
        state_file::write(&self.path, braked)
    }

    /// Asks for the baselines, too.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn want_restore(&self) -> Result<(), ActuatorError> {
        std::fs::write(&self.restore, "").map_err(|error| ActuatorError::file("write", &self.restore, error))
    }

    /// Whether the baselines are to be put back.
    pub fn wants_restore(&self) -> bool {
        self.restore.exists()
    }

    /// The baselines were put back, or nobody wants them any more.
    ///
    /// # Errors
    /// The file cannot be removed: they will be put back again.
    pub fn restored(&self) -> Result<(), ActuatorError> {
        remove(&self.restore).map(drop)
    }

    /// Turns it off; false when it was off.
    ///
    /// # Errors
    /// The file cannot be removed: then it is still on.
    pub fn release(&self) -> Result<bool, ActuatorError> {
        self.restored()?;
        remove(&self.path)
    }
}

fn remove(path: &Path) -> Result<bool, ActuatorError> {
    match std::fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(ActuatorError::file("remove", path, error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_on_until_it_is_released_and_when_in_doubt() {
        let dir = tempfile::tempdir().unwrap();
        let brake = Brake::of(dir.path());
        assert_eq!(brake.is_on(), None);
        let on = Braked { since: TimeMs(5), why: "drill".to_owned(), restore: true };
        brake.set(&on).unwrap();
        assert_eq!(Brake::of(dir.path()).is_on(), Some(on));
        std::fs::write(dir.path().join(FILE), "{").unwrap();
        assert!(brake.is_on().unwrap().why.contains("frozen.json"));
        brake.want_restore().unwrap();
        assert!(brake.wants_restore());
        assert!(brake.release().unwrap() && !brake.release().unwrap());
        assert!(!brake.wants_restore(), "a thaw ends that, too");
        assert_eq!(brake.is_on(), None);
    }
}
