//! Skep between callers and servers that are made with `rmcp`, the protocol's Rust SDK: each era and transport before it
//! with each behind it.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../../crates/skep-mcp/examples/caller/hub.rs"]
mod hub;

use std::{path::Path, process::Stdio, time::Duration};

use rmcp::{
    ClientHandler, ClientLifecycleMode, ClientServiceExt as _, ErrorData, RoleClient,
    model::{
        CallToolRequest, CallToolRequestParams, ClientCapabilities, ClientConfig, ClientRequest, ElicitRequestParams,
        ElicitResult, ElicitationAction, GetPromptRequestParams, Implementation, ProgressNotificationParam,
        ProtocolVersion, ReadResourceRequestParams, ServerResult,
    },
    service::{NotificationContext, PeerRequestOptions, RequestContext, RequestHandle, RunningService},
    transport::StreamableHttpClientTransport,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
    sync::mpsc,
    time::{sleep, timeout},
};

use self::hub::Hub;

/// Nothing here takes so long unless it is broken.
const PATIENCE: Duration = Duration::from_secs(30);

/// A program that the same build has made: this test is `target/<profile>/deps/…`.
fn built(path: &str) -> String {
    let test = std::env::current_exe().unwrap();
    let program = test.parent().and_then(Path::parent).unwrap().join(path);
    assert!(program.exists(), "{} is missing; build it with `cargo build --workspace`", program.display());
    program.to_str().unwrap().to_owned()
}

fn skep() -> String {
    built("skep")
}

fn server() -> String {
    built("examples/rmcp-server")
}

/// A caller that says who it is when it is asked, and passes on what it hears of progress.
struct Ann(mpsc::UnboundedSender<ProgressNotificationParam>);

impl ClientHandler for Ann {
    fn get_info(&self) -> ClientConfig {
        let capabilities = ClientCapabilities::builder().enable_elicitation().build();
        ClientConfig::new(capabilities, Implementation::new("ann", "1"))
    }

    async fn create_elicitation(
        &self,
        question: ElicitRequestParams,
        _: RequestContext<RoleClient>,
    ) -> Result<ElicitResult, ErrorData> {
        let question = serde_json::to_value(question).unwrap();
        assert_eq!(question["requestedSchema"]["properties"]["name"]["type"], "string", "{question}");
        let mut answer = ElicitResult::new(ElicitationAction::Accept);
        answer.content = Some(json!({ "name": "Ann" }));
        Ok(answer)
    }

    async fn on_progress(&self, progress: ProgressNotificationParam, _: NotificationContext<RoleClient>) {
        let _ = self.0.send(progress); // the test may have heard enough
    }
}

struct Caller {
    service: RunningService<RoleClient, Ann>,
    progress: mpsc::UnboundedReceiver<ProgressNotificationParam>,
}

/// How somebody is spoken to.
#[derive(Clone, Copy, Debug)]
enum Era {
    /// As in 2026-07-28.
    Modern,
    /// As before.
    Older,
}

impl Era {
    fn lifecycle(self) -> ClientLifecycleMode {
        match self {
            Era::Older => ClientLifecycleMode::Initialize,
            Era::Modern => ClientLifecycleMode::Discover { preferred_versions: vec![ProtocolVersion::V_2026_07_28] },
        }
    }
}

impl Caller {
    async fn over_http(url: &str, era: Era) -> Caller {
        let transport = StreamableHttpClientTransport::from_uri(url);
        let (tell, progress) = mpsc::unbounded_channel();
        Caller { service: Ann(tell).serve_with_lifecycle(transport, era.lifecycle()).await.unwrap(), progress }
    }

    /// By way of `skep mcp-stdio`, which the caller starts.
    async fn over_stdio(server: &Value, era: Era, home: &Path) -> (Caller, Child) {
        let config = home.join("mcp.json");
        std::fs::write(&config, json!({ "mcpServers": { "server": server } }).to_string()).unwrap();
        let mut command = Command::new(skep());
        command.arg("--home").arg(home).arg("mcp-stdio").arg("--workspace").arg(home);
        command.args(["--no-prefix", "--mcp-config"]).arg(&config);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let transport = (child.stdout.take().unwrap(), child.stdin.take().unwrap());
        let (tell, progress) = mpsc::unbounded_channel();
        (Caller { service: Ann(tell).serve_with_lifecycle(transport, era.lifecycle()).await.unwrap(), progress }, child)
    }

    async fn begin(&self, tool: &'static str) -> RequestHandle<RoleClient> {
        let call = ClientRequest::CallToolRequest(CallToolRequest::new(CallToolRequestParams::new(tool)));
        self.service.send_cancellable_request(call, PeerRequestOptions::no_options()).await.unwrap()
    }

    async fn call(&self, tool: &'static str, arguments: Value) -> Value {
        let mut call = CallToolRequestParams::new(tool);
        call.arguments = arguments.as_object().cloned();
        serde_json::to_value(self.service.call_tool(call).await.unwrap()).unwrap()
    }

    async fn read(&self, uri: &str) -> String {
        let read = self.service.read_resource(ReadResourceRequestParams::new(uri)).await.unwrap();
        serde_json::to_value(read).unwrap()["contents"][0]["text"].as_str().unwrap().to_owned()
    }

