//! `<use_mcp_tool>`: how models without tool calling of their own ask for a tool (contract S4).
//!
//! ```xml
//! <use_mcp_tool>
//! <server_name>time</server_name>
//! <tool_name>get_current_time</tool_name>
//! <arguments>{"timezone": "Europe/Berlin"}</arguments>
//! </use_mcp_tool>
//! ```
//!
//! What a model writes is prose with such blocks in it, comes in pieces, and may be wrong in every way. [`Parser`] takes the
//! pieces as they come. What is no block passes through as text; a block that cannot be used becomes a sentence for the
//! model, and costs nothing else.

use serde_json::{Map, Value};

const OPEN: &str = "<use_mcp_tool>";
const CLOSE: &str = "</use_mcp_tool>";
/// Bytes of one block.
pub const BLOCK_BYTES_MAX: usize = 1 << 20;

/// What a model asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct Use {
    /// The server's name; empty for a tool of Skep's own, or one whose name has the server in it.
    pub server: String,
    /// The tool's name.
    pub tool: String,
    /// Its arguments.
    pub arguments: Map<String, Value>,
}

/// A part of what a model writes.
#[derive(Clone, Debug, PartialEq)]
pub enum Part {
    /// Prose.
    Text(String),
    /// A block.
    Use(Use),
    /// A block that cannot be used, and what the model should do about it.
    Malformed(String),
}

/// Takes what a model writes, piece by piece.
#[derive(Debug, Default)]
pub struct Parser {
    /// What has not been given back yet: the beginning of a block, or what may become one.
    held: String,
    /// A block that was too long is passed over until its end.
    skips: bool,
}

/// The parts of a whole text.
pub fn parse(text: &str) -> Vec<Part> {
    let mut parser = Parser::default();
    let mut parts = parser.push(text);
    parts.extend(parser.finish());
    parts
}

impl Parser {
    /// Take a piece; gives back what is complete.
    pub fn push(&mut self, piece: &str) -> Vec<Part> {
        self.held.push_str(piece);
        self.take(false)
    }

    /// What is complete of what is held. `is_all`: there will be no more.
    fn take(&mut self, is_all: bool) -> Vec<Part> {
        let mut parts = Vec::new();
        loop {
            if self.skips {
                let Some(end) = self.held.find(CLOSE) else {
                    self.held.drain(..self.held.len() - partial(&self.held, CLOSE));
                    return parts;
                };
                self.held.drain(..end + CLOSE.len());
                self.skips = false;
                continue;
            }
            let Some(start) = self.held.find(OPEN) else {
                let text = self.held.len() - partial(&self.held, OPEN);
                say(&mut parts, self.held.drain(..text).collect());
                return parts;
            };
            say(&mut parts, self.held.drain(..start).collect());
            let inside = &self.held[OPEN.len()..];
            match end_of_block(inside, is_all) {
                Some(end) => {
                    parts.push(read(&inside[..end]));
                    self.held.drain(..OPEN.len() + end + CLOSE.len());
                }
                None if self.held.len() > BLOCK_BYTES_MAX => {
                    parts.push(Part::Malformed(format!(
                        "the {OPEN} block is longer than {BLOCK_BYTES_MAX} bytes; put large data into a file"
                    )));
                    self.held.clear();
                    self.skips = true;
                }
                None => return parts,
            }
        }
    }

    /// There is no more: what is left of a block was cut off.
    pub fn finish(mut self) -> Vec<Part> {
        let mut parts = self.take(true);
        match self.held.strip_prefix(OPEN) {
            _ if self.skips => {}
            Some(_) => parts.push(Part::Malformed(format!("the {OPEN} block has no end; close it with {CLOSE}"))),
            None => say(&mut parts, self.held),
        }
        parts
    }
}

fn say(parts: &mut Vec<Part>, text: String) {
    if !text.is_empty() {
        parts.push(Part::Text(text));
    }
}

/// Bytes at the end of the text with which the tag may begin.
fn partial(text: &str, tag: &str) -> usize {
    (1..tag.len()).rev().find(|&length| text.ends_with(&tag[..length])).unwrap_or(0)
}

