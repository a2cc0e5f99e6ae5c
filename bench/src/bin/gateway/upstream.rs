//! The server that is measured behind everything: it answers at once.
//!
//! It is made with `rmcp`, the protocol's own Rust SDK, in the mode in which that is fastest: what stands before a server
//! is measured before one that its users could have written.

use std::{io, sync::Arc};

use rmcp::{
    ErrorData, RoleServer, ServerHandler, ServiceExt as _,
    model::{
        CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, ListToolsResult, PaginatedRequestParams,
        ServerCapabilities, ServerConfig,
    },
    service::RequestContext,
    transport::streamable_http_server::{
        StreamableHttpServerConfig, StreamableHttpService, session::local::LocalSessionManager,
    },
};
use serde_json::json;

/// Bytes of the text that the tool `large` answers with.
pub(crate) const LARGE_BYTES: usize = 1_000_000;
/// What the tool `small` answers with.
pub(crate) const SMALL: &str = "it is done";

/// Serve on standard input and output, or on this address.
pub(crate) async fn serve(address: Option<&str>) -> io::Result<()> {
    let upstream = Upstream { large: "x".repeat(LARGE_BYTES).into() };
    let Some(address) = address else {
        let serving = upstream.serve(rmcp::transport::stdio()).await.map_err(io::Error::other)?;
        return serving.waiting().await.map(drop).map_err(io::Error::other);
    };
    let sessions = Arc::new(LocalSessionManager::default());
    let config = StreamableHttpServerConfig::default().with_legacy_session_mode(false).with_json_response(true);
    let service = StreamableHttpService::new(move || Ok(upstream.clone()), sessions, config);
    let listener = tokio::net::TcpListener::bind(address).await?;
    eprintln!("listening on http://{}", listener.local_addr()?);
    let listener = axum::serve::ListenerExt::tap_io(listener, |stream| {
        let _ = stream.set_nodelay(true); // then it is slower
    });
    axum::serve(listener, axum::Router::new().nest_service("/mcp", service)).await
}

#[derive(Clone)]
struct Upstream {
    large: Arc<str>,
}

impl ServerHandler for Upstream {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
    }

    async fn list_tools(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        let tool = |name| json!({ "name": name, "description": "Answers.", "inputSchema": { "type": "object" } });
        let list = serde_json::from_value(json!({ "tools": [tool("small"), tool("large")] }));
        list.map_err(|error| ErrorData::internal_error(error.to_string(), None))
    }

    async fn call_tool(
        &self,
        call: CallToolRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let text = match call.name.as_ref() {
            "small" => SMALL,
            "large" => &*self.large,
            other => return Err(ErrorData::invalid_params(format!("there is no tool {other:?}"), None)),
        };
        Ok(CallToolResult::success(vec![ContentBlock::text(text)]).into())
    }
}
