//! Other users of the machine: really others, so these tests need root and say so where they do not have it.

use std::{
    io::{Read as _, Write as _},
    net::SocketAddr,
    os::unix::{
        fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
        net::UnixStream,
        process::CommandExt as _,
    },
    path::Path,
    process::{Command, Stdio},
};

use serde_json::{Value, json};

use crate::{
    support::{Served, User},
    wire::{Hub, call, initialize},
};

/// Users that nobody is.
const STRANGER: u32 = 65_533;
const ANOTHER: u32 = 65_532;

/// Says what an HTTP server answers: method, address, port, path, headers as JSON, body.
const ASK: &str = r#"
import http.client, json, sys
method, address, port, path, headers, body = sys.argv[1:]
connection = http.client.HTTPConnection(address, int(port), timeout=60)
connection.request(method, path, body or None, json.loads(headers))
answer = connection.getresponse()
print(json.dumps([answer.status, answer.read().decode()]))
"#;

/// Says the first line that a server of lines answers: address, port, line.
const SAY: &str = r#"
import socket, sys
connection = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=60)
connection.sendall(sys.argv[3].encode() + b"\n")
print(connection.makefile().readline())
"#;

/// Closes its end at once, before the hub has had a chance to look.
const FLEE: &str = r#"
import socket, struct, sys
for _ in range(50):
    connection = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=60)
    connection.sendall(sys.argv[3].encode())
    connection.close()
"#;

/// Whether tests may become somebody else; they say so if not.
fn is_root() -> bool {
    let is_root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
    if !is_root {
        eprintln!("skipped: only root can be somebody else");
    }
    is_root
}

