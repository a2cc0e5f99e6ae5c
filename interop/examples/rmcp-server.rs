//! A server made with `rmcp`, the Rust SDK of the Model Context Protocol: `rmcp-server stdio|http [older]`.
//!
//! It speaks all revisions that the SDK knows, or with `older` those before 2026-07-28.

use std::{
    borrow::Cow,
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use rmcp::{
    ErrorData, RoleServer, ServerHandler, ServiceExt as _,
    model::{
        CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, ElicitRequest, ElicitRequestParams,
        GetPromptRequestParams, GetPromptResponse, GetPromptResult, InputRequest, InputRequests, InputRequiredResult,
        ListPromptsResult, ListResourceTemplatesResult, ListResourcesResult, ListToolsResult, PaginatedRequestParams,
        ProgressNotificationParam, ProtocolVersion, ReadResourceRequestParams, ReadResourceResponse,
        ReadResourceResult, ResourceContents, Role, ServerCapabilities, ServerConfig,
    },
    service::RequestContext,
    transport::streamable_http_server::{
        StreamableHttpServerConfig, StreamableHttpService, session::local::LocalSessionManager,
    },
};
use serde_json::{Value, json};

type Context = RequestContext<RoleServer>;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (transport, is_older) = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [transport] => (transport.to_owned(), false),
        [transport, "older"] => (transport.to_owned(), true),
        _ => return Err("rmcp-server stdio|http [older]".into()),
    };
    let server = Everything { is_older, cancelled: Arc::default() };
    match transport.as_str() {
        "stdio" => {
            server.serve(rmcp::transport::stdio()).await?.waiting().await?;
        }
        "http" => {
            let sessions = Arc::new(LocalSessionManager::default());
            let service =
                StreamableHttpService::new(move || Ok(server.clone()), sessions, StreamableHttpServerConfig::default());
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
            eprintln!("listening on http://{}/mcp", listener.local_addr()?);
            axum::serve(listener, axum::Router::new().nest_service("/mcp", service)).await?;
        }
        other => return Err(format!("no such transport: {other}").into()),
    }
    Ok(())
}

/// One of everything.
#[derive(Clone)]
struct Everything {
    is_older: bool,
    /// Calls that were withdrawn.
    cancelled: Arc<AtomicUsize>,
}

impl Everything {
    /// Says how far it is, three times.
    async fn count(&self, context: &Context) -> Result<CallToolResponse, ErrorData> {
        for step in 1..=3 {
            progress(context, f64::from(step)).await?;
        }
        text("counted")
    }

    /// Says that it has begun, and works until it is withdrawn.
    async fn hang(&self, context: &Context) -> Result<CallToolResponse, ErrorData> {
        progress(context, 1.0).await?;
        context.ct.cancelled().await;
        self.cancelled.fetch_add(1, Ordering::SeqCst);
        Err(ErrorData::internal_error("withdrawn", None))
    }

    /// Asks for a name, as the caller's revision has it.
    async fn ask(&self, call: CallToolRequestParams, context: &Context) -> Result<CallToolResponse, ErrorData> {
        let question = ElicitRequestParams::FormElicitationParams {
            meta: None,
            message: "Who are you?".to_owned(),
            requested_schema: from(json!({
                "type": "object", "properties": { "name": { "type": "string" } }, "required": ["name"],
            }))?,
        };
        let answer = match (is_modern(context), &call.input_responses) {
            (false, _) => {
                let answer = context.peer.create_elicitation(question).await;
                answer.map_err(|error| ErrorData::internal_error(error.to_string(), None))?.content.unwrap_or_default()
            }
            (true, Some(answers)) if call.request_state.as_deref() == Some("asked") => {
                serde_json::to_value(answers).unwrap_or_default()["who"]["content"].take()
            }
            (true, Some(_)) => return Err(ErrorData::invalid_params("the state is not what it was", None)),
            (true, None) => {
                let mut requests = InputRequests::new();
                requests.insert("who".to_owned(), InputRequest::Elicitation(ElicitRequest::new(question)));
                return Ok(InputRequiredResult::new(Some(requests), Some("asked".to_owned())).into());
            }
        };
        text(&format!("Hello, {}!", answer["name"].as_str().unwrap_or("nobody")))
    }
}

/// Whether it is asked in the way of 2026-07-28.
fn is_modern(context: &Context) -> bool {
    context.meta.protocol_version() == Some(ProtocolVersion::V_2026_07_28)
}

