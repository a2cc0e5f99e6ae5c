//! YAML, from the parser's events, so that limits hold while the file is read and nothing recurses.

use std::borrow::Cow;

use saphyr::Scalar;
use saphyr_parser::{Event, Parser, ScalarStyle, Span, Tag};
use serde_json::{Map, Number, Value};

use super::{DEPTH_MAX, Fault, Node, PROBLEMS_MAX, Position, VALUES_MAX};

/// The one document in a text.
pub(super) fn parse(text: &str) -> Result<(Value, Node), Vec<Fault>> {
    let mut builder = Builder::default();
    for event in Parser::new_from_str(text) {
        let done = match event {
            Ok((event, span)) => builder.add(event, span),
            // The parser reads ahead and may meet its own limit before we meet ours.
            Err(error) if error.info() == "recursion limit exceeded" => Err(Fault::too_deep(position(error.marker()))),
            Err(error) => Err(Fault::new(position(error.marker()), error.info())),
        };
        if let Err(fault) = done {
            builder.faults.push(fault);
            break; // what follows makes no sense any more
        }
    }
    match builder.root {
        _ if !builder.faults.is_empty() => Err(builder.faults),
        Some(root) => Ok(root),
        None => Ok((Value::Null, Node::new(Position::new(1, 1), None))),
    }
}

#[derive(Default)]
struct Builder {
    open: Vec<Open>,
    root: Option<(Value, Node)>,
    values: usize,
    faults: Vec<Fault>,
}

/// A list or a table that has not ended.
enum Open {
    List { node: Node, elements: Vec<Value> },
    Table { node: Node, members: Map<String, Value>, key: Option<Key> },
}

struct Key {
    name: String,
    at: Position,
    /// The table has it already; what belongs to this one is read and dropped.
    is_twice: bool,
}

impl Builder {
    fn add(&mut self, event: Event<'_>, span: Span) -> Result<(), Fault> {
        let at = position(&span.start);
        match event {
            Event::DocumentStart(_) if self.root.is_some() => {
                Err(Fault::new(at, "a second document begins here; one file holds one"))
            }
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentStart(_) | Event::DocumentEnd => {
                Ok(())
            }
            Event::Alias(_) => {
                Err(Fault { help: Some("write the value out"), ..Fault::new(at, "aliases (*name) are not supported") })
            }
            Event::Scalar(text, style, _, tag) => self.scalar(text, style, tag.as_ref(), at),
            Event::SequenceStart(..) => {
                let node = self.node(at)?;
                self.open(Open::List { node, elements: Vec::new() })
            }
            Event::MappingStart(..) => {
                let node = self.node(at)?;
                self.open(Open::Table { node, members: Map::new(), key: None })
            }
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(Open::List { node, elements }) => self.value(Value::Array(elements), node),
                Some(Open::Table { node, members, .. }) => self.value(Value::Object(members), node),
                None => Ok(()),
            },
        }
    }

    fn open(&mut self, open: Open) -> Result<(), Fault> {
        if self.open.len() == DEPTH_MAX {
            let (Open::List { node, .. } | Open::Table { node, .. }) = open;
            return Err(Fault::too_deep(node.value));
        }
        self.open.push(open);
        Ok(())
    }

    /// A place for a value that begins here. Keys are names, so no list or table may begin where one is due.
    fn node(&mut self, at: Position) -> Result<Node, Fault> {
        let key = match self.open.last() {
            Some(Open::Table { key: None, .. }) => {
                let fault = Fault::new(at, "a key must be a name, not a list or a table");
                return Err(Fault { help: Some("put quotes around text that contains {{ }}"), ..fault });
            }
            Some(Open::Table { key: Some(key), .. }) => Some(key.at),
            _ => None,
        };
        self.values += 1;
        if self.values > VALUES_MAX { Err(Fault::too_many(at)) } else { Ok(Node::new(at, key)) }
    }

    fn scalar(
        &mut self,
        text: Cow<'_, str>,
        style: ScalarStyle,
        tag: Option<&Cow<'_, Tag>>,
        at: Position,
    ) -> Result<(), Fault> {
        if matches!(self.open.last(), Some(Open::Table { key: None, .. })) {
            return self.key(text.into_owned(), style, at);
        }
        let mut node = self.node(at)?;
        if style == ScalarStyle::Literal {
            // The parser's mark is at the first line that is not empty.
            let empty = text.bytes().take_while(|byte| *byte == b'\n').count();
            node.text_line = Some((at.line as usize).saturating_sub(empty));
        }
        let value = scalar(text, style, tag).map_err(|message| Fault::new(at, message))?;
        self.value(value, node)
    }

    fn key(&mut self, name: String, style: ScalarStyle, at: Position) -> Result<(), Fault> {
        if name == "<<" && style == ScalarStyle::Plain {
            let fault = Fault::new(at, "merging (<<) is not supported");
            return Err(Fault { help: Some("write the members out"), ..fault });
        }
        let Some(Open::Table { node, members, key }) = self.open.last_mut() else { return Ok(()) };
        let is_twice = members.contains_key(&name);
        if is_twice {
            let index = members.keys().position(|known| *known == name);
            let first = index.and_then(|index| node.children.get(index)?.key);
            if self.faults.len() < PROBLEMS_MAX {
                self.faults.push(Fault::twice(at, &name, first));
            }
        }
        *key = Some(Key { name, at, is_twice });
        Ok(())
    }

    /// A value is complete: it belongs to the list or the table around it.
    fn value(&mut self, value: Value, below: Node) -> Result<(), Fault> {
        match self.open.last_mut() {
            None => self.root = Some((value, below)),
            Some(Open::List { node, elements }) => {
                node.children.push(below);
                elements.push(value);
            }
            Some(Open::Table { node, members, key }) => match key.take() {
                Some(Key { name, is_twice: false, .. }) => {
                    node.children.push(below);
                    members.insert(name, value);
                }
                Some(Key { is_twice: true, .. }) => {}
                None => return Err(Fault::new(below.value, "a key must be a name, not a list or a table")),
            },
        }
        Ok(())
    }
}

impl Node {
    fn new(value: Position, key: Option<Position>) -> Node {
        Node { key, value, text_line: None, children: Vec::new() }
    }
}

fn position(marker: &saphyr_parser::Marker) -> Position {
    Position::new(marker.line().max(1), marker.col() + 1)
}

/// What a scalar means in YAML's core schema, as far as JSON can say it.
fn scalar(text: Cow<'_, str>, style: ScalarStyle, tag: Option<&Cow<'_, Tag>>) -> Result<Value, String> {
    if style == ScalarStyle::Plain && tag.is_none() && text.trim_start_matches(['+', '-']).len() > 18 {
        if let Ok(number) = text.parse::<u64>() {
            return Ok(number.into());
        }
        if text.trim_start_matches(['+', '-']).bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<i64>().is_err()
        {
            return Err("the number has too many digits; put quotes around it".to_owned());
        }
    }
    match Scalar::parse_from_cow_and_metadata(text, style, tag) {
        Some(Scalar::Null) => Ok(Value::Null),
        Some(Scalar::Boolean(truth)) => Ok(truth.into()),
        Some(Scalar::Integer(number)) => Ok(number.into()),
        Some(Scalar::FloatingPoint(number)) => Number::from_f64(*number)
            .map(Value::Number)
            .ok_or_else(|| "a number must be finite; put quotes around text".to_owned()),
        Some(Scalar::String(text)) => Ok(text.into_owned().into()),
        None => Err("the value does not fit its tag".to_owned()),
    }
}
