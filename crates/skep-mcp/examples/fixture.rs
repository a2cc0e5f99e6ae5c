//! A server with one of everything that the protocol has, for tests: the tools, prompts and resources that the official
//! conformance suite expects of a server.
//!
//! `cargo run -p skep-mcp --example fixture -- http 127.0.0.1:9400` or `… -- stdio`.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::Request,
    http::{StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
};
use serde_json::{
    Value, json,
    value::{RawValue, to_raw_value},
};
use skep_mcp::{
    message::ErrorObject,
    server::{
        BoxFuture, Call, Caller, Change, Description, Level, Limits, Outcome, Peer, Server, Service, Watch, code,
        headers, http, lines,
    },
};
use tokio::sync::broadcast;

/// A red dot, and silence.
const PNG: &str = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg==";
const WAV: &str = "UklGRiQAAABXQVZFZm10IBAAAAABAAEAQB8AAEAfAAABAAgAZGF0YQAAAAA=";
/// What the server gives back as state. A real one would seal it.
const STATE: &str = "state-of-the-fixture";

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let server = Server::new(Arc::new(Fixture { changes: broadcast::channel(64).0 }), Limits::default());
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["http", address] => {
            let listener = tokio::net::TcpListener::bind(address).await?;
            eprintln!("listening on http://{}/mcp", listener.local_addr()?);
            axum::serve(listener, http::router(server).layer(middleware::from_fn(only_local))).await?;
        }
        ["stdio"] => lines::serve(&server, tokio::io::stdin(), tokio::io::stdout(), lines::Options::default()).await?,
        _ => eprintln!("fixture http ADDRESS | fixture stdio"),
    }
    Ok(())
}

/// No web page, and no name that was made to point here.
async fn only_local(request: Request, next: Next) -> Response {
    let is_local = |name: &str| {
        let name = name.rsplit("://").next().unwrap_or_default();
        ["localhost", "127.0.0.1", "[::1]"]
            .iter()
            .any(|local| name.strip_prefix(local).is_some_and(|port| port.is_empty() || port.starts_with(':')))
    };
    let named = [header::HOST, header::ORIGIN].map(|name| request.headers().get(name).cloned());
    if named.iter().flatten().any(|name| !name.to_str().is_ok_and(is_local)) {
        return StatusCode::FORBIDDEN.into_response();
    }
    next.run(request).await
}

struct Fixture {
    changes: broadcast::Sender<Change>,
}

impl Service for Fixture {
    fn describe(&self) -> Description {
        Description {
            info: json!({ "name": "fixture", "version": "1.0.0", "title": "Fixture" }),
            capabilities: json!({
                "tools": { "listChanged": true }, "prompts": { "listChanged": true },
                "resources": { "listChanged": true, "subscribe": true }, "completions": {}, "logging": {},
            }),
            instructions: Some("Everything here is for tests.".to_owned()),
        }
    }

    fn handle(self: Arc<Self>, call: Call, peer: Peer) -> BoxFuture<Outcome> {
        Box::pin(async move {
            let params: Value = match &call.params {
                Some(params) => serde_json::from_str(params.get()).map_err(|error| invalid(error.to_string()))?,
                None => Value::Null,
            };
            let result = match call.method.as_str() {
                "tools/list" => json!({ "tools": tools() }),
                "tools/call" => self.call(&params, &peer).await?,
                "prompts/list" => json!({ "prompts": prompts() }),
                "prompts/get" => prompt(&params)?,
                "resources/list" => json!({ "resources": resources() }),
                "resources/templates/list" => json!({ "resourceTemplates": [{
                    "uriTemplate": "test://template/{id}/data", "name": "template", "description": "Data by id",
                    "mimeType": "application/json",
                }] }),
                "resources/read" => resource(params["uri"].as_str().unwrap_or_default())?,
                "completion/complete" => {
                    json!({ "completion": { "values": ["paris", "park", "party"], "total": 3, "hasMore": false } })
                }
                method => return Err(ErrorObject::new(code::METHOD_NOT_FOUND, format!("there is no method {method}"))),
            };
            raw(&result)
        })
    }

