//! What is said to a server that wants values.

use serde_json::{Map, Value, json};

/// Arguments that fit the schema of a tool well enough: what it requires.
pub(crate) fn arguments(tool: &Value, tools: &[Value]) -> Value {
    let schema = &tool["inputSchema"];
    let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let value = |name: &str| match schema["properties"][name]["type"].as_str() {
        // A tool that wants an object is shown a schema, as it came; so it sees what has become of it on the way.
        Some("object") => tools[0]["inputSchema"].clone(),
        _ => suggested(&schema["properties"][name]),
    };
    required.map(|name| (name.to_owned(), value(name))).collect::<Map<_, _>>().into()
}

/// Answers to the questions of a result that wants input.
pub(crate) fn responses(requests: &Value) -> Value {
    let requests = requests.as_object().into_iter().flatten();
    requests.map(|(key, request)| (key.clone(), elicited(&request["params"]))).collect::<Map<_, _>>().into()
}

/// The answer to `elicitation/create`: the defaults, and something where there is none.
pub(crate) fn elicited(params: &Value) -> Value {
    let properties = params["requestedSchema"]["properties"].as_object().into_iter().flatten();
    let content: Map<_, _> = properties.map(|(name, schema)| (name.clone(), suggested(schema))).collect();
    json!({ "action": "accept", "content": content })
}

fn suggested(schema: &Value) -> Value {
    match (schema.get("default"), schema["type"].as_str()) {
        (Some(default), _) => default.clone(),
        (None, Some("number" | "integer")) => 1.into(),
        (None, Some("boolean")) => true.into(),
        (None, _) => "something".into(),
    }
}
