use super::*;

fn read_as(name: &str, text: &str) -> (Vec<Upstream>, Vec<String>) {
    let here = tempfile::tempdir().unwrap();
    let path = here.path().join(name);
    std::fs::write(&path, text).unwrap();
    let variable = |name: &str| (name == "TOKEN").then(|| "t0ken".to_owned());
    let (upstreams, problems) = read(&path, variable);
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
        (
            r#"{"command": "x", "args": ["${GONE}"]}"#,
            "mcpServers.a.args[0]: the environment has no GONE; set it, or write",
        ),
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
        (r#"{"command": "x", "timeout": "soon"}"#, "mcpServers.a.timeout: must be a time such as"),
    ] {
        let (servers, problems) = read_as("c.json", &format!("{{\"mcpServers\": {{\n\"a\": {entry}\n}}}}"));
        assert!(servers.is_empty(), "{entry}");
        assert!(
            problems.iter().any(|one| one.starts_with("c.json:2:") && one.contains(expected)),
            "{entry}: {problems:?}"
        );
    }
    let (_, problems) = read_as("c.json", r#"{"mcpServers": {"a__b": {"command": "x"}}}"#);
    assert!(problems[0].contains("a server's name has at most 64"), "{problems:?}");
    let (_, problems) = read_as("c.json", "{}");
    assert!(problems[0].contains("there is no table `mcpServers`"), "{problems:?}");
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
fn tools_are_allowed_by_name() {
    let filter = |allow: &[&str], deny: &[&str]| {
        let own = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Filter { allow: own(allow), deny: own(deny) }
    };
    assert!(filter(&[], &[]).allows("x"));
    assert!(filter(&["x"], &[]).allows("x") && !filter(&["x"], &[]).allows("y"));
    assert!(!filter(&["x"], &["x"]).allows("x"), "who is denied is not allowed");
}
