use proptest::prelude::*;

use super::*;

fn read_as(name: &str, text: &str) -> (Vec<Upstream>, Vec<String>) {
    let here = tempfile::tempdir().unwrap();
    let path = here.path().join(name);
    std::fs::write(&path, text).unwrap();
    let variable = |name: &str| (name == "TOKEN").then(|| "t0ken".to_owned());
    let Listed { servers: upstreams, mut problems, notices } = read(&path, variable);
    problems.extend(notices);
    let directory = format!("{}/", here.path().display());
    (upstreams, problems.iter().map(|problem| problem.to_string().replace(&directory, "")).collect())
}

#[test]
fn the_files_of_claude_desktop_cursor_and_vs_code_are_read() {
    let desktop = r#"{"globalShortcut": "", "mcpServers": {
        "files": {"command": "npx", "args": ["-y", "server-filesystem", "${DIR:-/tmp}"], "env": {"KEY": "${TOKEN}"}},
        "off": {"command": "${NO_SUCH_VARIABLE}", "disabled": true}
    }}"#;
    let (servers, problems) = read_as("claude_desktop_config.json", desktop);
    assert!(problems.is_empty(), "{problems:?}");
    let [server] = &servers[..] else { panic!("{servers:?}") };
    let Transport::Stdio(command) = &server.transport else { panic!("{server:?}") };
    assert_eq!((server.name.as_str(), command.program.as_str()), ("files", "npx"));
    assert_eq!(command.args, ["-y", "server-filesystem", "/tmp"]);
    assert_eq!(command.env["KEY"].reveal(), "t0ken");
    assert!(!format!("{server:?}").contains("t0ken"), "secrets are not shown");

    let code = r#"{"servers": {"hub": {
        "type": "http", "url": "https://hub.example/mcp", "headers": {"Authorization": "Bearer ${env:TOKEN}"},
        "gallery": true, "timeout": "5s"
    }}}"#;
    let (servers, problems) = read_as("mcp.json", code);
    assert_eq!(problems.len(), 1);
    assert!(problems[0].starts_with("mcp.json:3:9: warning: servers.hub.gallery: "), "{problems:?}");
    let Transport::Http { headers, is_sse: false, .. } = &servers[0].transport else { panic!("{servers:?}") };
    assert_eq!(headers["Authorization"].reveal(), "Bearer t0ken");
    assert_eq!(servers[0].timeout, Duration::from_secs(5));
}

