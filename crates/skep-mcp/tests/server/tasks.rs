//! Calls that outlive their request: a call that does not end at once becomes a task here.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::{
    Value, json,
    value::{RawValue, to_raw_value},
};
use skep_mcp::{
    message::ErrorObject,
    server::{
        BoxFuture, Call, Caller, Change, Description, Limits, Named, Outcome, Peer, Principal, Server, Service, Watch,
        lines,
        tasks::{ATTEMPTS_MAX, NewTask, NotKept, State, Task, TaskStore},
    },
};
use tokio::sync::{Semaphore, broadcast, mpsc};

use crate::support::{self, Client, request, stateless, within};

const EXTENSION: &str = "io.modelcontextprotocol/tasks";

/// A tool for each way to take long.
struct Tools {
    tell: mpsc::UnboundedSender<&'static str>,
    release: Arc<Semaphore>,
    changes: broadcast::Sender<Change>,
}

struct TellAtTheEnd(mpsc::UnboundedSender<&'static str>);

impl Drop for TellAtTheEnd {
    fn drop(&mut self) {
        let _ = self.0.send("ended");
    }
}

impl Tools {
    async fn call(&self, call: &Call, peer: &Peer) -> Outcome {
        let params: Value = serde_json::to_value(&call.params).unwrap();
        let _end = TellAtTheEnd(self.tell.clone());
        let _ = self.tell.send("running");
        if params["name"] != "fast" && params.get("inputResponses").is_none() {
            self.release.acquire().await.unwrap().forget();
        }
        let question = json!({ "mode": "form", "message": "?", "requestedSchema": { "type": "object" } });
        let result = match params["name"].as_str().unwrap() {
            "ask" => {
                let answer = peer.request("elicitation/create", raw(&question)).await?;
                let answer: Value = serde_json::from_str(answer.get()).unwrap();
                json!({ "content": [], "structuredContent": answer })
            }
            "ask_by_result" => match params.get("inputResponses") {
                None => json!({ "resultType": "input_required", "requestState": "s", "inputRequests": {
                    "theirs": { "method": "elicitation/create", "params": question } } }),
                Some(responses) => {
                    let structured = json!([params["requestState"], responses["theirs"]]);
                    json!({ "resultType": "complete", "content": [], "structuredContent": structured })
                }
            },
            "fail" => return Err(ErrorObject::new(-32603, "boom")),
            "large" => json!({ "content": [{ "type": "text", "text": "too large" }] }),
            "err" => json!({ "content": [], "isError": true }),
            _ => json!({ "content": [{ "type": "text", "text": "done" }] }),
        };
        Ok(raw(&result))
    }
}

fn raw(value: &Value) -> Box<RawValue> {
    to_raw_value(value).unwrap()
}

impl Service for Tools {
    fn describe(&self) -> Description {
        Description { info: json!({ "name": "t" }), capabilities: json!({ "tools": {} }), instructions: None }
    }

    fn handle(self: Arc<Self>, call: Call, peer: Peer) -> BoxFuture<Outcome> {
        Box::pin(async move { self.call(&call, &peer).await })
    }

    fn watch(self: Arc<Self>, _: String, _: Arc<Caller>) -> BoxFuture<Result<Watch, ErrorObject>> {
        Box::pin(async { Ok(Box::new(()) as Watch) })
    }

    fn changes(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }

    fn may_repeat(&self, tool: &str) -> bool {
        tool == "safe"
    }
}

/// A store that a test can look into. What a server runs is held as long as the server lives.
#[derive(Clone)]
struct Store {
    rows: Arc<Mutex<HashMap<String, (Task, usize)>>>,
    holder: usize,
    tasks_max: usize,
    /// One for each task that was not taken.
    refused: Arc<Semaphore>,
    /// Says that a task is to be kept, and keeps it when it may.
    gate: Option<(mpsc::UnboundedSender<&'static str>, Arc<Semaphore>)>,
}

impl Store {
    fn new() -> Store {
        Store {
            rows: Arc::default(),
            holder: 1,
            tasks_max: usize::MAX,
            refused: Arc::new(Semaphore::new(0)),
            gate: None,
        }
    }

    /// The same rows, as a server sees them that starts after the other one was killed.
    fn after_kill(&self) -> Store {
        for (_, holder) in self.rows.lock().unwrap().values_mut() {
            *holder = 0;
        }
        Store { holder: self.holder + 1, ..self.clone() }
    }

    fn change(&self, id: &str, change: impl FnOnce(&mut Task)) -> Option<Task> {
        let mut rows = self.rows.lock().unwrap();
        let (task, holder) = rows.get_mut(id)?;
        change(task);
        if task.state.is_over() {
            *holder = 0;
        }
        Some(task.clone())
    }

    fn owned(&self, principal: &Arc<dyn Principal>, id: &str) -> Option<Task> {
        self.rows.lock().unwrap().get(id).map(|row| row.0.clone()).filter(|task| *task.principal == *principal.name())
    }
}

fn named(name: &str) -> Arc<dyn Principal> {
    Arc::new(Named(name.into()))
}

fn ready<T: Send + 'static>(value: T) -> BoxFuture<T> {
    Box::pin(async { value })
}

impl TaskStore for Store {
    fn create(&self, principal: &Arc<dyn Principal>, new: NewTask) -> BoxFuture<Result<Task, ErrorObject>> {
        let mut rows = self.rows.lock().unwrap();
        if rows.len() >= self.tasks_max {
            self.refused.add_permits(1);
            return ready(Err(ErrorObject::new(-31000, "too many")));
        }
        let NewTask { id, params, may_repeat } = new;
        let principal = principal.name().into();
        let (created, expires) = (jiff::Timestamp::UNIX_EPOCH, jiff::Timestamp::from_second(60).unwrap());
        let state = State::Working;
        let task = Task { id, principal, params, may_repeat, attempt: 1, state, created, updated: created, expires };
        rows.insert(task.id.clone(), (task.clone(), self.holder));
        let gate = self.gate.clone();
        Box::pin(async move {
            if let Some((tell, gate)) = gate {
                let _ = tell.send("keeping");
                gate.acquire().await.unwrap().forget();
            }
            Ok(task)
        })
    }

    fn get(&self, principal: &Arc<dyn Principal>, id: &str) -> BoxFuture<Result<Option<Task>, ErrorObject>> {
        ready(Ok(self.owned(principal, id)))
    }

    fn report(&self, id: &str, attempt: u32, state: State) -> BoxFuture<Result<Task, NotKept>> {
        let is_ours = |(task, holder): &(Task, usize)| task.attempt == attempt && *holder == self.holder;
        if !self.rows.lock().unwrap().get(id).is_some_and(is_ours) {
            return ready(Err(NotKept::Lost));
        }
        if matches!(&state, State::Completed(result) if result.get().contains("too large")) {
            return ready(Err(NotKept::Refused(ErrorObject::new(-32603, "it does not fit"))));
        }
        ready(self.change(id, |task| task.state = state).ok_or(NotKept::Lost))
    }

    fn cancel(&self, principal: &Arc<dyn Principal>, id: &str) -> BoxFuture<Result<Option<Task>, ErrorObject>> {
        let owned = self.owned(principal, id).is_some();
        let cancel = |task: &mut Task| {
            if !task.state.is_over() {
                task.state = State::Cancelled;
            }
        };
        ready(Ok(if owned { self.change(id, cancel) } else { None }))
    }

    fn hold(&self, ids: Vec<String>) -> BoxFuture<Result<Vec<(String, u32)>, ErrorObject>> {
        let rows = self.rows.lock().unwrap();
        let held = ids.into_iter().filter_map(|id| {
            let (task, holder) = rows.get(&id)?;
            (*holder == self.holder).then_some((id, task.attempt))
        });
        ready(Ok(held.collect()))
    }

    fn release(&self, id: &str) -> BoxFuture<Result<(), ErrorObject>> {
        if let Some(row) = self.rows.lock().unwrap().get_mut(id) {
            row.1 = 0;
        }
        ready(Ok(()))
    }

    fn principal(&self, name: &Arc<str>) -> Arc<dyn Principal> {
        named(name)
    }

    fn take_over(&self) -> BoxFuture<Result<Vec<Task>, ErrorObject>> {
        let mut rows = self.rows.lock().unwrap();
        let abandoned = rows.values_mut().filter(|(task, holder)| *holder == 0 && !task.state.is_over());
        let taken = abandoned.map(|(task, holder)| {
            (task.attempt, *holder, task.state) = (task.attempt + 1, self.holder, State::Working);
            task.clone()
        });
        ready(Ok(taken.collect()))
    }
}

struct Hub {
    server: Server,
    store: Store,
    told: mpsc::UnboundedReceiver<&'static str>,
    release: Arc<Semaphore>,
}

impl Hub {
    fn new(store: Store) -> Hub {
        let (tell, told) = mpsc::unbounded_channel();
        let release = Arc::new(Semaphore::new(0));
        let tools = Tools { tell, release: Arc::clone(&release), changes: broadcast::channel(1).0 };
        let limits = Limits { task_after: Duration::ZERO, ..Limits::default() };
        let server = Server::with_tasks(Arc::new(tools), limits, Arc::new(store.clone()));
        server.keep_tasks();
        Hub { server, store, told, release }
    }

    /// What the next start finds when this one was killed with everything that it ran.
    fn killed(self) -> Hub {
        Hub::new(self.store.after_kill())
    }

    fn connect(&self, principal: &str) -> Client {
        let options = lines::Options { principal: named(principal), ..lines::Options::default() };
        support::connect(&self.server, options, 1 << 20)
    }

    async fn told(&mut self, expected: &str) {
        assert_eq!(within(self.told.recv()).await, Some(expected));
    }
}

fn declared() -> Value {
    json!({ "elicitation": {}, "extensions": { EXTENSION: {} } })
}

/// Ask on the next number, and give the result.
async fn ask(client: &mut Client, method: &str, params: Value) -> Value {
    static ID: AtomicUsize = AtomicUsize::new(1000);
    let id = ID.fetch_add(1, Ordering::Relaxed) as i64;
    client.ask(stateless(request(id, method, params), declared())).await
}

async fn begin(client: &mut Client, tool: &str) -> String {
    let answer = ask(client, "tools/call", json!({ "name": tool, "arguments": {} })).await;
    let result = &answer["result"];
    assert_eq!((&result["resultType"], &result["status"]), (&json!("task"), &json!("working")), "{answer}");
    result["taskId"].as_str().unwrap().to_owned()
}

async fn get(client: &mut Client, id: &str) -> Value {
    let mut answer = ask(client, "tasks/get", json!({ "taskId": id })).await;
    answer["result"].take()
}

/// Look at a task until it is so.
async fn until(client: &mut Client, id: &str, status: &str) -> Value {
    within(async {
        loop {
            let task = get(client, id).await;
            if task["status"] == status {
                return task;
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_long_call_becomes_a_task_that_is_stored_before_its_handle_is_given() {
    let mut hub = Hub::new(Store::new());
    let mut client = hub.connect("ann");
    let answer = ask(&mut client, "tools/call", json!({ "name": "slow", "arguments": {} })).await;
    let mut handle = answer["result"].clone();
    let id = handle["taskId"].as_str().unwrap().to_owned();
    assert!(hub.store.rows.lock().unwrap().contains_key(&id));
    assert_eq!(id.len(), 32, "128 bits, in hexadecimal digits");
    handle["taskId"].take();
    handle["_meta"].take();
    assert_eq!(
        handle,
        json!({ "resultType": "task", "_meta": null, "taskId": null, "status": "working", "ttlMs": 60_000,
            "createdAt": "1970-01-01T00:00:00Z", "lastUpdatedAt": "1970-01-01T00:00:00Z", "pollIntervalMs": 1000 })
    );
    assert_eq!(get(&mut client, &id).await["status"], "working");
    client.end().await.unwrap(); // the task outlives the connection that it began on
    hub.told("running").await;
    hub.release.add_permits(1);
    let mut client = hub.connect("ann");
    let task = until(&mut client, &id, "completed").await;
    assert_eq!(task["resultType"], "complete");
    assert_eq!(task["result"], json!({ "content": [{ "type": "text", "text": "done" }] }));
}

#[tokio::test]
async fn what_ends_soon_is_answered_plainly_and_who_did_not_declare_the_extension_never_sees_a_task() {
    let mut hub = Hub::new(Store::new());
    let mut client = hub.connect("ann");
    let fast = ask(&mut client, "tools/call", json!({ "name": "fast" })).await;
    assert_eq!(fast["result"]["resultType"], "complete");
    hub.told("running").await;
    hub.told("ended").await;
    let slow = json!({ "name": "slow" });
    client.send(stateless(request(1, "tools/call", slow.clone()), json!({}))).await;
    hub.told("running").await;
    hub.release.add_permits(1);
    assert_eq!(client.next().await["result"]["resultType"], "complete");
    hub.told("ended").await;
    for method in ["tasks/get", "tasks/update", "tasks/cancel"] {
        let refused = client.ask(stateless(request(2, method, json!({ "taskId": "x" })), json!({}))).await;
        assert_eq!(refused["error"]["code"], -32021, "{method}");
        assert_eq!(refused["error"]["data"]["requiredCapabilities"], json!({ "extensions": { EXTENSION: {} } }));
    }
    let listen = json!({ "notifications": { "taskIds": ["x"] } });
    let mut refused = client.ask(stateless(request(3, "subscriptions/listen", listen), json!({}))).await;
    if refused["method"] == "notifications/cancelled" {
        refused = client.next().await; // how a connection with lines says that a listener has ended
    }
    assert_eq!(refused["error"]["code"], -32021);
    for method in ["tasks/list", "tasks/result"] {
        assert_eq!(ask(&mut client, method, json!({})).await["error"]["code"], -32601, "{method}");
    }
    let discovered = ask(&mut client, "server/discover", json!({})).await;
    assert_eq!(discovered["result"]["capabilities"]["extensions"], json!({ EXTENSION: {} }));

    let mut legacy = hub.connect("ann");
    let initialized = legacy.initialize("2025-11-25", declared()).await;
    assert_eq!(initialized["result"]["capabilities"].get("extensions"), None);
    legacy.send(request(1, "tools/call", slow)).await;
    hub.told("running").await;
    hub.release.add_permits(1);
    assert_eq!(legacy.next().await["result"]["content"][0]["text"], "done");
    assert!(hub.store.rows.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_call_that_the_store_does_not_take_goes_on_as_it_was() {
    let hub = Hub::new(Store { tasks_max: 0, ..Store::new() });
    let mut client = hub.connect("ann");
    client.send(stateless(request(1, "tools/call", json!({ "name": "slow" })), declared())).await;
    within(hub.store.refused.acquire()).await.unwrap().forget();
    hub.release.add_permits(1);
    assert_eq!(client.next().await["result"]["content"][0]["text"], "done");
}

#[tokio::test]
async fn a_caller_who_withdraws_before_there_is_a_handle_leaves_no_task_that_runs() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let gate = Arc::new(Semaphore::new(0));
    let mut hub = Hub::new(Store { gate: Some((tell, Arc::clone(&gate))), ..Store::new() });
    let mut client = hub.connect("ann");
    client.send(stateless(request(1, "tools/call", json!({ "name": "slow" })), declared())).await;
    hub.told("running").await;
    assert_eq!(within(told.recv()).await, Some("keeping"));
    client.send(json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": 1 } })).await;
    let discovered = ask(&mut client, "server/discover", json!({})).await; // the withdrawal was read
    assert!(discovered["result"].is_object());
    gate.add_permits(1);
    hub.told("ended").await;
    let rows = hub.store.rows.lock().unwrap();
    assert!(rows.values().all(|(task, _)| matches!(task.state, State::Cancelled)), "{rows:?}");
}

#[tokio::test]
async fn a_task_is_its_principals_alone() {
    let hub = Hub::new(Store::new());
    let id = begin(&mut hub.connect("ann"), "slow").await;
    let mut bob = hub.connect("bob");
    for (method, params) in [
        ("tasks/get", json!({ "taskId": id })),
        ("tasks/cancel", json!({ "taskId": id })),
        ("tasks/update", json!({ "taskId": id, "inputResponses": {} })),
    ] {
        let refused = ask(&mut bob, method, params).await;
        assert_eq!(refused["error"]["code"], -32602, "{method}");
    }
    let listen = json!({ "notifications": { "taskIds": [id] } });
    let acknowledged = ask(&mut bob, "subscriptions/listen", listen).await;
    assert_eq!(acknowledged["params"]["notifications"], json!({ "taskIds": [] }));
    assert_eq!(get(&mut hub.connect("ann"), &id).await["status"], "working");
}

#[tokio::test]
async fn cancelling_a_task_ends_its_call() {
    let mut hub = Hub::new(Store::new());
    let mut client = hub.connect("ann");
    let id = begin(&mut client, "slow").await;
    hub.told("running").await;
    let acknowledged = ask(&mut client, "tasks/cancel", json!({ "taskId": id })).await;
    assert_eq!(acknowledged["result"]["resultType"], "complete");
    hub.told("ended").await;
    assert_eq!(get(&mut client, &id).await["status"], "cancelled");
    // Another server of the same store may be asked, too: the one that runs it finds out.
    let id = begin(&mut client, "slow").await;
    hub.told("running").await;
    assert!(hub.store.cancel(&named("ann"), &id).await.unwrap().is_some());
    hub.told("ended").await;
}

#[tokio::test]
async fn a_task_asks_its_caller_and_goes_on_with_the_answer() {
    for (tool, expected) in
        [("ask", json!({ "action": "accept" })), ("ask_by_result", json!(["s", { "action": "accept" }]))]
    {
        let hub = Hub::new(Store::new());
        let mut client = hub.connect("ann");
        let id = begin(&mut client, tool).await;
        hub.release.add_permits(1);
        let task = until(&mut client, &id, "input_required").await;
        let (key, asked) = task["inputRequests"].as_object().unwrap().iter().next().unwrap();
        assert_eq!(asked["method"], "elicitation/create");
        let update = |key: &str| json!({ "taskId": id, "inputResponses": { key: { "action": "accept" } } });
        let acknowledged = ask(&mut client, "tasks/update", update("unknown")).await;
        assert_eq!(acknowledged["result"]["resultType"], "complete", "unknown keys are ignored");
        assert_eq!(get(&mut client, &id).await["inputRequests"], task["inputRequests"]);
        ask(&mut client, "tasks/update", update(key)).await;
        assert_ne!(get(&mut client, &id).await["status"], "input_required", "acknowledged is kept");
        let task = until(&mut client, &id, "completed").await;
        assert_eq!(task["result"], json!({ "content": [], "structuredContent": expected }));
        let late = ask(&mut client, "tasks/update", update(key)).await;
        assert_eq!(late["result"]["resultType"], "complete");
    }
}

#[tokio::test]
async fn errors_of_the_protocol_fail_a_task_and_those_of_a_tool_complete_it() {
    let hub = Hub::new(Store::new());
    let mut client = hub.connect("ann");
    let (failing, erring) = (begin(&mut client, "fail").await, begin(&mut client, "err").await);
    let large = begin(&mut client, "large").await;
    hub.release.add_permits(3);
    let failed = until(&mut client, &failing, "failed").await;
    assert_eq!(
        (&failed["error"], &failed["statusMessage"]),
        (&json!({ "code": -32603, "message": "boom" }), &json!("boom"))
    );
    assert_eq!(until(&mut client, &erring, "completed").await["result"]["isError"], true);
    let large = until(&mut client, &large, "failed").await;
    assert_eq!(large["error"]["message"], "it does not fit", "a result that is not kept is a failure");
}

#[tokio::test]
async fn a_listener_hears_of_each_change_with_the_whole_task() {
    let hub = Hub::new(Store::new());
    let mut client = hub.connect("ann");
    let id = begin(&mut client, "ask").await;
    let mut listener = hub.connect("ann");
    let listen = json!({ "notifications": { "taskIds": [id, "unknown"] } });
    listener.send(stateless(request(7, "subscriptions/listen", listen), declared())).await;
    let acknowledged = listener.next().await;
    assert_eq!(acknowledged["method"], "notifications/subscriptions/acknowledged");
    assert_eq!(acknowledged["params"]["notifications"], json!({ "taskIds": [id] }));
    let mut hear = async || {
        let heard = listener.next().await;
        assert_eq!(heard["method"], "notifications/tasks");
        assert_eq!(heard["params"]["taskId"], json!(id));
        assert_eq!(heard["params"]["_meta"], json!({ "io.modelcontextprotocol/subscriptionId": 7 }));
        heard["params"].clone()
    };
    assert_eq!(hear().await["status"], "working", "as it is when the listener comes");
    hub.release.add_permits(1);
    let asked = hear().await;
    assert_eq!(asked["status"], "input_required");
    let key = asked["inputRequests"].as_object().unwrap().keys().next().unwrap();
    ask(&mut client, "tasks/update", json!({ "taskId": id, "inputResponses": { key: { "action": "decline" } } })).await;
    let mut last = hear().await;
    if last["status"] == "working" {
        last = hear().await; // two changes may come close enough to be seen as one
    }
    assert_eq!(last["status"], "completed");
    assert_eq!(last["result"]["structuredContent"], json!({ "action": "decline" }));
}

#[tokio::test]
async fn after_a_kill_a_safe_call_is_made_again_and_any_other_has_failed() {
    let hub = Hub::new(Store::new());
    let mut client = hub.connect("ann");
    let (safe, unsafe_, done) =
        (begin(&mut client, "safe").await, begin(&mut client, "slow").await, begin(&mut client, "err").await);
    hub.release.add_permits(1); // the first that waits is the safe one: it is done
    until(&mut client, &safe, "completed").await;
    let again = begin(&mut client, "safe").await;

    let mut hub = hub.killed();
    let mut client = hub.connect("ann");
    assert_eq!(get(&mut client, &safe).await["status"], "completed", "what had ended is as it was");
    for id in [&unsafe_, &done] {
        let failed = until(&mut client, id, "failed").await;
        let message = failed["error"]["message"].as_str().unwrap();
        assert!(message.contains("the hub was restarted while the call ran"), "{message}");
    }
    hub.told("running").await;
    let working = get(&mut client, &again).await;
    assert!(working["statusMessage"].as_str().unwrap().contains("attempt 2"), "{working}");
    hub.release.add_permits(1);
    until(&mut client, &again, "completed").await;
}

#[tokio::test]
async fn a_call_that_is_cut_off_each_time_is_given_up() {
    let mut hub = Hub::new(Store::new());
    let id = begin(&mut hub.connect("ann"), "safe").await;
    for _ in 1..ATTEMPTS_MAX {
        hub = hub.killed();
        hub.told("running").await;
    }
    let hub = hub.killed();
    let failed = until(&mut hub.connect("ann"), &id, "failed").await;
    assert!(failed["error"]["message"].as_str().unwrap().contains("3 times"), "{failed}");
}

#[tokio::test]
async fn a_server_that_stops_lets_go_and_a_former_attempt_is_not_heard() {
    let mut hub = Hub::new(Store::new());
    let id = begin(&mut hub.connect("ann"), "safe").await;
    hub.told("running").await;
    within(hub.server.suspend_tasks()).await;
    hub.told("ended").await;
    assert_eq!(hub.store.rows.lock().unwrap()[&id].1, 0, "nobody holds it");
    // A hub that was only thought dead goes on, and says so too late.
    let mut former = Hub::new(Store { holder: 5, ..hub.store.clone() });
    former.told("running").await;
    let mut next = Hub::new(former.store.after_kill());
    next.told("running").await;
    former.release.add_permits(1);
    former.told("ended").await;
    assert_eq!(get(&mut next.connect("ann"), &id).await["status"], "working");
    next.release.add_permits(1);
    until(&mut next.connect("ann"), &id, "completed").await;
}
