mod limits;
mod schemas;

use super::*;
use skep_plan::rules;

struct Here(tempfile::TempDir);

impl Here {
    fn with(name: &str, text: &str) -> (Here, PathBuf) {
        let here = Here(tempfile::tempdir().unwrap());
        let path = here.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        (here, path)
    }
}

fn environment<'a>(variables: &'a [(&str, &str)]) -> impl Fn(&str) -> Option<String> + 'a {
    |name| {
        let set = variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        set.or_else(|| (name == "HOME").then(|| "/home/u".to_owned()))
    }
}

fn faults(path: &Path, variables: &[(&str, &str)]) -> Vec<String> {
    let BadSettings(faults) = Settings::resolve(Some(path), environment(variables), Overrides::default()).unwrap_err();
    let name = format!("{}/", path.parent().unwrap().display());
    faults.iter().map(|fault| fault.to_string().replace(&name, "")).collect()
}

#[test]
fn a_fault_of_the_environment_names_the_variable_that_has_it() {
    for (name, value) in [("SKEP_TCP", "nowhere"), ("MCP_TCP_PORT", "x"), ("SKEP_TOOLS_TIMEOUT", "9d")] {
        let resolved = Settings::resolve(None, environment(&[("HOME", "/h"), (name, value)]), Overrides::default());
        let BadSettings(faults) = resolved.unwrap_err();
        assert_eq!(faults.iter().map(|fault| fault.key.as_str()).collect::<Vec<_>>(), [name], "{faults:?}");
    }
}

#[test]
fn flags_beat_the_environment_and_that_beats_the_file() {
    let (_here, path) = Here::with("skep.toml", "home = '/file'\n[run]\nactors = 1\nobservers = 1\n");
    let variables = [("SKEP_ACTORS", "2"), ("SKEP_HUBS", "http://a, http://b")];
    let flags = Overrides { home: Some("/flag".into()), ..Overrides::default() };
    let (settings, notices) = Settings::resolve(Some(&path), environment(&variables), flags).unwrap();
    assert_eq!(settings.home, Path::new("/flag"));
    assert_eq!(settings.agents, Agents { actors: 2, observers: 1 });
    assert_eq!(settings.hubs, ["http://a", "http://b"]);
    assert!(notices.is_empty());
}

#[test]
fn without_anything_there_are_defaults() {
    let (settings, _) = Settings::resolve(None, environment(&[]), Overrides::default()).unwrap();
    assert_eq!(settings.home, Path::new("/home/u/.local/share/skep"));
    assert_eq!((settings.workspace.as_path(), settings.agents), (Path::new("."), AGENTS));
}

#[test]
fn an_error_names_file_line_and_key() {
    let (_here, path) =
        Here::with("skep.toml", "home = '/x'\n\n[run]\nactros = 3\nobservers = 'many'\n[tools]\ntimeout = 'soon'\n");
    let faults = faults(&path, &[]);
    assert_eq!(faults.len(), 3, "{faults:#?}");
    assert!(faults[0].starts_with("skep.toml:4:1: run.actros: ") && faults[0].contains("actors"), "{}", faults[0]);
    assert!(faults[1].starts_with("skep.toml:5:1: run.observers: "), "{}", faults[1]);
    assert!(faults[2].starts_with("skep.toml:7:1: tools.timeout: "), "{}", faults[2]);
}

#[test]
fn an_error_names_the_variable() {
    let (_here, path) = Here::with("skep.toml", "");
    let faults = faults(&path, &[("SKEP_ACTORS", "lots"), ("SKEP_LOG_FORMAT", "xml")]);
    assert!(faults.iter().any(|fault| fault.starts_with("environment: SKEP_ACTORS: ")), "{faults:#?}");
    assert!(faults.iter().any(|fault| fault.starts_with("environment: SKEP_LOG_FORMAT: ")), "{faults:#?}");
}

#[test]
fn every_variable_stands_for_a_key_of_the_file() {
    for Variable { pointer, name, .. } in VARIABLES {
        let schema = pointer.split('/').skip(1).fold(json_schema(), |schema, key| &schema["properties"][key]);
        assert!(schema.is_object(), "{name}: {pointer} is not in the schema");
    }
}