/// Where the block's closing tag begins. A tag within a string of the arguments does not count, if they are JSON; as long as they
/// may become JSON, that is open.
fn end_of_block(inside: &str, is_all: bool) -> Option<usize> {
    let mut from = 0;
    if let Some(start) = inside.find("<arguments>")
        && inside.find(CLOSE).is_none_or(|close| start < close)
    {
        let start = start + "<arguments>".len();
        let mut values = serde_json::Deserializer::from_str(&inside[start..]).into_iter::<Value>();
        match values.next() {
            Some(Ok(_)) => from = start + values.byte_offset(),
            Some(Err(error)) if error.is_eof() && !is_all => return None,
            _ => {}
        }
    }
    inside[from..].find(CLOSE).map(|end| from + end)
}

/// What is in a block.
fn read(inside: &str) -> Part {
    match try_read(inside) {
        Ok(wanted) => Part::Use(wanted),
        Err(why) => Part::Malformed(why),
    }
}

fn try_read(inside: &str) -> Result<Use, String> {
    if inside.contains(OPEN) {
        return Err(format!("one {OPEN} block is inside of another; close each before the next begins"));
    }
    let server = element(inside, "server_name")?.unwrap_or_default().trim().to_owned();
    let tool = element(inside, "tool_name")?.unwrap_or_default().trim().to_owned();
    if tool.is_empty() {
        return Err("<tool_name> is missing or empty; write the name of a tool in it".to_owned());
    }
    let arguments = match element(inside, "arguments")?.map(unfenced) {
        None | Some("") => Map::new(),
        Some(text) => match serde_json::from_str(text)
            .or_else(|error| serde_json::from_str(&unescaped(text)).map_err(|_| error))
        {
            Ok(Value::Object(arguments)) => arguments,
            Ok(_) => return Err("<arguments> must be a JSON object, such as {\"name\": \"value\"}".to_owned()),
            Err(error) => return Err(format!("<arguments> is not JSON: {error}")),
        },
    };
    Ok(Use { server, tool, arguments })
}

/// What is between the tags of this name. The last closing tag counts: what is in between may speak of it.
fn element<'a>(inside: &'a str, name: &str) -> Result<Option<&'a str>, String> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let Some((_, rest)) = inside.split_once(&open) else { return Ok(None) };
    let found = if name == "arguments" { rest.rfind(&close) } else { rest.find(&close) };
    match found {
        Some(end) => Ok(Some(&rest[..end])),
        None => Err(format!("{open} has no end; close it with {close}")),
    }
}

/// Without the fence that models like to put around JSON.
fn unfenced(text: &str) -> &str {
    let text = text.trim();
    let Some(inside) = text.strip_prefix("```").and_then(|text| text.strip_suffix("```")) else { return text };
    inside.strip_prefix("json").unwrap_or(inside).trim()
}