    /// Use everything that the server has, which is spoken to in this way.
    async fn try_everything(mut self, behind: Era) {
        assert_eq!(self.read("test://era").await, format!("{behind:?}").to_lowercase());
        let names = |all: Value| -> Vec<String> {
            all.as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect()
        };
        let tools = serde_json::to_value(self.service.list_all_tools().await.unwrap()).unwrap();
        let echo = tools.as_array().unwrap().iter().find(|tool| tool["name"] == "echo").unwrap();
        assert_eq!(echo["description"], "Says it again");
        assert_eq!(echo["inputSchema"]["required"], json!(["text"]));
        assert_eq!(names(tools), ["ask", "count", "echo", "hang"]);
        let echoed = self.call("echo", json!({ "text": "größer\n" })).await;
        assert_eq!(echoed["content"][0]["text"], "größer\n");
        let unknown = self.service.call_tool(CallToolRequestParams::new("other")).await;
        assert!(unknown.unwrap_err().to_string().contains("other"));

        let prompts = serde_json::to_value(self.service.list_all_prompts().await.unwrap()).unwrap();
        assert_eq!(names(prompts), ["greet"]);
        let mut prompt = GetPromptRequestParams::new("greet");
        prompt.arguments = serde_json::from_value(json!({ "name": "Bob" })).unwrap();
        let prompt = serde_json::to_value(self.service.get_prompt(prompt).await.unwrap()).unwrap();
        assert_eq!(prompt["messages"][0]["content"]["text"], "Greet Bob");

        let resources = serde_json::to_value(self.service.list_all_resources().await.unwrap()).unwrap();
        assert_eq!(resources[0]["uri"], "test://cancelled");
        let templates = serde_json::to_value(self.service.list_all_resource_templates().await.unwrap()).unwrap();
        assert_eq!(templates[0]["uriTemplate"], "test://item/{id}");
        assert_eq!(self.read("test://item/7").await, "item 7");

        let asked = self.call("ask", json!({})).await;
        assert_eq!(asked["content"][0]["text"], "Hello, Ann!");

        let counting = self.begin("count").await;
        let token = counting.progress_token.clone();
        let ServerResult::CallToolResult(counted) = counting.await_response().await.unwrap() else {
            panic!("it did not count");
        };
        assert_eq!(serde_json::to_value(counted).unwrap()["content"][0]["text"], "counted");
        for step in [1.0, 2.0, 3.0] {
            let told = self.progress.recv().await.unwrap();
            assert_eq!((told.progress_token, told.progress), (token.clone(), step));
        }

        let before: usize = self.read("test://cancelled").await.parse().unwrap();
        let hanging = self.begin("hang").await;
        self.progress.recv().await.unwrap(); // the server is at it
        hanging.cancel(None).await.unwrap();
        // The withdrawal is a message of its own, which may come later than the next question.
        while self.read("test://cancelled").await != (before + 1).to_string() {
            sleep(Duration::from_millis(10)).await;
        }
        self.service.cancel().await.unwrap();
    }
}

/// The server, over HTTP: a process that ends with the value, and its URL.
async fn listening(arguments: &[&str]) -> (Child, String) {
    let mut command = Command::new(server());
    let mut child = command.args(arguments).stderr(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let line = lines.next_line().await.unwrap().unwrap();
    (child, line.strip_prefix("listening on ").unwrap().to_owned())
}

/// Callers of both eras over both transports, with this server of this era behind the hub.
async fn is_served_to_all(server: &Value, behind: Era) {
    let home = closed_directory();
    let hub = Hub::start(&skep(), server, home.path()).await.unwrap();
    for era in [Era::Modern, Era::Older] {
        let over_http = async { Caller::over_http(&hub.url, era).await.try_everything(behind).await };
        timeout(PATIENCE, over_http).await.unwrap_or_else(|_| panic!("{era:?} over HTTP: nothing happens"));
        let home = closed_directory();
        let over_stdio = async {
            let (caller, mut child) = Caller::over_stdio(server, era, home.path()).await;
            caller.try_everything(behind).await;
            assert!(child.wait().await.unwrap().success());
        };
        timeout(PATIENCE, over_stdio).await.unwrap_or_else(|_| panic!("{era:?} over stdio: nothing happens"));
    }
    hub.stop().await.unwrap();
}

#[tokio::test]
async fn a_server_on_stdio_is_served_to_callers_of_both_eras() {
    is_served_to_all(&json!({ "command": server(), "args": ["stdio"] }), Era::Modern).await;
}

#[tokio::test]
async fn an_older_server_on_stdio_is_served_to_callers_of_both_eras() {
    is_served_to_all(&json!({ "command": server(), "args": ["stdio", "older"] }), Era::Older).await;
}

#[tokio::test]
async fn a_server_on_http_is_served_to_callers_of_both_eras() {
    let (_server, url) = listening(&["http"]).await;
    is_served_to_all(&json!({ "url": url }), Era::Modern).await;
}

#[tokio::test]
async fn an_older_server_on_http_is_served_to_callers_of_both_eras() {
    let (_server, url) = listening(&["http", "older"]).await;
    is_served_to_all(&json!({ "url": url }), Era::Older).await;
}

/// A directory that others may not enter, for the state of a hub beside other things.
fn closed_directory() -> tempfile::TempDir {
    let closed = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    tempfile::Builder::new().permissions(closed).tempdir().unwrap()
}