#[test]
fn every_fault_names_its_place_and_what_to_do() {
    for (entry, expected) in [
        (r#"{"command": "x", "url": "http://y"}"#, "mcpServers.a.url: a server has a command or a URL, not both"),
        (r#"{"args": []}"#, "mcpServers.a: `command` or `url` is missing"),
        (r#"{"command": 7}"#, "mcpServers.a.command: must be text"),
        (r#"{"command": "x", "env": {"A": "${input:key}"}}"#, "mcpServers.a.env.A: ${input:key} is not known here"),
        (r#"{"command": "x", "env": {"A": "${TOKEN"}}"#, "mcpServers.a.env.A: `${` has no `}`"),
        (r#"{"url": "ftp://x"}"#, "mcpServers.a.url: must begin with https://"),
        (r#"{"url": "tcp://x"}"#, "mcpServers.a.url: must be tcp://host:port"),
        (
            r#"{"url": "http://x", "headers": {"a b": "c"}}"#,
            "mcpServers.a.headers: \"a b\" is not the name of a header",
        ),
        (r#"{"type": "stdio", "url": "http://x"}"#, "mcpServers.a.type: a server of the type stdio has a command"),
        (r#"{"type": "carrier-pigeon", "url": "http://x"}"#, "mcpServers.a.type: "),
        (
            r#"{"url": "https://x", "oauth": {"clientSecret": "s"}}"#,
            "mcpServers.a.oauth: a secret or a key belongs to a clientId",
        ),
        (
            r#"{"url": "https://x", "oauth": {"grant": "client_credentials", "clientId": "me"}}"#,
            "mcpServers.a.oauth: the grant client_credentials needs",
        ),
        (r#"{"url": "https://x", "oauth": {"grant": "password"}}"#, "mcpServers.a.oauth.grant: "),
        (r#"{"url": "https://x", "oauth": {"clientMetadataUrl": "http://x/y"}}"#, "must be the https address"),
        (r#"{"command": "x", "oauth": {}}"#, "mcpServers.a.oauth: is for servers with an http address"),
        (r#"{"command": "x", "timeout": "soon"}"#, "mcpServers.a.timeout: must be a time such as"),
    ] {
        let (servers, problems) = read_as("c.json", &format!("{{\"mcpServers\": {{\n\"a\": {entry}\n}}}}"));
        assert!(servers.is_empty(), "{entry}");
        assert!(
            problems.iter().any(|one| one.starts_with("c.json:2:") && one.contains(expected)),
            "{entry}: {problems:?}"
        );
    }
    for name in ["a__b", "a_", "_a", "_", "", "a b", &"a".repeat(65)] {
        let (servers, problems) =
            read_as("c.json", &format!("{{\"mcpServers\": {{\n{name:?}: {{\"command\": \"x\"}}}}}}"));
        assert!(servers.is_empty(), "{name:?}");
        assert!(problems[0].starts_with("c.json:2:"), "{name:?}: {problems:?}");
        assert!(problems[0].contains("a server's name has at most 64"), "{name:?}: {problems:?}");
    }
    for name in ["a", "a_b", "a-", "a.b", "-a"] {
        let (servers, problems) = read_as("c.json", &format!(r#"{{"mcpServers": {{"{name}": {{"command": "x"}}}}}}"#));
        assert!(servers.len() == 1 && problems.is_empty(), "{name:?}: {problems:?}");
    }
    let (_, problems) = read_as("c.json", "{}");
    assert!(problems[0].contains("there is no table `mcpServers`"), "{problems:?}");
}

#[test]
fn a_tool_can_require_a_claim_beside_the_lists_of_tools() {
    let text = r#"{"mcpServers": {"files": {"command": "x", "tools": {
        "deny": ["delete"],
        "write": {"requires_claim": "{{ arguments.path }}"},
        "move": {"requires_claim": {"path": "{{ arguments.paths }}", "task": "site", "root": "/srv"}}
    }}}}"#;
    let (servers, problems) = read_as("c.json", text);
    assert!(problems.is_empty(), "{problems:?}");
    let tools = &servers[0].tools;
    assert!(tools.allows("write") && tools.allows("read") && !tools.allows("delete"));
    let claim = tools.claim_required("write").unwrap();
    assert_eq!((claim.path.as_str(), &claim.task), ("{{ arguments.path }}", &None));
    let claim = tools.claim_required("move").unwrap();
    assert_eq!((claim.task.as_deref(), claim.root.as_deref()), (Some("site"), Some("/srv")));
    assert_eq!(tools.claim_required("read"), None);
    for (tools, expected) in [
        (r#"{"write": {"requires_claim": "{{ argument.path }}"}}"#, "sees nothing but `arguments`"),
        (r#"{"write": {"requires_claim": "{{ arguments.path"}}"#, "tools.write.requires_claim: "),
        (r#"{"write": {"requires_claim": {"path": "a", "root": "srv"}}}"#, "must be an absolute path"),
        (r#"{"write": {"requires_claim": {"file": "a"}}}"#, "tools.write.requires_claim"),
        (r#"{"write": {"require_claim": "a"}}"#, "tools.write"),
        (r#"{"alow": ["read"]}"#, "tools.alow"),
    ] {
        let (servers, problems) =
            read_as("c.json", &format!(r#"{{"mcpServers": {{"a": {{"command": "x", "tools": {tools}}}}}}}"#));
        assert!(servers.is_empty(), "{tools}");
        assert!(problems.iter().any(|problem| problem.contains(expected)), "{tools}: {problems:?}");
    }
}

#[test]
fn a_server_whose_variable_is_not_set_is_there_with_the_reason_beside_the_others() {
    let text = r#"{"mcpServers": {
        "a": {"url": "${GONE}", "tools": {"deny": ["x"]}},
        "b": {"command": "x", "args": ["-${GONE}", "${TOKEN}"]},
        "c": {"command": "x", "args": ["${GONE:-y}"]}
    }}"#;
    let (servers, problems) = read_as("c.json", text);
    let names: Vec<_> = servers.iter().map(|one| (one.name.as_str(), one.unusable.as_deref())).collect();
    let why = Some("the environment has no GONE; set it, or write ${GONE:-default}");
    assert_eq!(names, [("a", why), ("b", why), ("c", None)]);
    assert!(!servers[0].tools.allows("x"));
    assert_eq!(problems.len(), 2);
    assert!(
        problems[0].starts_with("c.json:2:15: warning: mcpServers.a.url: the environment has no GONE"),
        "{problems:?}"
    );
    let (servers, problems) = read_as("c.json", r#"{"mcpServers": {"a__b": {"command": "${GONE}"}}}"#);
    assert!(servers.is_empty() && problems[0].contains("a server's name has at most 64"), "{problems:?}");
    let alone = read_one("a", json!({ "command": "${GONE}" }), |_| None);
    assert!(alone.unwrap_err()[0].starts_with("command: the environment has no GONE"));
}

#[test]
fn the_file_of_codex_is_read() {
    let codex = r#"
model = "gpt-5"
[mcp_servers.files]
command = "npx"
args = ["-y", "server"]
env_vars = ["TOKEN", "UNSET"]
env = { A = "b" }
startup_timeout_sec = 20
tool_timeout_sec = 1.5
enabled_tools = ["read", "write"]
disabled_tools = ["write"]
[mcp_servers.remote]
url = "https://h.example/mcp"
bearer_token_env_var = "TOKEN"
http_headers = { X-Region = "eu" }
env_http_headers = { X-Key = "TOKEN" }
[mcp_servers.lacks]
url = "https://h.example/mcp"
bearer_token_env_var = "GONE"
[mcp_servers.off]
command = "x"
enabled = false
"#;
    let (servers, problems) = read_as("config.toml", codex);
    let one = |name: &str| servers.iter().find(|one| one.name == name).unwrap();
    assert_eq!(servers.len(), 3);
    let files = one("files");
    let Transport::Stdio(command) = &files.transport else { panic!("{files:?}") };
    let env: Vec<_> = command.env.iter().map(|(name, value)| (name.as_str(), value.reveal())).collect();
    assert_eq!(env, [("A", "b"), ("TOKEN", "t0ken"), ("UNSET", "")]);
    assert_eq!((files.start_time_max, files.timeout), (Duration::from_secs(20), Duration::from_millis(1500)));
    assert_eq!(["read", "write", "x"].map(|tool| files.tools.allows(tool)), [true, false, false]);
    let Transport::Http { headers, .. } = &one("remote").transport else { panic!("{servers:?}") };
    let headers: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.reveal())).collect();
    assert_eq!(headers, [("Authorization", "Bearer t0ken"), ("X-Key", "t0ken"), ("X-Region", "eu")]);
    assert!(one("lacks").unusable.as_ref().unwrap().starts_with("the environment has no GONE"));
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].contains("warning: mcp_servers.lacks: the environment has no GONE"), "{problems:?}");
}

#[test]
fn a_server_is_switched_off_in_either_way() {
    for (entry, count) in [
        (r#"{"command": "x", "enabled": false}"#, 0),
        (r#"{"command": "x", "disabled": true}"#, 0),
        (r#"{"command": "x", "enabled": true, "disabled": true}"#, 0),
        (r#"{"command": "x", "enabled": true}"#, 1),
        (r#"{"command": "${GONE}", "enabled": false}"#, 0),
    ] {
        let (servers, problems) = read_as("c.json", &format!(r#"{{"mcpServers": {{"a": {entry}}}}}"#));
        assert_eq!((servers.len(), problems.len()), (count, 0), "{entry}: {problems:?}");
    }
}

#[test]
fn comments_and_commas_after_the_last_entry_are_taken() {
    let text =
        "{\n\t// mine\n\t\"servers\": {\n\t\t\"a\": { \"command\": \"x\", /* why */ \"args\": [\"//\",], },\n\t},\n}\n";
    let (servers, problems) = read_as("mcp.json", text);
    assert!(problems.is_empty(), "{problems:?}");
    assert!(matches!(&servers[0].transport, Transport::Stdio(command) if command.args == ["//"]));
}

#[test]
fn what_clients_call_differently_counts_all_the_same() {
    let one = |entry: &str| {
        let (mut servers, problems) = read_as("c.json", &format!(r#"{{"mcpServers": {{"a": {entry}}}}}"#));
        assert!(problems.is_empty(), "{entry}: {problems:?}");
        servers.remove(0)
    };
    let tools = |entry: &str| {
        let tools = one(&format!(r#"{{"command": "x", {entry}}}"#)).tools;
        ["read", "write"].map(|tool| tools.allows(tool))
    };
    assert_eq!(tools(r#""type": "local", "tools": ["*"]"#), [true, true]);
    assert_eq!(tools(r#""tools": ["read"]"#), [true, false]);
    assert_eq!(tools(r#""tools": []"#), [false, false]);
    assert_eq!(tools(r#""includeTools": ["read", "write"], "excludeTools": ["write"]"#), [true, false]);
    assert_eq!(tools(r#""disabledTools": ["write"]"#), [true, false]);
    assert_eq!(one(r#"{"command": "x", "idleTimeout": "5s"}"#).idle_time_max, Duration::from_secs(5));
    for key in ["serverUrl", "httpUrl"] {
        let server = one(&format!(r#"{{"{key}": "http://h.example/mcp"}}"#));
        assert!(matches!(&server.transport, Transport::Http { url, .. } if url.reveal() == "http://h.example/mcp"));
    }

    let (_, problems) = read_as("c.json", "{\"mcpServers\": {\"a\": {\"command\": \"x\",\n\"disabledTools\": [7]}}}");
    assert!(problems[0].starts_with("c.json:2:19: mcpServers.a.disabledTools[0]: must be text"), "{problems:?}");
    let twice = r#"{"mcpServers": {"a": {"url": "http://a.example", "serverUrl": "http://b.example"}}}"#;
    let (servers, problems) = read_as("c.json", twice);
    assert!(problems[0].contains("a.serverUrl: is not known here and has no effect"), "{problems:?}");
    assert!(matches!(&servers[0].transport, Transport::Http { url, .. } if url.reveal() == "http://a.example"));
}

#[test]
fn how_tokens_are_got_is_read_as_clients_write_it() {
    let wanted = OAuth {
        client_id: Some("me".to_owned()),
        client_secret: Some(Secret::new("t0ken")),
        scopes: vec!["read".to_owned(), "write".to_owned()],
        ..OAuth::default()
    };
    for entry in [
        r#""oauth": {"clientId": "me", "clientSecret": "${TOKEN}", "scopes": "read  write"}"#, // Claude Code
        r#""auth": {"CLIENT_ID": "me", "CLIENT_SECRET": "${TOKEN}", "scopes": ["read", "write"]}"#, // Cursor
        r#""oauth": {"enabled": true, "clientId": "me", "clientSecret": "${TOKEN}", "scopes": ["read", "write"]}"#, // Gemini CLI
    ] {
        let text = format!(r#"{{"mcpServers": {{"a": {{"url": "https://a.test/mcp", {entry}}}}}}}"#);
        let (servers, problems) = read_as("c.json", &text);
        let Transport::Http { oauth, .. } = &servers[0].transport else { panic!("{problems:?}") };
        assert_eq!(oauth.as_deref(), Some(&wanted), "{problems:?}");
        assert!(!format!("{servers:?}").contains("t0ken"), "secrets are not shown");
        let warned: Vec<&str> = problems.iter().map(String::as_str).collect();
        assert!(warned.is_empty() || (entry.contains("enabled") && warned[0].contains("oauth.enabled")), "{warned:?}");
    }
}

#[test]
fn tools_are_allowed_by_name() {
    let filter = |allow: &[&str], deny: &[&str]| {
        let own = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Tools { allow: own(allow), deny: own(deny), ..Tools::default() }
    };
    assert!(filter(&[], &[]).allows("x"));
    assert!(filter(&["x"], &[]).allows("x") && !filter(&["x"], &[]).allows("y"));
    assert!(!filter(&["x"], &["x"]).allows("x"), "who is denied is not allowed");
}

/// A part of a text: the text before it, and a variable.
type Part = (String, bool, String, Option<String>);

fn parts() -> impl Strategy<Value = Vec<Part>> {
    let part = ("[^{]{0,6}", any::<bool>(), "[A-D]", prop::option::of("[^}]{0,5}"));
    prop::collection::vec(part, 0..5)
}

/// The text of these parts, and what it means in this environment.
fn written(parts: &[Part], environment: &BTreeMap<String, String>) -> (String, Option<String>) {
    let (mut text, mut meaning) = (String::new(), Some(String::new()));
    for (before, has_prefix, name, default) in parts {
        let prefix = if *has_prefix { "env:" } else { "" };
        let suffix = default.as_ref().map_or(String::new(), |default| format!(":-{default}"));
        text.push_str(&format!("{before}${{{prefix}{name}{suffix}}}"));
        let value = match (environment.get(name), default) {
            (Some(value), None) => Some(value),
            (Some(value), Some(_)) if !value.is_empty() => Some(value),
            (_, default) => default.as_ref(),
        };
        meaning = meaning.zip(value).map(|(meaning, value)| format!("{meaning}{before}{value}"));
    }
    (text, meaning)
}

/// A value as it may stand in such a file, right or wrong.
fn any_value() -> impl Strategy<Value = Value> {
    let texts = ["stdio", "http", "http://h.example/", "tcp://h:1", "${A}", "${A:-x}", "${", "5s", "soon", "*", ""];
    let leaf = prop_oneof![
        prop::sample::select(texts.to_vec()).prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        Just(Value::Null),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        let members = prop::collection::btree_map("[a-dA-D]{1,2}|allow|deny", inner.clone(), 0..4);
        prop_oneof![
            prop::collection::vec(inner, 0..4).prop_map(Value::from),
            members.prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// An entry with some of the keys that there are, and one that there is not.
fn any_entry() -> impl Strategy<Value = Value> {
    const KEYS: [&str; 16] = [
        "type",
        "command",
        "args",
        "env",
        "cwd",
        "url",
        "headers",
        "disabled",
        "tools",
        "timeout",
        "exclusive",
        "calls_at_once",
        "serverUrl",
        "disabledTools",
        "idleTimeout",
        "gallery",
    ];
    prop::collection::btree_map(prop::sample::select(&KEYS[..]), any_value(), 0..6)
        .prop_map(|members| Value::Object(members.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()))
}

/// What is read of a file with this in it.
fn read_bytes(bytes: &[u8], environment: &BTreeMap<String, String>) -> (Vec<Upstream>, Vec<Diagnostic>) {
    let file = tempfile::Builder::new().suffix(".json").tempfile().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    let listed = read(file.path(), |name| environment.get(name).cloned());
    (listed.servers, listed.problems)
}

fn environment() -> impl Strategy<Value = BTreeMap<String, String>> {
    prop::collection::btree_map("[A-D]", ".{0,4}", 0..4)
}

proptest! {
    #[test]
    fn variables_are_put_in_wherever_they_stand(parts in parts(), after in "[^{]{0,6}", environment in environment()) {
        let (text, meaning) = written(&parts, &environment);
        let expanded = expand_text(&format!("{text}{after}"), |name| environment.get(name).cloned());
        prop_assert_eq!(expanded.ok(), meaning.map(|meaning| meaning + &after));
    }

    #[test]
    fn any_text_is_expanded_or_refused(text: String, environment in environment()) {
        let expanded = expand_text(&text, |name| environment.get(name).cloned());
        let has_variable = text.contains("${");
        prop_assert!(has_variable || expanded == Ok(text));
    }

    #[test]
    fn any_file_gives_its_servers_or_says_what_is_wrong(
        servers in prop::collection::btree_map("[a-z_]{1,3}", any_entry(), 0..4),
        environment in environment(),
        cut in prop::option::of(0_usize..400),
    ) {
        let mut bytes = json!({ "mcpServers": servers }).to_string().into_bytes();
        bytes.truncate(cut.unwrap_or(usize::MAX));
        let (read, problems) = read_bytes(&bytes, &environment);
        let is_wrong = problems.iter().any(Diagnostic::is_error);
        let is_whole = serde_json::from_slice::<Value>(&bytes).is_ok();
        prop_assert!(is_whole || is_wrong, "cut off, it is no file of servers");
        let on = servers.values().filter(|entry| entry["disabled"] != true).count();
        prop_assert_eq!(read.len(), if is_wrong { 0 } else { on });
        prop_assert!(problems.iter().all(|problem| !problem.to_string().is_empty()));
    }

    #[test]
    fn any_bytes_are_a_file_of_servers_or_a_fault(bytes: Vec<u8>) {
        let (read, problems) = read_bytes(&bytes, &BTreeMap::new());
        prop_assert!(read.is_empty() && !problems.is_empty());
    }

    #[test]
    fn what_a_client_writes_is_what_is_run(
        program in "[a-z]{1,6}",
        args in prop::collection::vec(parts(), 0..4),
        env in prop::collection::btree_map("[A-Z]{1,4}", parts(), 0..3),
        environment in environment(),
    ) {
        let text = |parts: &Vec<Part>| written(parts, &environment).0;
        let meaning = |parts: &Vec<Part>| written(parts, &environment).1;
        let entry = json!({
            "command": program,
            "args": args.iter().map(text).collect::<Vec<_>>(),
            "env": env.iter().map(|(name, parts)| (name.clone(), text(parts))).collect::<BTreeMap<_, _>>(),
        });
        let (read, problems) = read_bytes(json!({ "mcpServers": { "a": entry } }).to_string().as_bytes(), &environment);
        let args: Option<Vec<String>> = args.iter().map(meaning).collect();
        let env: Option<BTreeMap<String, Secret>> =
            env.iter().map(|(name, parts)| Some((name.clone(), Secret::new(meaning(parts)?)))).collect();
        let expected = args.zip(env).map(|(args, env)| Transport::Stdio(Command { program, args, env, cwd: None }));
        let run = read.first().filter(|server| server.unusable.is_none()).map(|server| server.transport.clone());
        prop_assert_eq!(run, expected, "{:?}", problems);
    }
}