fn python(user: u32, script: &str, arguments: &[&str]) -> String {
    let mut command = Command::new("python3");
    command.args(["-c", script]).args(arguments).current_dir("/").uid(user).gid(user);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What this user is answered over HTTP: the status, and the body.
fn ask(user: u32, hub: SocketAddr, (method, path): (&str, &str), headers: &Value, body: &Value) -> (u16, String) {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let (address, port) = (hub.ip().to_string(), hub.port().to_string());
    let said = python(user, ASK, &[method, &address, &port, path, &headers.to_string(), &body]);
    serde_json::from_str(&said).unwrap()
}

/// What this user is answered on lines.
fn say(user: u32, hub: SocketAddr, message: &Value) -> Value {
    let said = python(user, SAY, &[&hub.ip().to_string(), &hub.port().to_string(), &message.to_string()]);
    serde_json::from_str(&said).unwrap()
}

fn read_secret() -> Value {
    json!({ "tool": "file_read", "args": { "path": "secret.txt" } })
}

fn with_secret() -> User {
    let user = User::new();
    user.file("secret.txt", "for my eyes alone");
    std::fs::set_permissions(user.workspace().join("secret.txt"), std::fs::Permissions::from_mode(0o600)).unwrap();
    user
}

/// Requests of every kind: to the router, and those that are answered beside it.
fn requests() -> Vec<((&'static str, &'static str), Value)> {
    vec![
        (("POST", "/tools/file_read"), json!({ "path": "secret.txt" })),
        (("POST", "/process"), read_secret()),
        (("POST", "/mcp"), initialize("2025-11-25")),
        (("POST", "/mcp"), call(1, "file_read", json!({ "path": "secret.txt" }))),
        (("GET", "/mcp"), Value::Null),
        (("GET", "/sse"), Value::Null),
        (("GET", "/tools"), Value::Null),
        (("GET", "/servers"), Value::Null),
        (("GET", "/health"), Value::Null),
        (("GET", "/metrics"), Value::Null),
        (("GET", "/nothing"), Value::Null),
    ]
}

#[test]
fn a_hub_on_loopback_answers_no_other_user_at_any_listener() {
    if !is_root() {
        return;
    }
    let hub = Hub::of(with_secret(), "", &[]);
    for (what, body) in requests() {
        let (status, said) = ask(STRANGER, hub.http, what, &json!({}), &body);
        assert_eq!(status, 403, "{what:?}: {said}");
        assert!(said.contains("--allow-local-users") && said.contains("SKEP_TOKEN"), "what to do: {said}");
        assert!(!said.contains("my eyes"), "{said}");
        // Nor does it help to say that one is somebody else, or to know a token where none is configured.
        let lies = json!({ "authorization": "Bearer correct-horse-battery", "x-forwarded-for": "127.0.0.1" });
        assert_eq!(ask(STRANGER, hub.http, what, &lies, &body).0, 403, "{what:?}");
    }
    let refused = say(STRANGER, hub.tcp, &call(1, "file_read", json!({ "path": "secret.txt" })));
    assert!(refused["error"]["message"].as_str().unwrap().contains("--allow-local-users"), "{refused}");
    assert_eq!(refused.get("result"), None);

    let (status, said) = ask(0, hub.http, ("POST", "/process"), &json!({}), &read_secret());
    assert_eq!(status, 200);
    assert!(said.contains("my eyes"), "whoever runs it: {said}");
    let answered = say(0, hub.tcp, &call(1, "file_read", json!({ "path": "secret.txt" })));
    assert_eq!(answered["result"]["structuredContent"]["content"], "for my eyes alone", "{answered}");
}

#[test]
fn a_caller_that_flees_before_it_is_looked_at_has_nothing_done() {
    if !is_root() {
        return;
    }
    let hub = Hub::of(with_secret(), "", &[]);
    let body = json!({ "tool": "file_write", "args": { "path": "planted.txt", "content": "x" } }).to_string();
    let request = format!(
        "POST /process HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    python(STRANGER, FLEE, &[&hub.http.ip().to_string(), &hub.http.port().to_string(), &request]);
    // By then the hub has accepted all that came before.
    assert_eq!(ask(0, hub.http, ("GET", "/health"), &json!({}), &Value::Null).0, 200);
    let (_, listed) = ask(0, hub.http, ("POST", "/tools/list_files"), &json!({}), &json!({ "path": "outputs" }));
    assert!(!listed.contains("planted"), "{listed}");
}

#[test]
fn another_user_is_answered_with_a_token_or_where_the_hub_was_told_so() {
    if !is_root() {
        return;
    }
    let token = "correct-horse-battery";
    let hub = Hub::of(with_secret(), "", &[("SKEP_TOKEN", token)]);
    let with = json!({ "authorization": format!("Bearer {token}") });
    for (what, body) in [(("POST", "/process"), read_secret()), (("POST", "/mcp"), initialize("2025-11-25"))] {
        assert_eq!(ask(STRANGER, hub.http, what, &with, &body).0, 200);
        assert_eq!(ask(STRANGER, hub.http, what, &json!({}), &body).0, 401);
    }
    for (settings, environment) in
        [("[serve]\nallow_local_users = true\n", None), ("", Some(("SKEP_ALLOW_LOCAL_USERS", "1")))]
    {
        let hub = Hub::of(with_secret(), settings, environment.as_slice());
        let (status, said) = ask(STRANGER, hub.http, ("POST", "/process"), &json!({}), &read_secret());
        assert_eq!(status, 200);
        assert!(said.contains("my eyes"), "{said}");
        assert_eq!(ask(STRANGER, hub.http, ("POST", "/mcp"), &json!({}), &initialize("2025-11-25")).0, 200);
        let answered = say(STRANGER, hub.tcp, &call(1, "file_read", json!({ "path": "secret.txt" })));
        assert_eq!(answered["result"]["structuredContent"]["content"], "for my eyes alone", "{answered}");
    }
    let mut flagged =
        Served::start(&mut with_secret().command(&["serve", "--bind", "127.0.0.1:0", "--allow-local-users"]));
    let address = flagged.url.rsplit('/').next().unwrap().parse().unwrap();
    assert_eq!(ask(STRANGER, address, ("GET", "/tools"), &json!({}), &Value::Null).0, 200);
    flagged.stop();
}

#[test]
fn a_hub_of_an_ordinary_user_answers_that_user_and_root() {
    if !is_root() {
        return;
    }
    let user = with_secret();
    for path in [user.home(), user.workspace(), &user.workspace().join("secret.txt")] {
        std::os::unix::fs::chown(path, Some(STRANGER), Some(STRANGER)).unwrap();
    }
    let as_user = |arguments: &[&str]| {
        let mut command = user.command(arguments);
        command.uid(STRANGER).gid(STRANGER);
        command
    };
    match as_user(&["--version"]).stdout(Stdio::null()).status() {
        Ok(status) if status.success() => {}
        other => return eprintln!("skipped: {STRANGER} cannot execute the program here: {other:?}"),
    }
    let hub = Served::start(&mut as_user(&["serve", "--bind", "127.0.0.1:0"]));
    let address: SocketAddr = hub.url.rsplit('/').next().unwrap().parse().unwrap();
    for (who, expected) in [(STRANGER, 200), (0, 200), (ANOTHER, 403)] {
        for (what, body) in [(("POST", "/process"), read_secret()), (("POST", "/mcp"), initialize("2025-11-25"))] {
            let (status, said) = ask(who, address, what, &json!({}), &body);
            assert_eq!(status, expected, "{who}: {said}");
        }
    }
}

/// What a hub answers on its Unix socket.
fn ask_socket(path: &Path, request: &str) -> String {
    let mut stream = UnixStream::connect(path).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn post(path: &str, body: &Value) -> String {
    let body = body.to_string();
    let length = body.len();
    format!("POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}")
}

#[test]
fn the_unix_socket_is_for_its_user_alone_and_needs_no_token() {
    let user = with_secret();
    let serve = |more: &[&str]| {
        let arguments = [&["serve", "--bind", "127.0.0.1:0", "--tcp", "127.0.0.1:0"], more].concat();
        let mut command = user.command(&arguments);
        command.env("SKEP_TOKEN", "correct-horse-battery");
        Served::start(&mut command)
    };
    let socket = user.home().join("hub.sock");
    let mut hub = serve(&[]);
    let file = std::fs::metadata(&socket).unwrap();
    assert!(file.file_type().is_socket());
    assert_eq!(file.permissions().mode() & 0o777, 0o600);
    for request in [post("/process", &read_secret()), post("/mcp", &initialize("2025-11-25"))] {
        let answer = ask_socket(&socket, &request);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    // The plain way has no Connection header.
    let plain = post("/mcp", &initialize("2025-11-25")).replace("connection: close\r\n", "");
    let mut stream = UnixStream::connect(&socket).unwrap();
    stream.write_all(plain.as_bytes()).unwrap();
    let mut status = [0; 12];
    stream.read_exact(&mut status).unwrap();
    assert_eq!(&status, b"HTTP/1.1 200");
    if is_root() {
        std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o666)).unwrap();
        std::fs::set_permissions(user.home(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let opened = "import socket, sys\ns = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])\n\
            s.sendall(b'GET /tools HTTP/1.1\\r\\nhost: localhost\\r\\n\\r\\n'); print(s.recv(12).decode())";
        let said = python(STRANGER, opened, &[socket.to_str().unwrap()]);
        assert_eq!(said.trim(), "HTTP/1.1 403", "even if somebody opened the file to others");
    }

    let second = serve(&[]);
    assert!(
        ask_socket(&socket, &post("/process", &read_secret())).starts_with("HTTP/1.1 200"),
        "the first has it still"
    );
    drop(second);
    hub.kill();
    assert!(socket.exists(), "a killed hub leaves it");
    let mut third = serve(&[]);
    assert!(
        ask_socket(&socket, &post("/process", &read_secret())).starts_with("HTTP/1.1 200"),
        "the next one replaces it"
    );
    third.stop();
    assert!(!socket.exists());

    let mut without = serve(&["--unix", "none"]);
    assert!(!socket.exists());
    without.stop();
    let elsewhere = user.workspace().join("skep.sock");
    let mut named = serve(&["--unix", elsewhere.to_str().unwrap()]);
    assert!(ask_socket(&elsewhere, &post("/process", &read_secret())).starts_with("HTTP/1.1 200"));
    named.stop();
    assert!(!elsewhere.exists());
}