    fn watch(self: Arc<Self>, _: String, _: Arc<Caller>) -> BoxFuture<Result<Watch, ErrorObject>> {
        Box::pin(async { Ok(Box::new(()) as Watch) })
    }

    fn changes(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }

    fn header_arguments(&self, tool: &str) -> Vec<headers::HeaderArgument> {
        tools()
            .iter()
            .find(|one| one["name"] == tool)
            .map_or(Vec::new(), |tool| headers::header_arguments(&tool["inputSchema"]))
    }
}

fn raw(value: &Value) -> Result<Box<RawValue>, ErrorObject> {
    to_raw_value(value).map_err(|error| invalid(error.to_string()))
}

fn invalid(message: impl Into<String>) -> ErrorObject {
    ErrorObject::new(code::INVALID_PARAMS, message)
}

fn tools() -> Vec<Value> {
    let tool = |name: &str, schema: Value| json!({ "name": name, "description": name.replace('_', " "), "inputSchema": schema });
    let nothing = || json!({ "type": "object", "properties": {} });
    let text = |argument: &str| json!({ "type": "object", "properties": { argument: { "type": "string" } }, "required": [argument] });
    let mut tools: Vec<Value> = [
        "test_simple_text",
        "test_image_content",
        "test_audio_content",
        "test_embedded_resource",
        "test_multiple_content_types",
        "test_tool_with_logging",
        "test_tool_with_progress",
        "test_error_handling",
        "test_elicitation_sep1034_defaults",
        "test_elicitation_sep1330_enums",
        "test_reconnection",
        "test_missing_capability",
        "test_streaming_elicitation",
        "test_logging_tool",
        "test_trigger_tool_change",
        "test_trigger_prompt_change",
        "test_input_required_result_elicitation",
        "test_input_required_result_sampling",
        "test_input_required_result_list_roots",
        "test_input_required_result_request_state",
        "test_input_required_result_multiple_inputs",
        "test_input_required_result_multi_round",
        "test_input_required_result_tampered_state",
        "test_input_required_result_capabilities",
    ]
    .into_iter()
    .map(|name| tool(name, nothing()))
    .collect();
    tools.push(tool("test_sampling", text("prompt")));
    tools.push(tool("test_elicitation", text("message")));
    let marked =
        json!({ "type": "object", "properties": { "region": { "type": "string", "x-mcp-header": "Region" } } });
    tools.push(tool("test_headers", marked));
    tools.push(tool(
        "json_schema_2020_12_tool",
        json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "$defs": { "address": { "$anchor": "addressDef", "type": "object",
                "properties": { "street": { "type": "string" }, "city": { "type": "string" } } } },
            "properties": { "name": { "type": "string" }, "address": { "$ref": "#/$defs/address" },
                "contactMethod": { "type": "string", "enum": ["phone", "email"] }, "phone": { "type": "string" },
                "email": { "type": "string" } },
            "allOf": [{ "anyOf": [{ "required": ["phone"] }, { "required": ["email"] }] }],
            "if": { "properties": { "contactMethod": { "const": "phone" } }, "required": ["contactMethod"] },
            "then": { "required": ["phone"] },
            "else": { "required": ["email"] },
            "additionalProperties": false,
        }),
    ));
    tools
}

fn text(text: impl Into<String>) -> Value {
    json!({ "content": [{ "type": "text", "text": text.into() }] })
}

