//! Which controller is obeyed: never one that is older than one obeyed before.

use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::error::ActuatorError;
use crate::state_file;

const FILE: &str = "fence.json";

/// The highest epoch that was obeyed and whose it was, on disk before anything of it is applied.
#[derive(Debug)]
pub struct Fence {
    path: Option<PathBuf>,
    obeyed: Mutex<Obeyed>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Obeyed {
    epoch: u64,
    controller: String,
}

impl Fence {
    /// Reads the epoch that a former run obeyed; without a directory it is known to this process only.
    ///
    /// # Errors
    /// The file cannot be read or understood: going on could obey an older controller.
    pub fn open(state_dir: Option<&Path>) -> Result<Self, ActuatorError> {
        let path = state_dir.map(|dir| dir.join(FILE));
        let kept: Option<Obeyed> = path.as_deref().map(state_file::read).transpose()?.flatten();
        Ok(Self { path, obeyed: Mutex::new(kept.unwrap_or_default()) })
    }

    /// The highest epoch that was obeyed; 0 before the first.
    pub fn epoch(&self) -> u64 {
        self.obeyed.lock().epoch
    }

    /// Lets a controller pass whose epoch is not lower than any before, and remembers it. Of two with the same epoch the
    /// first is obeyed.
    ///
    /// # Errors
    /// What to tell the controller: its epoch is too low, or the epoch could not be recorded.
    pub fn admit(&self, epoch: u64, controller: &str) -> Result<(), String> {
        let mut obeyed = self.obeyed.lock();
        if epoch == obeyed.epoch && controller == obeyed.controller {
            return Ok(());
        }
        if epoch <= obeyed.epoch {
            let is = if epoch < obeyed.epoch { "is lower than" } else { "is another controller's, too:" };
            return Err(format!(
                "the controller's epoch {epoch} {is} {}, which this agent obeys, so nothing of it is applied; to let this \
                 controller take over start it with --epoch-at-least {}",
                obeyed.epoch,
                obeyed.epoch + 1
            ));
        }
        let new = Obeyed { epoch, controller: controller.to_owned() };
        if let Some(path) = &self.path {
            state_file::write(path, &new).map_err(|error| format!("not applied: {error}"))?;
        }
        *obeyed = new;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_controller_is_refused_also_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let fence = Fence::open(Some(dir.path())).unwrap();
        assert_eq!([fence.admit(3, "a"), fence.admit(3, "a"), fence.admit(5, "b")], [Ok(()), Ok(()), Ok(())]);
        let fence = Fence::open(Some(dir.path())).unwrap();
        let error = fence.admit(4, "a").unwrap_err();
        assert!(error.contains("epoch 4 is lower than 5") && error.contains("--epoch-at-least 6"), "{error}");
        assert_eq!((fence.admit(5, "b"), fence.epoch()), (Ok(()), 5));
    }

    #[test]
    fn of_two_controllers_with_one_epoch_the_first_is_obeyed() {
        let fence = Fence::open(None).unwrap();
        assert_eq!(fence.admit(1, "a"), Ok(()));
        assert!(fence.admit(1, "b").unwrap_err().contains("another controller's"));
        assert_eq!([fence.admit(1, "a"), fence.admit(2, "b")], [Ok(()), Ok(())]);
    }

    #[test]
    fn an_epoch_that_cannot_be_recorded_is_not_obeyed() {
        let dir = tempfile::tempdir().unwrap();
        let fence = Fence::open(Some(dir.path())).unwrap();
        // A directory in the place of the new file makes the replacement fail, also for root.
        std::fs::create_dir(dir.path().join("fence.json.new")).unwrap();
        assert!(fence.admit(1, "a").unwrap_err().starts_with("not applied: "));
        assert_eq!(fence.epoch(), 0);
    }
}
