//! The schemas that others rely on are kept in `docs/schemas`, so that a change of one is seen where it is made.

use std::{env, fs, path::Path};

use serde_json::{Value, json};
use skep_tools::{parts::Parts, sandboxed::SandboxOnDemand, tool::Tool};

/// With this variable set, what is kept is written anew (`cargo xtask schemas`).
const WRITE: &str = "SKEP_WRITE_SCHEMAS";

#[test]
fn the_schemas_in_docs_are_those_of_the_types() {
    let tools = skep_builtin::all(Parts::new(SandboxOnDemand::new(Default::default())));
    let tools: Vec<Value> = tools.iter().map(Tool::to_json).collect();
    let schemas = [
        ("plan.json", skep_plan::json_schema().clone()),
        ("project.json", skep_tools::project::schema().json().clone()),
        ("settings.json", super::super::json_schema().clone()),
        ("tools.json", json!(tools)),
    ];
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/schemas");
    for (name, schema) in schemas {
        let (path, text) = (directory.join(name), format!("{schema:#}\n"));
        if env::var_os(WRITE).is_some() {
            fs::create_dir_all(&directory).unwrap();
            fs::write(&path, &text).unwrap();
        }
        let kept = fs::read_to_string(&path).unwrap_or_default();
        assert!(
            kept == text,
            "docs/schemas/{name} is not what the types say; if the change is meant, `cargo xtask schemas` writes it anew"
        );
    }
}
