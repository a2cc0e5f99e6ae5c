//! Bad input gets a clear error, loses nothing, and leaves nothing running.

mod support;

use std::fmt::Write as _;

use support::User;

#[test]
fn a_plan_with_too_many_tasks_is_refused_with_the_limit() {
    let user = User::new();
    let mut plan = "name: many\ntasks:\n".to_owned();
    for n in 0..10_000 {
        writeln!(plan, "  t{n}: {{ tool: bash, args: {{ command: 'true' }} }}").unwrap();
    }
    user.file("plan.yaml", &plan);
    let said = user.skep(&["run", "plan.yaml"]);
    assert_eq!(said.code(), 1);
    assert!(said.stderr().contains("10000") && said.stderr().contains("4096"), "{}", said.stderr());
    assert!(said.stderr().lines().count() < 10, "one error is enough");
}

#[test]
fn a_plan_with_a_cycle_is_refused_and_the_cycle_is_named() {
    let user = User::new();
    user.file(
        "plan.yaml",
        "name: n\ntasks:\n  a: { tool: bash, depends_on: c, args: { command: x } }\n  \
         b: { tool: bash, depends_on: a, args: { command: x } }\n  \
         c: { tool: bash, args: { command: '{{ tasks.b.result }}' } }\n",
    );
    let said = user.skep(&["run", "plan.yaml"]);
    assert_ne!(said.code(), 0);
    for name in ["a", "b", "c"] {
        assert!(said.stderr().contains(name), "{}", said.stderr());
    }
    assert!(said.stderr().contains("cycle") || said.stderr().contains("each other"), "{}", said.stderr());
}

#[test]
fn a_plan_that_is_not_there_or_not_a_plan_is_an_error() {
    let user = User::new();
    user.file("list.yaml", "- 1\n- 2\n");
    user.file("broken.yaml", "name: [\n");
    for (file, expected) in
        [("none.yaml", "none.yaml"), ("list.yaml", "list.yaml:1:1"), ("broken.yaml", "broken.yaml:")]
    {
        let said = user.skep(&["run", file]);
        assert_eq!(said.code(), 1);
        assert!(said.stderr().contains(expected), "{}", said.stderr());
    }
}

#[test]
fn a_tool_that_floods_forks_hangs_or_daemonises_costs_only_itself() {
    let user = User::new();
    let plan = r#"
name: hostile
tasks:
  floods: { tool: bash, allow_failure: true, args: { command: "yes" } }
  forks: { tool: bash, timeout: 2s, allow_failure: true, args: { command: "bomb() { bomb | bomb & }; bomb; sleep 60" } }
  hangs: { tool: bash, timeout: 1s, allow_failure: true, args: { command: "trap '' TERM INT HUP; sleep 600" } }
  daemonises: { tool: bash, args: { command: "setsid sh -c 'sleep 600 &' & echo done" } }
  well: { tool: bash, timeout: 60s, args: { command: "echo well" } }
"#;
    user.file("plan.yaml", plan);
    user.skep(&["run", "plan.yaml"]).ok();
    let tasks = user.skep(&["show", "--json"]).ok().json()["tasks"].clone();
    let error = |n: usize| tasks[n]["error"].as_str().unwrap_or_default().to_owned();
    assert!(error(0).contains("printed more than allowed"), "{}", error(0));
    assert!(error(2).contains("timed out after 1s"), "{}", error(2));
    assert_eq!(tasks[3]["result"]["stdout"], "done\n");
    assert_eq!(tasks[4]["result"]["stdout"], "well\n");
}

#[test]
fn a_file_that_is_no_database_is_left_as_it_is() {
    let user = User::new();
    user.skep(&["runs"]).ok();
    let path = user.home().join("skep.db");
    for name in ["skep.db-wal", "skep.db-shm"] {
        let _ = std::fs::remove_file(user.home().join(name));
    }
    let garbage = "this is not a database, but somebody's only copy of something. ".repeat(100);
    std::fs::write(&path, &garbage).unwrap();
    let said = user.skep(&["runs"]);
    assert_ne!(said.code(), 0);
    assert!(said.stderr().contains("skep.db") || said.stderr().contains("database"), "{}", said.stderr());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), garbage);
}

#[test]
fn values_that_are_too_large_for_a_task_fail_that_task_alone() {
    let user = User::new();
    let plan = r#"
name: large
tasks:
  large: { tool: compose, allow_failure: true, args: { text: "{{ 'x' * 9000000 }}" } }
  small: { tool: compose, args: { text: "{{ tasks.large.status }}" } }
"#;
    user.file("plan.yaml", plan);
    user.skep(&["run", "plan.yaml"]).ok();
    let tasks = user.skep(&["show", "--json"]).ok().json()["tasks"].clone();
    assert_eq!((&tasks[0]["status"], &tasks[1]["result"]["text"]), (&"failed".into(), &"failed".into()));
}

