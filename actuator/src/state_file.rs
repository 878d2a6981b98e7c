//! Small facts that must survive a crash: one JSON file each, replaced as a whole.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tidegate_model::from_json;

use crate::error::ActuatorError;

/// What the file holds; `None` when there is none.
///
/// # Errors
/// It cannot be read or understood.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, ActuatorError> {
    match fs::read(path) {
        Ok(bytes) => match from_json(&bytes) {
            Ok((value, unknown)) => {
                if !unknown.is_empty() {
                    tracing::warn!(path = %path.display(), ?unknown, "it knows resources that are not known here; they are left out");
                }
                Ok(Some(value))
            }
            Err(error) => Err(ActuatorError::Config(format!(
                "{} is damaged ({error}); move it away to start without it",
                path.display()
            ))),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(ActuatorError::file("read", path, error)),
    }
}

/// Replaces the file; it is on disk when this returns. Its directory is made when it is not there.
///
/// # Errors
/// It cannot be written; then the former one stands.
pub(crate) fn write<T: Serialize>(path: &Path, value: &T) -> Result<(), ActuatorError> {
    let text = serde_json::to_vec_pretty(value).map_err(|error| ActuatorError::Config(error.to_string()))?;
    let new = path.with_extension("json.new");
    let replace = || {
        path.parent().map_or(Ok(()), fs::create_dir_all)?;
        let mut out = File::create(&new)?;
        out.write_all(&text)?;
        out.sync_all()?;
        fs::rename(&new, path)?;
        path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
    };
    replace().map_err(|error| ActuatorError::file("write", path, error))
}
