//! Requirements of services on JSON schemas.

use serde_json::Value;

/// Visits a schema and every schema inside it; stops at the first fault.
pub(crate) fn find<T>(schema: &Value, look: &dyn Fn(&Value) -> Option<T>) -> Option<T> {
    if let Some(found) = look(schema) {
        return Some(found);
    }
    let inside =
        ["properties", "$defs", "definitions"].into_iter().filter_map(|name| schema[name].as_object());
    let lists =
        ["anyOf", "allOf", "oneOf", "prefixItems"].into_iter().filter_map(|name| schema[name].as_array());
    let mut all = inside.flat_map(|map| map.values()).chain(lists.flatten()).chain(schema.get("items"));
    all.find_map(|schema| find(schema, look))
}

/// True if an object of the schema lacks `additionalProperties: false`.
pub(crate) fn lacks_closed_objects(schema: &Value) -> bool {
    find(schema, &|schema| {
        (schema["type"] == "object" && schema["additionalProperties"] != Value::Bool(false)).then_some(())
    })
    .is_some()
}

/// The first property that is not required.
pub(crate) fn optional_property(schema: &Value) -> Option<String> {
    find(schema, &|schema| {
        let required = schema["required"].as_array().cloned().unwrap_or_default();
        let mut names = schema["properties"].as_object()?.keys();
        names.find(|name| !required.contains(&Value::from(name.as_str()))).cloned()
    })
}

/// The first of some keywords, and its type.
pub(crate) fn keyword(schema: &Value, keywords: &[&str]) -> Option<(String, String)> {
    find(schema, &|schema| {
        let found = keywords.iter().find(|keyword| schema.get(**keyword).is_some())?;
        Some(((*found).to_owned(), schema["type"].as_str().unwrap_or("any").to_owned()))
    })
}
