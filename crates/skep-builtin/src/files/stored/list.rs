//! The files of a task's workspace.

use std::collections::BTreeSet;

use skep_core::{
    db::FileFilter,
    file::Revision,
    glob::Pattern,
    limits::PAGE_MAX,
    policy::{Permit, Read},
};
use skep_tools::{
    error::ToolError,
    shared::{Shared, files::path_of, store_failed, time},
    workspace::Context,
};

use crate::files::list::{Answer, Arguments, Listed};

/// List the files of a task's workspace.
pub(in crate::files) async fn list(
    shared: &Shared,
    context: &Context,
    task: &str,
    arguments: &Arguments,
) -> Result<Answer, ToolError> {
    let (app, permit): (_, Permit<Read>) = shared.open(context, Some(task), arguments.agent_id.as_deref())?;
    let directory = match arguments.path.trim_end_matches('/') {
        "" | "." => String::new(),
        path => format!("{}/", path_of(path)?),
    };
    let pattern = arguments.glob.as_deref().map(|glob| pattern_below(&directory, glob)).transpose()?;
    let filter = FileFilter { directory: directory.clone(), pattern };
    let mut after = arguments.after.as_deref().map(path_of).transpose()?;
    let (mut files, mut directories) = (Vec::new(), BTreeSet::new());
    loop {
        let wanted = (arguments.limit - files.len()).min(PAGE_MAX);
        let page = app.db.files(&permit, &filter, after.as_ref(), wanted).await.map_err(store_failed)?;
        after = page.next;
        for file in page.files {
            let below = file.path.as_str()[directory.len()..].split_once('/');
            match below.filter(|_| !arguments.recursive) {
                Some((name, _)) if !directories.insert(name.to_owned()) => {}
                Some((name, _)) => files.push(Listed::directory(format!("{directory}{name}"))),
                None => files.push(listed(file)),
            }
        }
        if after.is_none() || files.len() >= arguments.limit || context.time_left().is_zero() {
            break;
        }
    }
    Ok(Answer {
        total: files.len(),
        total_size: files.iter().filter_map(|file| file.size).sum(),
        truncated: after.is_some(),
        next: after.map(|path| path.to_string()),
        files,
    })
}

/// A pattern as .gitignore has them, below a directory: without a slash it is about the name, with one about the path.
fn pattern_below(directory: &str, glob: &str) -> Result<Pattern, ToolError> {
    let glob = glob.strip_prefix("./").unwrap_or(glob);
    let anywhere = if glob.contains('/') { "" } else { "**/" };
    let directory: String = directory
        .chars()
        .flat_map(|character| {
            matches!(character, '*' | '?' | '[' | ']' | '{' | '}').then_some('\\').into_iter().chain([character])
        })
        .collect();
    Pattern::new(&format!("{directory}{anywhere}{}", glob.trim_start_matches('/')))
        .map_err(|error| ToolError::argument("glob", error.to_string()))
}

fn listed(file: Revision) -> Listed {
    Listed {
        path: file.path.to_string(),
        kind: "file",
        size: Some(file.size),
        modified: Some(time(file.at)),
        revision: Some(file.number),
        sha256: file.sha256,
        author: file.author.as_ref().map(|author| author.principal.to_string()),
        agent: file.author.and_then(|author| Some(author.agent?.to_string())),
    }
}