fn text(text: &str) -> Result<CallToolResponse, ErrorData> {
    Ok(CallToolResult::success(vec![ContentBlock::text(text)]).into())
}

async fn progress(context: &Context, progress: f64) -> Result<(), ErrorData> {
    let missing = || ErrorData::invalid_params("there is no progress token", None);
    let token = context.meta.get_progress_token().ok_or_else(missing)?;
    let told = context.peer.notify_progress(ProgressNotificationParam::new(token, progress)).await;
    told.map_err(|error| ErrorData::internal_error(error.to_string(), None))
}

/// The SDK's own type for something that is written as the protocol has it.
fn from<T: for<'a> serde::Deserialize<'a>>(value: Value) -> Result<T, ErrorData> {
    serde_json::from_value(value).map_err(|error| ErrorData::internal_error(error.to_string(), None))
}

impl ServerHandler for Everything {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().enable_prompts().enable_resources().build())
    }

    fn supported_protocol_versions(&self) -> Cow<'static, [ProtocolVersion]> {
        let known = ProtocolVersion::KNOWN_VERSIONS.iter().cloned();
        known.filter(|version| !self.is_older || *version != ProtocolVersion::V_2026_07_28).collect()
    }

    async fn list_tools(&self, _: Option<PaginatedRequestParams>, _: Context) -> Result<ListToolsResult, ErrorData> {
        let nothing = json!({ "type": "object" });
        from(json!({ "tools": [
            { "name": "echo", "description": "Says it again", "inputSchema": {
                "type": "object", "properties": { "text": { "type": "string" } }, "required": ["text"] } },
            { "name": "count", "inputSchema": nothing },
            { "name": "hang", "inputSchema": nothing },
            { "name": "ask", "inputSchema": nothing },
        ] }))
    }

    async fn call_tool(&self, call: CallToolRequestParams, context: Context) -> Result<CallToolResponse, ErrorData> {
        match call.name.as_ref() {
            "echo" => {
                let arguments = call.arguments.unwrap_or_default();
                text(arguments.get("text").and_then(Value::as_str).unwrap_or_default())
            }
            "count" => self.count(&context).await,
            "hang" => self.hang(&context).await,
            "ask" => self.ask(call, &context).await,
            other => Err(ErrorData::invalid_params(format!("there is no tool {other:?}"), None)),
        }
    }

    async fn list_prompts(
        &self,
        _: Option<PaginatedRequestParams>,
        _: Context,
    ) -> Result<ListPromptsResult, ErrorData> {
        from(json!({ "prompts": [{ "name": "greet", "arguments": [{ "name": "name", "required": true }] }] }))
    }

    async fn get_prompt(&self, prompt: GetPromptRequestParams, _: Context) -> Result<GetPromptResponse, ErrorData> {
        let name = prompt.arguments.unwrap_or_default();
        let text = format!("Greet {}", name.get("name").and_then(|name| name.as_str()).unwrap_or_default());
        let message = rmcp::model::PromptMessage::new_text(Role::User, text);
        Ok(GetPromptResult::new(vec![message]).into())
    }

    async fn list_resources(
        &self,
        _: Option<PaginatedRequestParams>,
        _: Context,
    ) -> Result<ListResourcesResult, ErrorData> {
        from(json!({ "resources": [
            { "uri": "test://cancelled", "name": "calls that were withdrawn" },
            { "uri": "test://era", "name": "how the server is asked" },
        ] }))
    }

    async fn list_resource_templates(
        &self,
        _: Option<PaginatedRequestParams>,
        _: Context,
    ) -> Result<ListResourceTemplatesResult, ErrorData> {
        from(json!({ "resourceTemplates": [{ "uriTemplate": "test://item/{id}", "name": "items" }] }))
    }

    async fn read_resource(
        &self,
        resource: ReadResourceRequestParams,
        context: Context,
    ) -> Result<ReadResourceResponse, ErrorData> {
        let text = match (resource.uri.as_str(), resource.uri.strip_prefix("test://item/")) {
            (_, Some(id)) => format!("item {id}"),
            ("test://cancelled", _) => self.cancelled.load(Ordering::SeqCst).to_string(),
            ("test://era", _) if is_modern(&context) => "modern".to_owned(),
            ("test://era", _) => "older".to_owned(),
            (uri, _) => return Err(ErrorData::invalid_params(format!("there is no resource {uri:?}"), None)),
        };
        Ok(ReadResourceResult::new(vec![ResourceContents::text(text, resource.uri)]).into())
    }
}