#[test]
fn a_limit_is_the_same_for_a_flag_a_variable_and_a_file() {
    let user = User::new();
    user.file("plan.yaml", "tasks: { a: { tool: compose, args: { text: hi } } }\n");
    user.file("settings.toml", "[run]\nactors = 0\n");
    for (arguments, variable, code, expected) in [
        (&["run", "plan.yaml", "--actors", "0"][..], None, 2, "command line: --actors: must be at least 1"),
        (&["run", "plan.yaml", "--actors", "1000"], None, 2, "command line: --actors: must be at most 64"),
        (&["run", "plan.yaml", "--observers", "65"], None, 2, "command line: --observers: must be at most 64"),
        (&["run", "plan.yaml"], Some("0"), 1, "environment: SKEP_ACTORS: must be at least 1"),
        (
            &["run", "plan.yaml", "--config", "settings.toml"],
            None,
            1,
            "settings.toml:2:1: run.actors: must be at least 1",
        ),
    ] {
        let mut command = user.command(arguments);
        command.envs(variable.map(|value| ("SKEP_ACTORS", value)));
        let said = support::Said(command.output().unwrap());
        assert_eq!(said.code(), code, "{arguments:?}: {}", said.stderr());
        assert!(said.stderr().contains(expected), "{arguments:?}: {}", said.stderr());
    }
}

#[test]
fn times_and_sizes_are_written_as_people_write_them() {
    let user = User::new();
    for timeout in ["60", "60s", "1m", "0.5h", "1m30s"] {
        let called = user.skep(&["call", "compose", "--arg", "text=hi", "--timeout", timeout]).ok();
        assert_eq!(called.json()["text"], "hi", "{timeout}");
    }
    for arguments in [
        ["call", "compose", "--timeout", "soon"],
        ["exec", "--timeout", "-1s", "true"],
        ["exec", "--memory", "lots", "true"],
        ["servers", "login", "--timeout", "11m"],
    ] {
        let said = user.skep(&arguments);
        assert_eq!(said.code(), 2, "{arguments:?}: {}", said.stderr());
    }
    let slow = user.skep(&["call", "bash", "--arg", "command=sleep 60", "--timeout", "300ms"]);
    assert!(slow.stdout().contains("timed out after 0.3s"), "{}{}", slow.stdout(), slow.stderr());
}

#[test]
fn a_server_whose_variable_is_not_set_is_told_once_and_holds_up_nothing() {
    let user = User::new();
    let inner = serde_json::json!({ "command": env!("CARGO_BIN_EXE_skep"), "args": ["mcp-stdio"],
        "env": { "SKEP_HOME": user.home().join("inner") } });
    let lacks = serde_json::json!({ "url": "https://example.org/${NO_SUCH_VARIABLE}" });
    let file = serde_json::json!({ "mcpServers": { "inner": inner, "lacks": lacks } });
    user.file("mcp.json", &format!("// mine\n{file:#}\n"));
    let why = "the environment has no NO_SUCH_VARIABLE; set it";
    for command in ["tools", "servers", "prompt"] {
        let said = user.skep(&[command, "--mcp-config", "mcp.json"]);
        let all = said.stdout() + &said.stderr();
        assert_eq!((said.code(), all.matches(why).count()), (1, 1), "{command}: {all}");
        assert!(all.contains("inner"), "{command}: {all}");
    }
    let read = user.skep(&["call", "inner__compose", "--arg", "text=hi", "--mcp-config", "mcp.json"]).ok();
    assert!(!read.stderr().contains(why), "who does not use it is not told: {}", read.stderr());
    let called = user.skep(&["call", "lacks__x", "--mcp-config", "mcp.json"]);
    assert_eq!(called.code(), 1);
    assert!((called.stdout() + &called.stderr()).contains(why), "{}{}", called.stdout(), called.stderr());
    user.file("plan.yaml", "tasks: { a: { tool: compose, args: { text: hi } } }\n");
    user.skep(&["run", "plan.yaml", "--mcp-config", "mcp.json"]).ok();
}

#[test]
fn a_number_or_a_time_of_nothing_is_refused() {
    let user = User::new();
    for (arguments, reason) in [
        (&["runs", "--limit", "0"][..], "1 or more"),
        (&["runs", "ls", "--limit=-1"], "1 or more"),
        (&["du", "--limit", "0"], "1 or more"),
        (&["exec", "--timeout", "0", "true"], "more than 0s"),
        (&["exec", "--memory", "0", "true"], "more than 0"),
        (&["call", "compose", "--arg", "text=x", "--timeout", "0s"], "more than 0s"),
        (&["servers", "login", "x", "--timeout", "0"], "more than 0s"),
        (&["run", "plan.yaml", "--actors", "0"], "1"),
        (&["run", "plan.yaml", "--observers", "0"], "1"),
    ] {
        let said = user.skep(arguments);
        assert!(said.code() == 2 && said.stderr().contains(reason), "{arguments:?}: {} {}", said.code(), said.stderr());
    }
}

#[test]
fn check_says_what_a_file_is_and_goes_on_with_settings_that_cannot_be_used() {
    let user = User::new();
    user.file("mcp.json", "{ \"servers\": { \"a\": { \"command\": \"x\" }, }, }");
    user.file("config.toml", "model = 'm'\n[mcp_servers.a]\ncommand = 'x'\n");
    user.file("plan.yaml", "tasks: { a: { tool: compose, args: { text: hi } } }\n");
    let said = user.skep(&["check", "mcp.json", "config.toml", "plan.yaml"]).ok().stderr();
    for line in ["mcp.json: MCP servers of a client", "config.toml: MCP servers of a client", "plan.yaml: a plan"] {
        assert!(said.contains(line), "{said}");
    }
    user.file("broken.toml", "nonsense = 1\n");
    let said = user.skep(&["check", "--config", "broken.toml", "broken.toml", "plan.yaml"]);
    assert_eq!(said.code(), 1);
    assert!(said.stdout().contains("broken.toml:1:1: nonsense: is not known here"), "{}", said.stdout());
    assert!(said.stderr().contains("plan.yaml: a plan"), "{}", said.stderr());
}
