// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether a value is of a JSON Schema: of the part of it that `docs/openapi.json` uses, and stricter in one point: fields
//! that the schema does not name are wrong.

use serde_json::{Map, Value};

/// What `#/a/b` refers to in a document.
pub(super) fn resolve<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    match value["$ref"].as_str() {
        None => value,
        Some(reference) => {
            let pointer = reference.strip_prefix('#').expect("a reference into the document");
            document.pointer(pointer).unwrap_or_else(|| panic!("nothing at {reference}"))
        }
    }
}

/// Checks a value; the failure says where.
pub(super) fn check(document: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    let schema = resolve(document, schema).as_object().expect("a schema is an object");
    for keyword in schema.keys() {
        const KNOWN: [&str; 12] = [
            "type",
            "description",
            "required",
            "properties",
            "additionalProperties",
            "items",
            "enum",
            "const",
            "oneOf",
            "minimum",
            "format",
            "$ref",
        ];
        assert!(KNOWN.contains(&keyword.as_str()), "the checker does not know {keyword}");
    }
    if let Some(kinds) = schema.get("oneOf").and_then(Value::as_array) {
        let failures: Vec<_> = kinds.iter().filter_map(|kind| check(document, kind, value).err()).collect();
        return match kinds.len() - failures.len() {
            1 => Ok(()),
            number => Err(format!("{value} is of {number} kinds: {}", failures.join("; "))),
        };
    }
    if !is_of_type(schema, value) {
        return Err(format!("{value} is no {}", schema["type"]));
    }
    if schema.get("const").is_some_and(|only| only != value) {
        return Err(format!("{value} is not {}", schema["const"]));
    }
    if schema.get("enum").and_then(Value::as_array).is_some_and(|all| !all.contains(value)) {
        return Err(format!("{value} is none of {}", schema["enum"]));
    }
    match value {
        Value::Array(items) => items.iter().try_for_each(|item| check(document, &schema["items"], item)),
        Value::Object(fields) => check_fields(document, schema, fields),
        _ => Ok(()),
    }
}

fn is_of_type(schema: &Map<String, Value>, value: &Value) -> bool {
    let is = |name: &Value| match name.as_str().expect("a type is a text") {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "string" => value.is_string(),
        "integer" => value.is_u64(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("the checker does not know type {other}"),
    };
    match schema.get("type").expect("a schema has a type") {
        Value::Array(names) => names.iter().any(is),
        name => is(name),
    }
}

fn check_fields(
    document: &Value,
    schema: &Map<String, Value>,
    fields: &Map<String, Value>,
) -> Result<(), String> {
    for required in schema.get("required").and_then(Value::as_array).into_iter().flatten() {
        if !fields.contains_key(required.as_str().expect("a name")) {
            return Err(format!("{required} is missing"));
        }
    }
    // Only a document as a whole has neither.
    if !schema.contains_key("properties") && !schema.contains_key("additionalProperties") {
        return Ok(());
    }
    for (name, value) in fields {
        let own = schema.get("properties").and_then(|properties| properties.get(name));
        let any = schema.get("additionalProperties").filter(|schema| schema.is_object());
        let schema = own.or(any).ok_or_else(|| format!("there is no field {name}"))?;
        check(document, schema, value).map_err(|error| format!("{name}: {error}"))?;
    }
    Ok(())
}