impl Fixture {
    async fn call(&self, params: &Value, peer: &Peer) -> Result<Value, ErrorObject> {
        let name = params["name"].as_str().unwrap_or_default();
        let arguments = &params["arguments"];
        let image = json!({ "type": "image", "data": PNG, "mimeType": "image/png" });
        Ok(match name {
            "test_simple_text" | "test_headers" | "json_schema_2020_12_tool" => {
                text("This is a simple text response for testing.")
            }
            "test_image_content" => json!({ "content": [image] }),
            "test_audio_content" => json!({ "content": [{ "type": "audio", "data": WAV, "mimeType": "audio/wav" }] }),
            "test_embedded_resource" => json!({ "content": [{ "type": "resource", "resource": {
                "uri": "test://embedded-resource", "mimeType": "text/plain", "text": "This is an embedded resource content.",
            } }] }),
            "test_multiple_content_types" => json!({ "content": [
                { "type": "text", "text": "Multiple content types test:" },
                image,
                { "type": "resource", "resource": { "uri": "test://mixed-content-resource",
                    "mimeType": "application/json", "text": "{\"test\":\"data\",\"value\":123}" } },
            ] }),
            "test_tool_with_logging" | "test_logging_tool" => {
                for line in ["Tool execution started", "Tool processing data", "Tool execution completed"] {
                    peer.log(Level::Info, Some("fixture"), &json!(line));
                    pause().await;
                }
                text("Tool with logging executed")
            }
            "test_tool_with_progress" => {
                for progress in [0.0, 50.0, 100.0] {
                    peer.progress(progress, Some(100.0), None);
                    pause().await;
                }
                text("Tool with progress executed")
            }
            "test_error_handling" => {
                let mut result = text("This tool intentionally returns an error for testing");
                result["isError"] = true.into();
                result
            }
            "test_reconnection" => {
                pause().await;
                text("Reconnected")
            }
            "test_sampling" => {
                let answer =
                    ask(peer, "sampling/createMessage", sampling(arguments["prompt"].as_str().unwrap_or_default()))
                        .await?;
                text(format!("LLM response: {}", answer["content"]["text"].as_str().unwrap_or_default()))
            }
            "test_elicitation" => {
                let schema = json!({ "type": "object", "required": ["username", "email"], "properties": {
                    "username": { "type": "string", "description": "User's response" },
                    "email": { "type": "string", "description": "User's email address" },
                } });
                let wanted = json!({ "message": arguments["message"], "requestedSchema": schema });
                text(format!("User response: {}", ask(peer, "elicitation/create", wanted).await?))
            }
            "test_elicitation_sep1034_defaults" => {
                elicit(
                    peer,
                    json!({
                        "name": { "type": "string", "default": "John Doe" },
                        "age": { "type": "integer", "default": 30 },
                        "score": { "type": "number", "default": 95.5 },
                        "status": { "type": "string", "enum": ["active", "inactive", "pending"], "default": "active" },
                        "verified": { "type": "boolean", "default": true },
                    }),
                )
                .await?
            }
            "test_elicitation_sep1330_enums" => elicit(peer, enums()).await?,
            "test_streaming_elicitation" => text("Nothing to ask"),
            "test_missing_capability" => {
                peer.caller().allows("sampling/createMessage", RawValue::NULL).map_err(|required| {
                    ErrorObject::new(code::MISSING_CAPABILITY, "sampling is needed")
                        .with_data(&json!({ "requiredCapabilities": required }))
                })?;
                text("Sampling is there")
            }
            "test_trigger_tool_change" => self.changed(Change::Tools),
            "test_trigger_prompt_change" => self.changed(Change::Prompts),
            _ => input(name, params, peer)?,
        })
    }

    fn changed(&self, change: Change) -> Value {
        let _ = self.changes.send(change); // nobody may listen
        text("Changed")
    }
}

async fn pause() {
    tokio::time::sleep(Duration::from_millis(50)).await;
}

async fn ask(peer: &Peer, method: &str, params: Value) -> Result<Value, ErrorObject> {
    let answer = peer.request(method, raw(&params)?).await?;
    serde_json::from_str(answer.get()).map_err(|error| invalid(error.to_string()))
}

async fn elicit(peer: &Peer, properties: Value) -> Result<Value, ErrorObject> {
    let wanted =
        json!({ "message": "Please fill in", "requestedSchema": { "type": "object", "properties": properties } });
    let answer = ask(peer, "elicitation/create", wanted).await?;
    let content = answer.get("content").cloned().unwrap_or(json!({}));
    Ok(text(format!(
        "Elicitation completed: action={}, content={content}",
        answer["action"].as_str().unwrap_or_default()
    )))
}