#[test]
fn less_isolation_is_accepted_only_if_the_operator_says_so() {
    let sandbox = |text: &str, variables: &[(&str, &str)]| {
        let (_here, path) = Here::with("skep.toml", text);
        let (settings, _) = Settings::resolve(Some(&path), environment(variables), Overrides::default()).unwrap();
        let mut config = skep_sandbox::Config::default();
        settings.sandbox.apply(&mut config);
        (settings.sandbox.least_tier(), config)
    };
    use skep_sandbox::{Namespaces, Source, Tier};
    let (least, config) = sandbox("", &[]);
    assert_eq!((least, config.namespaces, config.oci), (Tier::Strict, Namespaces::Required, None));
    assert_eq!(sandbox("[sandbox]\naccept = 'without_proc'\n", &[]).0, Tier::StrictWithoutProc);
    let (least, config) = sandbox("[sandbox]\naccept = 'strict'\n", &[("SKEP_SANDBOX_ACCEPT", "landlock")]);
    assert_eq!((least, config.namespaces), (Tier::Landlock, Namespaces::Preferred));
    let (least, config) = sandbox("[sandbox]\ncontainer = { runtime = 'podman', image = 'debian:12' }\n", &[]);
    assert_eq!((least, config.oci.unwrap().source), (Tier::Oci, Source::Image("debian:12".into())));
    for wrong in ["", ", root = '/x', image = 'y'"] {
        let (_here, path) =
            Here::with("skep.toml", &format!("[sandbox]\ncontainer = {{ runtime = 'podman'{wrong} }}\n"));
        let faults = faults(&path, &[]);
        assert!(faults.iter().any(|fault| fault.contains("either a `root` or an `image`")), "{faults:#?}");
    }
}

#[test]
fn the_settings_of_the_older_design_are_taken_as_they_are() {
    let text = "mcp:\n  endpoint: \"http://localhost:5000\"\n  timeout: 10\n  tools:\n    - search\n    - bash\n\
        docker:\n  swarm: true\n  ephemeral: true\n  port: 5000\n";
    let (_here, path) = Here::with("mcp-config.yaml", text);
    let (settings, notices) = Settings::resolve(Some(&path), environment(&[]), Overrides::default()).unwrap();
    assert_eq!(settings.hubs, ["http://localhost:5000"]);
    assert_eq!(settings.tool_deadline(), Some(Duration::from_secs(10)));
    assert_eq!(settings.tools.allow, ["search", "bash"]);
    assert_eq!(settings.serve.bind, ["127.0.0.1:5000"]);
    assert_eq!(notices.len(), 1);
    assert!(notices[0].to_string().contains("mcp-config.yaml:7:1: warning: docker: "), "{}", notices[0]);
}

#[test]
fn wrong_settings_of_the_older_design_are_found_too() {
    let (_here, path) = Here::with("mcp-config.yaml", "mcp:\n  timeout: [1]\n  tolls: []\n");
    let faults = faults(&path, &[]);
    assert!(faults.iter().any(|fault| fault.starts_with("mcp-config.yaml:2:3: mcp.timeout: ")), "{faults:#?}");
    assert!(faults.iter().any(|fault| fault.starts_with("mcp-config.yaml:3:3: mcp.tolls: ")), "{faults:#?}");
}

#[test]
fn secrets_are_not_shown() {
    let (_here, path) = Here::with("skep.toml", "token = 'hush'\ndatabase = 'postgresql://u:hush@h/d'\n");
    let (settings, _) = Settings::resolve(Some(&path), environment(&[]), Overrides::default()).unwrap();
    assert_eq!(settings.token().unwrap().unwrap().reveal(), "hush");
    assert!(!format!("{settings:?}").contains("hush"));
}

#[test]
fn a_token_may_be_in_a_file_of_its_own() {
    let (_here, path) = Here::with("token", "secret\n");
    let flags = Overrides { token_file: Some(path), ..Overrides::default() };
    let (settings, _) = Settings::resolve(None, environment(&[]), flags).unwrap();
    assert_eq!(settings.token().unwrap().unwrap().reveal(), "secret");
    let flags = Overrides { token_file: Some("/no/such/file".into()), ..Overrides::default() };
    let (settings, _) = Settings::resolve(None, environment(&[]), flags).unwrap();
    let error = settings.token().unwrap_err();
    assert!(error.to_string().contains("/no/such/file: token_file: "), "{error}");
}

