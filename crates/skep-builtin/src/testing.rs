//! What the tests of tools share: directories, and a call whose arguments are checked first.

use std::net::SocketAddr;

use axum::Router;
use serde_json::Value;
use skep_core::{
    Namespace,
    app::App,
    db::{Db, Limits},
    policy::{self, Actor, Permit},
};
use skep_tools::{
    error::ToolError,
    net::{Client, HostPort, Settings},
    shared::Shared,
    tool::{BuiltIn, Tool},
    workspace::{Context, Dir, Outputs},
};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;

/// An empty workspace and empty outputs that go away with the value.
pub(crate) struct Fixture {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) context: Context,
}

impl Fixture {
    pub(crate) fn new() -> Fixture {
        let directory = tempfile::tempdir().unwrap();
        let workspace = Dir::create(&directory.path().join("workspace")).unwrap();
        let outputs = Dir::create(&directory.path().join("outputs")).unwrap();
        let context = Context::new(permit(), workspace, Outputs::new(outputs, "task"), CancellationToken::new());
        Fixture { directory, context }
    }

    /// Put a file into the workspace, or into the outputs if the path begins with `outputs/`.
    pub(crate) fn file(&self, path: &str, bytes: impl AsRef<[u8]>) {
        let (dir, inside) = self.context.locate(path);
        dir.write(inside, bytes.as_ref()).unwrap();
    }
}

/// A store of its own, in the fixture's directory.
pub(crate) async fn store(fixture: &Fixture) -> Shared {
    let address = format!("sqlite:{}", fixture.directory.path().join("hub.db").display());
    Shared(Some(App::new(Db::open(&address, Limits::default()).await.unwrap())))
}

/// A server that ends with the value.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    _task: JoinSet<()>,
}

pub(crate) async fn serve(router: Router) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut task = JoinSet::new();
    task.spawn(async move { axum::serve(listener, router).await.unwrap() });
    Server { address, _task: task }
}

impl Server {
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// A client that may reach this server and nothing else of this machine.
    pub(crate) fn client(&self) -> Client {
        let own = HostPort::try_from(self.address.to_string()).unwrap();
        Client::new(&Settings { allow_hosts: vec![own], ..Settings::default() })
    }
}

/// The right to call tools.
pub(crate) fn permit() -> Permit<policy::Call> {
    Actor::operator("test", Namespace::team("test")).permit().unwrap()
}

/// Check the arguments, and run the tool. The answer has no `status`.
pub(crate) async fn call<B: BuiltIn>(tool: B, fixture: &Fixture, arguments: Value) -> Result<Value, ToolError> {
    call_within(tool, fixture, arguments, None).await
}

/// The same with a deadline of its own.
pub(crate) async fn call_within<B: BuiltIn>(
    tool: B,
    fixture: &Fixture,
    arguments: Value,
    deadline: Option<std::time::Duration>,
) -> Result<Value, ToolError> {
    let tool = Tool::new(tool);
    let faults = tool.faults(&arguments);
    if !faults.is_empty() {
        return Err(ToolError::InvalidArguments(faults));
    }
    let context = fixture.context.clone().with_deadline(deadline.unwrap_or(tool.deadline));
    tool.run(context, arguments).await.map(Value::Object)
}