fn sampling(prompt: &str) -> Value {
    json!({ "messages": [{ "role": "user", "content": { "type": "text", "text": prompt } }], "maxTokens": 100 })
}

fn enums() -> Value {
    let titled = json!([
        { "const": "value1", "title": "First" }, { "const": "value2", "title": "Second" }, { "const": "value3", "title": "Third" },
    ]);
    let plain = json!(["option1", "option2", "option3"]);
    json!({
        "untitledSingle": { "type": "string", "enum": plain },
        "titledSingle": { "type": "string", "oneOf": titled },
        "legacyEnum": { "type": "string", "enum": ["opt1", "opt2", "opt3"], "enumNames": ["Option One", "Option Two", "Option Three"] },
        "untitledMulti": { "type": "array", "items": { "type": "string", "enum": plain } },
        "titledMulti": { "type": "array", "items": { "anyOf": titled } },
    })
}

/// A wish for one text from the user.
fn form(message: &str, property: &str, kind: &str) -> Value {
    json!({ "method": "elicitation/create", "params": { "message": message, "requestedSchema": {
        "type": "object", "properties": { property: { "type": kind } }, "required": [property],
    } } })
}

/// Tools that ask in their results, without keeping anything between the rounds (2026-07-28).
fn input(name: &str, params: &Value, peer: &Peer) -> Result<Value, ErrorObject> {
    let wish = |requests: Value, state: Option<&str>| {
        let mut result = json!({ "resultType": "input_required", "inputRequests": requests });
        if let Some(state) = state {
            result["requestState"] = state.into();
        }
        result
    };
    let answer = |key: &str| params["inputResponses"].get(key).filter(|answer| answer.is_object());
    let state = params["requestState"].as_str();
    let question = json!({ "method": "sampling/createMessage", "params": sampling("What is the capital of France?") });
    let roots = json!({ "method": "roots/list", "params": {} });
    let name_form = form("What is your name?", "name", "string");
    Ok(match name {
        "test_input_required_result_elicitation" => match answer("user_name") {
            Some(answer) => text(format!("Hello, {}!", answer["content"]["name"].as_str().unwrap_or_default())),
            None => wish(json!({ "user_name": name_form }), None),
        },
        "test_input_required_result_sampling" => match answer("capital_question") {
            Some(answer) => text(answer["content"]["text"].as_str().unwrap_or_default()),
            None => wish(json!({ "capital_question": question }), None),
        },
        "test_input_required_result_list_roots" => match answer("client_roots") {
            Some(answer) => text(answer["roots"].to_string()),
            None => wish(json!({ "client_roots": roots }), None),
        },
        "test_input_required_result_request_state" | "test_input_required_result_tampered_state" => {
            match (answer("confirm"), state) {
                (Some(_), Some(STATE)) => text("state-ok"),
                (_, Some(state)) if state != STATE => return Err(invalid("this requestState is not one of ours")),
                _ => wish(json!({ "confirm": form("Please confirm", "ok", "boolean") }), Some(STATE)),
            }
        }
        "test_input_required_result_multiple_inputs" => {
            match (answer("user_name"), answer("greeting"), answer("client_roots")) {
                (Some(_), Some(_), Some(_)) if state == Some(STATE) => text("Everything is there"),
                _ => wish(json!({ "user_name": name_form, "greeting": question, "client_roots": roots }), Some(STATE)),
            }
        }
        "test_input_required_result_multi_round" => match (answer("step1"), answer("step2"), state) {
            (_, Some(_), Some("round-2")) => text("All steps are done"),
            (Some(_), _, Some("round-1")) => wish(
                json!({ "step2": form("Step 2: What is your favorite color?", "color", "string") }),
                Some("round-2"),
            ),
            _ => wish(json!({ "step1": form("Step 1: What is your name?", "name", "string") }), Some("round-1")),
        },
        "test_input_required_result_capabilities" => {
            let candidates = [("name", name_form), ("question", question), ("roots", roots)];
            let allowed = candidates.into_iter().filter(|(_, request)| {
                let method = request["method"].as_str().unwrap_or_default();
                peer.caller().allows(method, RawValue::NULL).is_ok()
            });
            wish(
                allowed.map(|(key, request)| (key.to_owned(), request)).collect::<serde_json::Map<_, _>>().into(),
                None,
            )
        }
        _ => return Err(invalid(format!("there is no tool {name:?}"))),
    })
}