/// XML's entities as the characters that they mean.
fn unescaped(text: &str) -> String {
    let pairs = [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&apos;", "'"), ("&amp;", "&")];
    pairs.iter().fold(text.to_owned(), |text, (entity, character)| text.replace(entity, character))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn block(arguments: &str) -> String {
        format!(
            "{OPEN}\n<server_name>time</server_name>\n<tool_name> now </tool_name>\n<arguments>{arguments}</arguments>\n{CLOSE}"
        )
    }

    fn wanted(arguments: Value) -> Part {
        let Value::Object(arguments) = arguments else { panic!("an object") };
        Part::Use(Use { server: "time".to_owned(), tool: "now".to_owned(), arguments })
    }

    #[test]
    fn a_block_in_prose_is_found() {
        let text = format!("I look it up. {} And then?", block(r#"{"zone": "Europe/Berlin"}"#));
        let expected = [
            Part::Text("I look it up. ".to_owned()),
            wanted(json!({"zone": "Europe/Berlin"})),
            Part::Text(" And then?".to_owned()),
        ];
        assert_eq!(parse(&text), expected);
    }

    #[test]
    fn arguments_may_be_missing_fenced_escaped_or_speak_of_tags() {
        for (arguments, expected) in [
            ("", json!({})),
            ("\n```json\n{\"a\": 1}\n```\n", json!({"a": 1})),
            ("{&quot;a&quot;: &quot;&lt;b&gt;&quot;}", json!({"a": "<b>"})),
            (
                r#"{"a": "</arguments></use_mcp_tool><use_mcp_tool>"}"#,
                json!({"a": "</arguments></use_mcp_tool><use_mcp_tool>"}),
            ),
        ] {
            let parts = parse(&block(arguments));
            if arguments.contains("<use_mcp_tool>") {
                // Cut at the right place, and told apart from a block in a block.
                assert!(matches!(&parts[..], [Part::Malformed(why)] if why.contains("inside of another")), "{parts:?}");
            } else {
                assert_eq!(parts, [wanted(expected)], "{arguments}");
            }
        }
        let speaks = r#"{"a": "</arguments></use_mcp_tool>"}"#;
        assert_eq!(parse(&block(speaks)), [wanted(json!({"a": "</arguments></use_mcp_tool>"}))]);
        assert_eq!(
            parse(&format!("{OPEN}<tool_name>bash</tool_name>{CLOSE}")),
            [Part::Use(Use { server: String::new(), tool: "bash".to_owned(), arguments: Map::new() })]
        );
    }

    #[test]
    fn what_cannot_be_used_is_told_and_what_follows_is_read() {
        for (text, why) in [
            (format!("{OPEN}{CLOSE}"), "<tool_name> is missing"),
            (format!("{OPEN}<tool_name></tool_name>{CLOSE}"), "<tool_name> is missing"),
            (format!("{OPEN}<tool_name>x{CLOSE}"), "<tool_name> has no end"),
            (block("{"), "is not JSON"),
            (block("[1]"), "must be a JSON object"),
            (block("{\"a\": 1} x"), "is not JSON"),
            (format!("{OPEN}{OPEN}<tool_name>x</tool_name>{CLOSE}"), "inside of another"),
            (format!("{OPEN}<tool_name>x</tool_name><arguments>{{\"a\": \"b</arguments>{CLOSE}"), "is not JSON"),
        ] {
            let parts = parse(&format!("{text}{}", block("{}")));
            assert!(matches!(&parts[0], Part::Malformed(said) if said.contains(why)), "{text}: {parts:?}");
            assert_eq!(parts[1..], [wanted(json!({}))], "{text}");
        }
        let cut = parse(&block("{}")[..40]);
        assert!(matches!(&cut[..], [Part::Malformed(why)] if why.contains("has no end")), "{cut:?}");
    }

    #[test]
    fn a_block_without_end_is_bounded() {
        let mut parser = Parser::default();
        let mut parts = parser.push(OPEN);
        for _ in 0..=BLOCK_BYTES_MAX / 1000 {
            parts.extend(parser.push(&"x".repeat(1000)));
        }
        assert!(matches!(&parts[..], [Part::Malformed(why)] if why.contains("longer than")), "{parts:?}");
        assert!(parser.held.len() < 2000);
        assert_eq!(parser.push(&format!("y{CLOSE}after")), [Part::Text("after".to_owned())]);
    }

    fn joined(parts: Vec<Part>) -> Vec<Part> {
        parts.into_iter().fold(Vec::new(), |mut parts, part| {
            match (parts.last_mut(), part) {
                (Some(Part::Text(text)), Part::Text(more)) => text.push_str(&more),
                (_, part) => parts.push(part),
            }
            parts
        })
    }

    proptest! {
        #[test]
        fn pieces_say_what_the_whole_says(
            text in r#"(<use_mcp_tool>|</use_mcp_tool>|<tool_name>|</tool_name>|<arguments>|</arguments>|\{|\}|"|a|ä|<|: 1|\\){0,25}"#,
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        ) {
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).filter(|cut| text.is_char_boundary(*cut)).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let mut parser = Parser::default();
            let mut parts = Vec::new();
            for ends in cuts.windows(2) {
                parts.extend(parser.push(&text[ends[0]..ends[1]]));
            }
            parts.extend(parser.finish());
            prop_assert_eq!(joined(parts), joined(parse(&text)));
        }
    }
}