#[test]
fn servers_are_read_from_the_file_with_their_variables_and_a_named_file_of_a_client_adds_to_them() {
    let text = "[mcpServers.time]\ncommand = 'uvx'\nargs = ['mcp-server-time', '--zone=${ZONE:-UTC}']\n\
        [mcpServers.both]\nurl = 'http://old'\n";
    let (_here, path) = Here::with("skep.toml", text);
    let (_there, more) = Here::with("more.json", r#"{"mcpServers": {"both": {"url": "http://new"}}}"#);
    let flags = Overrides { mcp_config: Some(more), ..Overrides::default() };
    let (settings, _) = Settings::resolve(Some(&path), environment(&[("ZONE", "CET")]), flags).unwrap();
    let shown = format!("{:?}", settings.upstreams);
    assert_eq!(settings.upstreams.len(), 2);
    assert!(shown.contains("--zone=CET"), "{shown}");
    let url = |one: &Upstream| match &one.transport {
        servers::Transport::Http { url, .. } => Some(url.reveal().to_owned()),
        _ => None,
    };
    assert_eq!(settings.upstreams.iter().find_map(url).as_deref(), Some("http://new"));
}

#[test]
fn a_fault_of_a_server_names_file_line_and_key() {
    let text = "[mcpServers.time]\ncommand = 'uvx'\n[mcpServers.x]\ncomand = 'y'\n";
    let (_here, path) = Here::with("skep.toml", text);
    let unknown = faults(&path, &[]);
    assert!(unknown[0].starts_with("skep.toml:4:1: mcpServers.x.comand: "), "{unknown:?}");
}

#[test]
fn a_variable_that_is_not_set_disables_the_server_that_wants_it_and_nothing_else() {
    let text = "[mcpServers.time]\ncommand = 'uvx'\nargs = ['${GONE}']\n[mcpServers.x]\ncommand = 'y'\n";
    let (_here, path) = Here::with("skep.toml", text);
    let (settings, notices) = Settings::resolve(Some(&path), environment(&[]), Overrides::default()).unwrap();
    let found: Vec<_> = settings.upstreams.iter().map(|one| (one.name.as_str(), one.unusable.is_some())).collect();
    assert_eq!(found, [("time", true), ("x", false)]);
    assert!(settings.upstreams[0].unusable.as_ref().unwrap().starts_with("the environment has no GONE; set it"));
    assert!(notices.is_empty(), "who does not use it is not told: {notices:?}");
    let checked = check(&path);
    assert!(checked[0].to_string().contains("skep.toml:3:9: warning: mcpServers.time.args[0]: "), "{checked:?}");
}

#[test]
fn flags_variables_and_files_have_the_same_limits() {
    let (_here, path) = Here::with("skep.toml", "[run]\nactors = 0\n");
    assert_eq!(faults(&path, &[]), ["skep.toml:2:1: run.actors: must be at least 1"]);
    let (_here, path) = Here::with("skep.toml", "");
    assert_eq!(faults(&path, &[("SKEP_ACTORS", "0")]), ["environment: SKEP_ACTORS: must be at least 1"]);
    for (actors, expected) in [(0, "must be at least 1"), (1000, "must be at most 64")] {
        let flags = Overrides { actors: Some(actors), ..Overrides::default() };
        let error = Settings::resolve(None, environment(&[]), flags).unwrap_err();
        assert!(error.is_usage());
        assert_eq!(error.0[0].to_string(), format!("command line: --actors: {expected}"));
    }
}

#[test]
fn a_file_lies_under_the_one_of_the_user() {
    let source = |text: &str| {
        let (_here, path) = Here::with("skep.toml", text);
        Source::read(&path, environment(&[]))
    };
    let below = source(
        "workspace = '/below'\n[run]\nactors = 1\nobservers = 1\n[tools]\ndeny = ['a', 'b']\n\
         [mcpServers.x]\ncommand = 'below'\nargs = ['${GONE}']\n[mcpServers.y]\ncommand = 'y'\n",
    );
    let above = source("[run]\nactors = 2\n[tools]\ndeny = ['c', 'a']\n[mcpServers.x]\ncommand = 'above'\n");
    let (settings, _) = Settings::put_together(below, Some(above), environment(&[]), Overrides::default()).unwrap();
    assert_eq!(settings.workspace, Path::new("/below"));
    assert_eq!(settings.agents, Agents { actors: 2, observers: 1 });
    assert_eq!(settings.tools.deny, ["c", "a", "b"]);
    let [x, y] = &settings.upstreams[..] else { panic!("{:?}", settings.upstreams) };
    let servers::Transport::Stdio(command) = &x.transport else { panic!("{x:?}") };
    assert_eq!((command.program.as_str(), command.args.len(), &x.unusable), ("above", 0, &None));
    assert_eq!(y.name, "y");
}

#[test]
fn a_token_of_a_caller_that_is_not_set_stops_only_who_serves() {
    let (_here, path) = Here::with("skep.toml", "[serve.tokens]\nann = '${ANN}'\n");
    let (settings, _) = Settings::resolve(Some(&path), environment(&[]), Overrides::default()).unwrap();
    let error = settings.tokens_of_callers().unwrap_err();
    assert!(error.to_string().contains("skep.toml:2:1: serve.tokens.ann: the environment has no ANN"), "{error}");
    assert_eq!(check(&path).len(), 1);
}

#[test]
fn settings_may_be_json_with_comments() {
    let text = "{ // mine\n  \"run\": { \"actors\": 3, },\n}\n";
    let (_here, path) = Here::with("settings.json", text);
    let (settings, _) = Settings::resolve(Some(&path), environment(&[]), Overrides::default()).unwrap();
    assert_eq!(settings.agents.actors, 3);
}

#[test]
fn what_a_schema_cannot_tell_is_told_all_the_same() {
    let text = "[serve]\nbind = ['localhost:8000', '127.0.0.1']\nbody_bytes_max = '0M'\n[tools]\ntimeout = '2h'\n";
    let (_here, path) = Here::with("skep.toml", text);
    let mut faults = faults(&path, &[]);
    faults.sort();
    assert_eq!(faults[0], "skep.toml:2:1: serve.bind: \"127.0.0.1\" is no ADDRESS:PORT, such as 127.0.0.1:8000");
    assert_eq!(faults[1], "skep.toml:3:1: serve.body_bytes_max: must be at least 1");
    assert_eq!(faults[2], "skep.toml:5:1: tools.timeout: a call may take at most 1h");
    let (_here, path) = Here::with("skep.toml", "");
    let port = self::faults(&path, &[("MCP_TCP_PORT", "99999")]);
    assert!(port[0].starts_with("environment: MCP_TCP_PORT: \"127.0.0.1:99999\" is no ADDRESS:PORT"), "{port:?}");
}

#[test]
fn the_help_of_the_planner_names_settings_that_there_are() {
    let section: String =
        rules::HELP.lines().filter_map(|line| line.strip_prefix("  ")).map(|line| format!("{line}\n")).collect();
    let path = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
    std::fs::write(path.path(), &section).unwrap();
    assert!(section.contains("[model]") && section.contains("provider"), "{section}");
    assert_eq!(check(path.path()), []);
    let help = &rules::HELP[rules::HELP.find("environment").unwrap()..];
    let named = help.split(|c: char| !(c.is_ascii_uppercase() || c == '_')).filter(|word| word.starts_with("SKEP_"));
    let names: Vec<&str> = named.collect();
    assert_eq!(names.len(), 3);
    for name in names {
        assert!(VARIABLES.iter().any(|variable| variable.name == name), "{name}");
    }
    for provider in ["anthropic", "xai", "ollama", "compatible"] {
        std::fs::write(path.path(), section.replace("\"openai\"", &format!("{provider:?}"))).unwrap();
        assert_eq!(check(path.path()), [], "{provider}");
    }
}