fn prompts() -> Value {
    json!([
        { "name": "test_simple_prompt", "description": "A simple prompt" },
        { "name": "test_prompt_with_arguments", "description": "A prompt with arguments", "arguments": [
            { "name": "arg1", "description": "First", "required": true },
            { "name": "arg2", "description": "Second", "required": true },
        ] },
        { "name": "test_prompt_with_embedded_resource", "description": "A prompt with a resource", "arguments": [
            { "name": "resourceUri", "description": "Its URI", "required": true },
        ] },
        { "name": "test_prompt_with_image", "description": "A prompt with an image" },
        { "name": "test_input_required_result_prompt", "description": "A prompt that asks" },
    ])
}

fn prompt(params: &Value) -> Result<Value, ErrorObject> {
    let user = |content: Value| json!({ "role": "user", "content": content });
    let say = |text: &str| json!({ "type": "text", "text": text });
    let argument = |name: &str| params["arguments"][name].as_str().unwrap_or_default();
    let messages = match params["name"].as_str().unwrap_or_default() {
        "test_simple_prompt" => vec![user(say("This is a simple prompt for testing."))],
        "test_prompt_with_arguments" => {
            vec![user(say(&format!("Prompt with arguments: arg1='{}', arg2='{}'", argument("arg1"), argument("arg2"))))]
        }
        "test_prompt_with_embedded_resource" => vec![
            user(json!({ "type": "resource", "resource": { "uri": argument("resourceUri"), "mimeType": "text/plain",
                "text": "Embedded resource content for testing." } })),
            user(say("Please process the embedded resource above.")),
        ],
        "test_prompt_with_image" => vec![
            user(json!({ "type": "image", "data": PNG, "mimeType": "image/png" })),
            user(say("Please analyze the image above.")),
        ],
        "test_input_required_result_prompt" if !params["inputResponses"]["user_context"].is_object() => {
            return Ok(json!({ "resultType": "input_required", "inputRequests": {
                "user_context": form("What context should the prompt use?", "context", "string") } }));
        }
        "test_input_required_result_prompt" => vec![user(say("With context"))],
        name => return Err(invalid(format!("there is no prompt {name:?}"))),
    };
    Ok(json!({ "messages": messages }))
}

fn resources() -> Value {
    json!([
        { "uri": "test://static-text", "name": "text", "description": "A text", "mimeType": "text/plain" },
        { "uri": "test://static-binary", "name": "binary", "description": "An image", "mimeType": "image/png" },
        { "uri": "test://watched-resource", "name": "watched", "description": "May change", "mimeType": "text/plain" },
    ])
}

fn resource(uri: &str) -> Result<Value, ErrorObject> {
    let contents = match uri {
        "test://static-text" => {
            json!({ "uri": uri, "mimeType": "text/plain", "text": "This is the content of the static text resource." })
        }
        "test://watched-resource" => json!({ "uri": uri, "mimeType": "text/plain", "text": "Watched" }),
        "test://static-binary" => json!({ "uri": uri, "mimeType": "image/png", "blob": PNG }),
        _ => match uri.strip_prefix("test://template/").and_then(|rest| rest.strip_suffix("/data")) {
            Some(id) => {
                let data = json!({ "id": id, "templateTest": true, "data": format!("Data for ID: {id}") });
                json!({ "uri": uri, "mimeType": "application/json", "text": data.to_string() })
            }
            None => return Err(invalid("there is no such resource").with_data(&json!({ "uri": uri }))),
        },
    };
    Ok(json!({ "contents": [contents] }))
}
