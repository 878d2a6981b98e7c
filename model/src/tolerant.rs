//! Reading what a program of the next release wrote: it may know resources that are unknown here.

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::limit::Resource;

/// Objects whose keys are resources, by the names of the fields that hold them.
const BY_RESOURCE: [&str; 4] = ["baseline", "bounds", "limits", "left_alone"];

/// Reads JSON. What is about a resource that nobody here knows is left out: an entry of a map, an element of a list, and comes
/// back by the resource's name, each once, for whoever logs it.
///
/// What can be read as it is takes no longer than without this.
///
/// # Errors
/// What is wrong with the text beyond that.
pub fn from_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<(T, Vec<String>), serde_json::Error> {
    let error = match serde_json::from_slice(bytes) {
        Ok(value) => return Ok((value, Vec::new())),
        Err(error) => error,
    };
    let Ok(mut value) = serde_json::from_slice::<Value>(bytes) else { return Err(error) };
    let mut unknown = Vec::new();
    leave_out(&mut value, &mut unknown);
    if unknown.is_empty() {
        // It has the place of what is wrong.
        return Err(error);
    }
    unknown.sort_unstable();
    unknown.dedup();
    Ok((serde_json::from_value(value)?, unknown))
}

fn leave_out(value: &mut Value, unknown: &mut Vec<String>) {
    let mut is_known = |name: &str| {
        let known = name.parse::<Resource>().is_ok();
        if !known {
            unknown.push(name.to_owned());
        }
        known
    };
    match value {
        Value::Object(fields) => {
            for (name, field) in fields.iter_mut() {
                match field {
                    Value::Object(entries) if BY_RESOURCE.contains(&name.as_str()) => {
                        entries.retain(|resource, _| is_known(resource));
                    }
                    Value::Array(names) if name == "pinned" => {
                        names.retain(|name| name.as_str().is_none_or(&mut is_known));
                    }
                    _ => {}
                }
            }
            fields.values_mut().for_each(|field| leave_out(field, unknown));
        }
        Value::Array(elements) => {
            elements.retain(|element| element.get("resource").and_then(Value::as_str).is_none_or(&mut is_known));
            elements.iter_mut().for_each(|element| leave_out(element, unknown));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use serde::Deserialize;

    use super::*;
    use crate::{Bounds, Limit};

    #[derive(Debug, Deserialize)]
    struct Written {
        bounds: BTreeMap<Resource, Bounds>,
        pinned: BTreeSet<Resource>,
        drifts: Vec<Drifted>,
    }

    #[derive(Debug, Deserialize)]
    struct Drifted {
        resource: Resource,
        limits: BTreeMap<Resource, Limit>,
    }

    #[test]
    fn what_is_about_unknown_resources_is_left_out_and_named() {
        let text =
            br#"{"bounds": {"cpu": {"min": 1, "max": 2}, "net": {"min": 1, "max": 2}}, "pinned": ["net", "memory"],
            "drifts": [{"resource": "energy", "limits": {}}, {"resource": "cpu", "limits": {"gpu": "unlimited"}}]}"#;
        let (written, unknown) = from_json::<Written>(text).unwrap();
        assert_eq!(unknown, ["energy", "gpu", "net"]);
        assert_eq!(written.bounds.keys().collect::<Vec<_>>(), [&Resource::Cpu]);
        assert_eq!(written.pinned, [Resource::Memory].into());
        assert_eq!((written.drifts.len(), written.drifts[0].resource), (1, Resource::Cpu));
        assert!(written.drifts[0].limits.is_empty());
    }

    #[test]
    fn what_is_wrong_otherwise_is_an_error_with_its_place() {
        assert!(from_json::<Written>(b"{").is_err());
        let error = from_json::<Written>(br#"{"bounds": 1, "pinned": [], "drifts": []}"#).unwrap_err();
        assert!(error.to_string().contains("column"), "{error}");
        let error = from_json::<Written>(br#"{"bounds": {"net": 1}, "pinned": 1, "drifts": []}"#).unwrap_err();
        assert!(error.to_string().contains("invalid type"), "{error}");
    }
}
