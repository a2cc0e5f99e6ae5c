//! The server that is measured behind everything: it answers at once.

use std::{io, sync::Arc};

use serde_json::{json, value::to_raw_value};
use skep_mcp::{
    message::ErrorObject,
    server::{
        BoxFuture, Call, Caller, Change, Description, Limits, Members, Outcome, Peer, Server, Service, Watch, code,
        http, lines,
    },
};
use tokio::sync::broadcast;

/// Bytes of the text that the tool `large` answers with.
pub(crate) const LARGE_BYTES: usize = 1_000_000;
/// What the tool `small` answers with.
pub(crate) const SMALL: &str = "it is done";

/// Serve on standard input and output, or on this address.
pub(crate) async fn serve(address: Option<&str>) -> io::Result<()> {
    let upstream = Upstream { changes: broadcast::channel(1).0, large: "x".repeat(LARGE_BYTES) };
    let server = Server::new(Arc::new(upstream), Limits::default());
    let Some(address) = address else {
        return lines::serve(&server, tokio::io::stdin(), tokio::io::stdout(), lines::Options::default()).await;
    };
    let listener = tokio::net::TcpListener::bind(address).await?;
    eprintln!("listening on http://{}", listener.local_addr()?);
    let listener = axum::serve::ListenerExt::tap_io(listener, |stream| {
        let _ = stream.set_nodelay(true); // then it is slower
    });
    axum::serve(listener, http::router(server)).await
}

struct Upstream {
    changes: broadcast::Sender<Change>,
    large: String,
}

impl Service for Upstream {
    fn describe(&self) -> Description {
        Description {
            info: json!({ "name": "upstream", "version": "1" }),
            capabilities: json!({ "tools": {} }),
            instructions: None,
        }
    }

    fn handle(self: Arc<Self>, call: Call, _: Peer) -> BoxFuture<Outcome> {
        Box::pin(async move {
            let params = call.params.as_deref().and_then(Members::parse).unwrap_or_default();
            let text = |text: &str| json!({ "content": [{ "type": "text", "text": text }] });
            let tool = |name| json!({ "name": name, "description": "Answers.", "inputSchema": { "type": "object" } });
            let result = match (call.method.as_str(), params.read::<String>("name").as_deref()) {
                ("tools/list", _) => json!({ "tools": [tool("small"), tool("large")] }),
                ("tools/call", Some("small")) => text(SMALL),
                ("tools/call", Some("large")) => text(&self.large),
                (method, _) => return Err(ErrorObject::new(code::METHOD_NOT_FOUND, format!("no {method}"))),
            };
            to_raw_value(&result).map_err(|error| ErrorObject::new(code::INTERNAL_ERROR, error.to_string()))
        })
    }

    fn watch(self: Arc<Self>, _: String, _: Arc<Caller>) -> BoxFuture<Result<Watch, ErrorObject>> {
        Box::pin(async { Err(ErrorObject::new(code::INVALID_PARAMS, "nothing can be watched")) })
    }

    fn changes(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }
}
