//! TOML. Its parser limits the depth by itself (to 80) before this module sees anything.

use std::ops::Range;

use serde_json::{Map, Number, Value};
use toml_edit::{Document, Item, Key, TableLike};

use super::{DEPTH_MAX, Fault, Node, Position, VALUES_MAX, chars_in};

/// The table that a text describes.
pub(super) fn parse(text: &str) -> Result<(Value, Node), Vec<Fault>> {
    let lines = Lines::of(text);
    let document = Document::parse(text).map_err(|error| {
        let at = lines.position(error.span().map_or(0, |span| span.start));
        vec![Fault::new(at, error.message().trim_end())]
    })?;
    let mut reader = Reader { lines, values: 0 };
    let place = Place { key: None, around: Position::new(1, 1), depth: 0 };
    reader.table(document.as_table(), None, place).map_err(|fault| vec![fault])
}

/// Where each line begins, and how many characters there are before each block of bytes: a position is found without
/// reading the text again, even if it is all one line.
struct Lines<'a> {
    text: &'a str,
    starts: Vec<usize>,
    chars_before: Vec<usize>,
}

const BLOCK_BYTES: usize = 1024;

impl<'a> Lines<'a> {
    fn of(text: &'a str) -> Lines<'a> {
        let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(newline, _)| newline + 1)).collect();
        let chars_before = text.as_bytes().chunks(BLOCK_BYTES).scan(0, |chars, block| {
            let before = *chars;
            *chars += chars_in(block);
            Some(before)
        });
        Lines { text, starts, chars_before: chars_before.collect() }
    }

    fn position(&self, byte: usize) -> Position {
        let line = self.starts.partition_point(|start| *start <= byte).max(1);
        Position::new(line, 1 + self.chars_to(byte) - self.chars_to(self.starts[line - 1]))
    }

    fn chars_to(&self, byte: usize) -> usize {
        let byte = byte.min(self.text.len());
        let block = byte / BLOCK_BYTES;
        let before = self.chars_before.get(block).copied();
        // The end of the text may be the end of the last block.
        let (block, before) = before.map_or((0, 0), |before| (block * BLOCK_BYTES, before));
        before + chars_in(&self.text.as_bytes()[block..byte])
    }
}

struct Reader<'a> {
    lines: Lines<'a>,
    values: usize,
}

type Read = Result<(Value, Node), Fault>;

/// Where a value stands: its key, and the table or list around it.
#[derive(Clone, Copy)]
struct Place {
    key: Option<Position>,
    around: Position,
    depth: usize,
}

impl Reader<'_> {
    fn item(&mut self, item: &Item, place: Place) -> Read {
        match item {
            Item::None => Ok((Value::Null, self.node(None, place)?)),
            Item::Value(value) => self.value(value, place),
            Item::Table(table) => self.table(table, table.span(), place),
            Item::ArrayOfTables(tables) => {
                let (node, below) = self.container(tables.span(), place)?;
                list(node, tables.iter().map(|table| self.table(table, table.span(), below)))
            }
        }
    }

    fn value(&mut self, value: &toml_edit::Value, place: Place) -> Read {
        match value {
            toml_edit::Value::InlineTable(table) => self.table(table, table.span(), place),
            toml_edit::Value::Array(array) => {
                let (node, below) = self.container(array.span(), place)?;
                list(node, array.iter().map(|value| self.value(value, below)))
            }
            toml_edit::Value::String(text) => Ok((text.value().as_str().into(), self.node(text.span(), place)?)),
            toml_edit::Value::Integer(number) => Ok(((*number.value()).into(), self.node(number.span(), place)?)),
            toml_edit::Value::Boolean(truth) => Ok(((*truth.value()).into(), self.node(truth.span(), place)?)),
            toml_edit::Value::Datetime(time) => Ok((time.value().to_string().into(), self.node(time.span(), place)?)),
            toml_edit::Value::Float(number) => {
                let node = self.node(number.span(), place)?;
                match Number::from_f64(*number.value()) {
                    Some(number) => Ok((Value::Number(number), node)),
                    None => Err(Fault::new(node.value, "a number must be finite; put quotes around text")),
                }
            }
        }
    }

    fn table(&mut self, table: &dyn TableLike, span: Option<Range<usize>>, place: Place) -> Read {
        let (mut node, below) = self.container(span, place)?;
        let mut members = Map::new();
        for (name, item) in table.iter() {
            let key = table.key(name).and_then(Key::span).map(|span| self.lines.position(span.start));
            let (value, child) = self.item(item, Place { key, ..below })?;
            members.insert(name.to_owned(), value);
            node.children.push(child);
        }
        Ok((Value::Object(members), node))
    }

    fn container(&mut self, span: Option<Range<usize>>, place: Place) -> Result<(Node, Place), Fault> {
        let node = self.node(span, place)?;
        if place.depth == DEPTH_MAX {
            return Err(Fault::too_deep(node.value));
        }
        let below = Place { key: None, around: node.value, depth: place.depth + 1 };
        Ok((node, below))
    }

    /// Some tables stand nowhere by themselves (`a` in `[a.b]`): they are at their key, or where that around them is.
    fn node(&mut self, span: Option<Range<usize>>, place: Place) -> Result<Node, Fault> {
        let at = span.map(|span| self.lines.position(span.start)).or(place.key).unwrap_or(place.around);
        self.values += 1;
        if self.values > VALUES_MAX {
            return Err(Fault::too_many(at));
        }
        Ok(Node { key: place.key, value: at, text_line: None, children: Vec::new() })
    }
}

fn list(mut node: Node, elements: impl Iterator<Item = Read>) -> Read {
    let mut values = Vec::new();
    for element in elements {
        let (value, child) = element?;
        values.push(value);
        node.children.push(child);
    }
    Ok((Value::Array(values), node))
}
