//! What is kept of a call that failed: its error with the end of what it printed, for people, and all that is known about
//! it, for programs.

use serde_json::Value;
use skep_core::{Json, task::Failure};
use skep_tools::error::ToolError;

/// Bytes of each of a failed command's streams that its error repeats. Most programs say at the end what went wrong.
const TAIL_BYTES_MAX: usize = 4 << 10;
/// The members of a failed command's answer that hold what it printed.
const STREAMS: [&str; 2] = ["stdout", "stderr"];

/// The failure that a task keeps of this error.
pub(super) fn failure(error: &ToolError) -> Failure {
    let message = error.to_string();
    let (ToolError::Failed { detail, .. } | ToolError::TimedOut { detail, .. } | ToolError::Conflict { detail, .. }) =
        error
    else {
        return message.into();
    };
    let mut text = message.clone();
    for (name, printed) in STREAMS.iter().filter_map(|name| Some((name, detail.get(*name)?.as_str()?))) {
        let printed = printed.trim_end();
        // A single line on standard error is part of the message already.
        if printed.is_empty() || message.ends_with(printed) {
            continue;
        }
        let tail = tail(printed);
        text += &match printed.len() - tail.len() {
            0 => format!("\n{name}:\n{tail}"),
            _ => format!("\n{name} (the last {} of {} bytes):\n{tail}", tail.len(), printed.len()),
        };
    }
    let output = if detail.is_empty() { Json::null() } else { Value::Object(detail.clone()).into() };
    Failure { error: text, output }
}

/// The end of a text: whole lines if the last one is not too long for that.
fn tail(text: &str) -> &str {
    if text.len() <= TAIL_BYTES_MAX {
        return text;
    }
    let end = &text[text.ceil_char_boundary(text.len() - TAIL_BYTES_MAX)..];
    end.split_once('\n').map_or(end, |(_, lines)| lines)
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, json};

    use super::*;

    fn failed(stdout: &str, stderr: &str) -> ToolError {
        let detail = Map::from_iter([("stdout".to_owned(), json!(stdout)), ("stderr".to_owned(), json!(stderr))]);
        ToolError::Failed { message: format!("bash exited with code 1: {}", stderr.trim_end()), detail }
    }

    #[test]
    fn an_error_repeats_what_was_printed_and_nothing_twice() {
        let kept = failure(&failed("one\ntwo\n", "why\n"));
        assert_eq!(kept.error, "bash exited with code 1: why\nstdout:\none\ntwo");
        assert_eq!(kept.output.parse::<Value>().unwrap()["stderr"], "why\n");
        assert_eq!(failure(&ToolError::Busy("later".into())), "later".into());
    }

    #[test]
    fn of_a_long_output_the_error_has_the_last_whole_lines_and_says_so() {
        let printed: String = (0..2000).map(|n| format!("line {n} äöü\n")).collect();
        let error = failure(&failed(&printed, "")).error;
        assert!(error.len() < TAIL_BYTES_MAX + 200 && error.ends_with("line 1999 äöü"), "{error}");
        let first = error.lines().nth(2).unwrap();
        assert!(first.starts_with("line 1") && printed.contains(&format!("\n{first}\n")), "{first}");
        assert!(error.contains(&format!(" of {} bytes", printed.trim_end().len())));
        let one_line = failure(&failed(&"ä".repeat(TAIL_BYTES_MAX), "")).error;
        assert!(one_line.ends_with("ää") && one_line.len() < TAIL_BYTES_MAX + 200);
    }
}
