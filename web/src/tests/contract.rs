//! Holds answers against the API's description: the status, the type of the body, and each field of it.
//!
//! Stricter than the document, in which a client must expect fields that it does not know: here an answer may have none
//! that are not described. A keyword that this check does not know fails it, so that none is passed over.

use std::sync::LazyLock;

use axum::http::{Method, StatusCode};
use serde_json::{Map, Value};

use super::Answer;
use crate::openapi;

/// Keywords that say nothing about whether a value fits, or that are not looked at.
const PASSED_OVER: [&str; 11] = [
    "description",
    "example",
    "format",
    "pattern",
    "minimum",
    "maximum",
    "maxLength",
    "minItems",
    "maxItems",
    "propertyNames",
    "uniqueItems",
];

/// The document, as it is served.
pub(super) fn document() -> &'static Value {
    static DOCUMENT: LazyLock<Value> = LazyLock::new(|| serde_json::from_str(openapi::text()).unwrap());
    &DOCUMENT
}

/// The described path that a request's path is one of.
pub(super) fn template(path: &str) -> Option<&'static str> {
    let paths = document()["paths"].as_object().unwrap().keys();
    let path = path.trim_end_matches('/');
    let fits = |template: &&String| {
        let (template, path) = (template.split('/'), path.split('/'));
        template.clone().count() == path.clone().count()
            && template.zip(path).all(|(of, given)| of.starts_with('{') || of == given)
    };
    // `/rules/validate` is no rule of that name.
    paths.filter(fits).min_by_key(|template| template.matches('{').count()).map(String::as_str)
}

/// Fails when the answer is not as described. What is not described at all, as the dashboard's files, is no part of this.
pub(super) fn hold(method: &Method, path: &str, answer: &Answer) {
    let Some(template) = template(path) else { return };
    if answer.status == StatusCode::METHOD_NOT_ALLOWED {
        return;
    }
    let operation = &document()["paths"][template][method.as_str().to_ascii_lowercase()];
    if operation.is_null() {
        return;
    }
    if let Err(why) = check_answer(operation, answer) {
        panic!("{method} {path}: {why}\n{}", answer.text());
    }
}

fn check_answer(operation: &Value, answer: &Answer) -> Result<(), String> {
    let described = &operation["responses"][answer.status.as_str()];
    if described.is_null() {
        return Err(format!("it answers {}, which is not described", answer.status));
    }
    let Some(content) = described["content"].as_object() else {
        return if answer.body.is_empty() { Ok(()) } else { Err("a body is not described".to_owned()) };
    };
    let kind = answer.header("content-type").split(';').next().unwrap_or_default();
    let schema = content.get(kind).ok_or_else(|| format!("the type '{kind}' is not described"))?;
    match kind {
        // What is compressed is the same, and one test reads it.
        "application/json" if answer.header("content-encoding").is_empty() => {
            check(&schema["schema"], &answer.json(), "the answer")
        }
        _ => Ok(()),
    }
}

fn check(schema: &Value, value: &Value, at: &str) -> Result<(), String> {
    let schema = resolved(schema);
    let Some(keywords) = schema.as_object() else { return Err(format!("{at}: {schema} is no schema")) };
    for (keyword, says) in keywords {
        match keyword.as_str() {
            "type" => check_type(says, value, at)?,
            "enum" if says.as_array().is_some_and(|all| all.contains(value)) => {}
            "enum" => return Err(format!("{at}: {value} is none of {says}")),
            "oneOf" => check_one_of(says, value, at)?,
            "items" => {
                for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                    check(says, item, &format!("{at}[{index}]"))?;
                }
            }
            "properties" | "required" | "additionalProperties" | "allOf" => {}
            known if PASSED_OVER.contains(&known) => {}
            other => return Err(format!("{at}: this check does not know '{other}'")),
        }
    }
    match value.as_object() {
        Some(object) if ["properties", "additionalProperties", "allOf"].iter().any(|key| schema.get(key).is_some()) => {
            check_fields(schema, object, at)
        }
        _ => Ok(()),
    }
}

fn resolved(schema: &Value) -> &Value {
    match schema["$ref"].as_str() {
        Some(name) => document().pointer(name.trim_start_matches('#')).unwrap_or_else(|| panic!("there is no {name}")),
        None => schema,
    }
}

fn check_type(says: &Value, value: &Value, at: &str) -> Result<(), String> {
    let is = |kind: &Value| match kind.as_str().unwrap_or_default() {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => false,
    };
    let fits = says.as_array().map_or_else(|| is(says), |all| all.iter().any(is));
    if fits { Ok(()) } else { Err(format!("{at}: {value} is not of type {says}")) }
}

fn check_one_of(says: &Value, value: &Value, at: &str) -> Result<(), String> {
    let tried: Vec<_> = says.as_array().unwrap().iter().map(|one| check(one, value, at)).collect();
    match tried.iter().filter(|tried| tried.is_ok()).count() {
        1 => Ok(()),
        0 => Err(tried.into_iter().filter_map(Result::err).collect::<Vec<_>>().join("; or ")),
        several => Err(format!("{at}: {several} of the forms fit")),
    }
}

/// The fields of an object, those of all its parts together.
fn check_fields(schema: &Value, object: &Map<String, Value>, at: &str) -> Result<(), String> {
    let mut parts = vec![schema];
    let mut at_part = 0;
    while let Some(part) = parts.get(at_part).copied() {
        parts.extend(part["allOf"].as_array().into_iter().flatten().map(resolved));
        at_part += 1;
    }
    for name in parts.iter().filter_map(|part| part["required"].as_array()).flatten().filter_map(Value::as_str) {
        if !object.contains_key(name) {
            return Err(format!("{at} has no '{name}'"));
        }
    }
    for (name, value) in object {
        let known = parts.iter().find_map(|part| part["properties"].get(name));
        let others = parts.iter().find_map(|part| part.get("additionalProperties")).filter(|others| others.is_object());
        match known.or(others) {
            Some(schema) => check(schema, value, &format!("{at}.{name}"))?,
            None => return Err(format!("{at}: '{name}' is not described")),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::check;

    #[test]
    fn what_is_not_as_described_is_found() {
        let schema = json!({ "type": "object", "required": ["a"], "properties": {
            "a": { "type": ["integer", "null"] }, "b": { "type": "array", "items": { "enum": ["x"] } } } });
        let why = |value| check(&schema, &value, "it").err().unwrap_or_default();
        assert_eq!(why(json!({ "a": null, "b": ["x"] })), "");
        assert_eq!(why(json!({ "b": [] })), "it has no 'a'");
        assert_eq!(why(json!({ "a": 1.5 })), "it.a: 1.5 is not of type [\"integer\",\"null\"]");
        assert_eq!(why(json!({ "a": 1, "b": ["x", "y"] })), "it.b[1]: \"y\" is none of [\"x\"]");
        assert_eq!(why(json!({ "a": 1, "c": 1 })), "it: 'c' is not described");
        let error = check(&json!({ "not": {} }), &json!(1), "it").unwrap_err();
        assert_eq!(error, "it: this check does not know 'not'");
    }
}
