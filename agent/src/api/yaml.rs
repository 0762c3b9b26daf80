//! Parses YAML text into values that have their line.
//!
//! A file is split into documents before it is parsed, so that a syntax error affects one document only. The parser's
//! limits on depth, nodes and aliases apply to each document. Refuses to know what a document means.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

/// The text of one document and where it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chunk<'a> {
    /// Line of the first line of `text` in its file, from 1.
    pub line: usize,
    /// The document, with its `---` if it has one.
    pub text: &'a str,
}

/// A value and the line it begins on.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Line in the file, from 1.
    pub line: usize,
    /// The value itself.
    pub value: YamlValue,
}

/// A value without its line.
#[derive(Clone, Debug, PartialEq)]
#[allow(clippy::missing_docs_in_private_items, reason = "YAML's own")]
pub enum YamlValue {
    Null,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// One key of a map.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// The key's line, which may be before the value's.
    pub line: usize,
    /// The value.
    pub node: Node,
}

/// The text is not YAML.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub(crate) struct SyntaxError {
    /// Line in the file, from 1.
    pub line: usize,
    /// The parser's message.
    pub problem: String,
}

/// Splits a file into documents. Documents of only blanks and comments are left out.
pub(crate) fn split(text: &str) -> Vec<Chunk<'_>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let (mut chunks, mut start, mut first_line, mut at) = (Vec::new(), 0, 1, 0);
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let (cut, line_of_next) = match marker(line) {
            Some(Marker::Start) => (at, index + 1),
            Some(Marker::End) => (at + line.len(), index + 2),
            None => (start, first_line),
        };
        if cut > start {
            chunks.push(Chunk { line: first_line, text: &text[start..cut] });
        }
        (start, first_line) = (cut, line_of_next);
        at += line.len();
    }
    chunks.push(Chunk { line: first_line, text: &text[start..] });
    chunks.retain(|chunk| chunk.text.lines().any(has_content));
    chunks
}

/// Parses one document.
///
/// # Errors
/// A syntax error, with its line in the file.
pub(crate) fn parse(chunk: Chunk<'_>) -> Result<Node, SyntaxError> {
    // The largest valid tenant has about ten thousand values; aliases need not repeat more.
    let aliases = serde_saphyr::alias_limits! { max_total_replayed_events: 50_000 };
    let options = serde_saphyr::options! { with_snippet: false, alias_limits: aliases };
    let mut node: Node = serde_saphyr::from_str_with_options(chunk.text, options).map_err(|error| SyntaxError {
        line: error.location().map_or(chunk.line, |at| line_of(at) + chunk.line - 1),
        problem: first_line(&error.to_string()),
    })?;
    node.shift(chunk.line - 1);
    Ok(node)
}

impl Node {
    /// The value under a key of a map.
    pub fn get(&self, key: &str) -> Option<&Self> {
        self.entry(key).map(|entry| &entry.node)
    }

    /// The text under a key of a map.
    pub fn text(&self, key: &str) -> Option<&str> {
        match &self.get(key)?.value {
            YamlValue::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The line of the deepest part of `path` (`spec.subnets[1].cidr`) that exists.
    pub fn line_of(&self, path: &str) -> usize {
        self.descend(path).1
    }

    /// The text at `path`, if there is one.
    pub fn text_at(&self, path: &str) -> Option<&str> {
        match self.descend(path) {
            (Self { value: YamlValue::Text(text), .. }, _, true) => Some(text),
            _ => None,
        }
    }

    /// The value as JSON. A key with a null is left out, as the API server does.
    pub fn to_json(&self) -> serde_json::Value {
        use serde_json::Value as Json;
        match &self.value {
            YamlValue::Null => Json::Null,
            YamlValue::Bool(value) => Json::from(*value),
            YamlValue::Int(value) => i64::try_from(*value).map_or_else(|_| Json::from(*value as f64), Json::from),
            YamlValue::Float(value) => Json::from(*value),
            YamlValue::Text(value) => Json::from(value.as_str()),
            YamlValue::List(items) => items.iter().map(Self::to_json).collect(),
            YamlValue::Map(entries) => entries
                .iter()
                .filter(|entry| entry.node.value != YamlValue::Null)
                .map(|entry| (entry.key.clone(), entry.node.to_json()))
                .collect(),
        }
    }

    /// The deepest part of `path` that exists, the line of its key, and whether it is the whole path.
    fn descend(&self, path: &str) -> (&Self, usize, bool) {
        let (mut at, mut line) = (self, self.line);
        for step in path.split(['.', '[']).map(|step| step.trim_end_matches(']')).filter(|step| !step.is_empty()) {
            let found = match &at.value {
                YamlValue::Map(_) => at.entry(step).map(|entry| (&entry.node, entry.line)),
                YamlValue::List(items) => {
                    step.parse().ok().and_then(|i: usize| items.get(i)).map(|item| (item, item.line))
                }
                _ => None,
            };
            let Some(found) = found else { return (at, line, false) };
            (at, line) = found;
        }
        (at, line, true)
    }

    fn entry(&self, key: &str) -> Option<&Entry> {
        match &self.value {
            YamlValue::Map(entries) => entries.iter().find(|entry| entry.key == key),
            _ => None,
        }
    }

    fn shift(&mut self, by: usize) {
        self.line += by;
        match &mut self.value {
            YamlValue::List(items) => items.iter_mut().for_each(|item| item.shift(by)),
            YamlValue::Map(entries) => entries.iter_mut().for_each(|entry| {
                entry.line += by;
                entry.node.shift(by);
            }),
            _ => {}
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Spanned::<YamlValue>::deserialize(from)
            .map(|found| Self { line: line_of(found.referenced), value: found.value })
    }
}

impl<'de> Deserialize<'de> for YamlValue {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(AnyValue)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = YamlValue;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<YamlValue, E> {
        Ok(YamlValue::Null)
    }

    fn visit_none<E>(self) -> Result<YamlValue, E> {
        Ok(YamlValue::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<YamlValue, E> {
        Ok(YamlValue::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<YamlValue, E> {
        Ok(YamlValue::Int(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<YamlValue, E> {
        Ok(YamlValue::Int(value.into()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<YamlValue, E> {
        Ok(YamlValue::Int(value))
    }

    fn visit_u128<E>(self, value: u128) -> Result<YamlValue, E> {
        Ok(i128::try_from(value).map_or(YamlValue::Float(value as f64), YamlValue::Int))
    }

    fn visit_f64<E>(self, value: f64) -> Result<YamlValue, E> {
        Ok(YamlValue::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<YamlValue, E> {
        Ok(YamlValue::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<YamlValue, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(YamlValue::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<YamlValue, A::Error> {
        let mut map = Vec::new();
        while let Some(key) = entries.next_key::<Spanned<String>>()? {
            map.push(Entry { line: line_of(key.referenced), key: key.value, node: entries.next_value()? });
        }
        Ok(YamlValue::Map(map))
    }
}

enum Marker {
    Start,
    End,
}

/// Recognises a document marker. YAML forbids both at the beginning of a line inside a document, even in quotes.
fn marker(line: &str) -> Option<Marker> {
    let (mark, rest) = (line.get(..3)?, line[3..].chars().next());
    let ends = rest.is_none_or(|c| c.is_ascii_whitespace());
    match mark {
        "---" if ends => Some(Marker::Start),
        "..." if ends => Some(Marker::End),
        _ => None,
    }
}

fn has_content(line: &str) -> bool {
    let line = line.trim();
    let line = line.strip_prefix("---").unwrap_or(line).trim_start();
    !line.is_empty() && !line.starts_with('#') && line != "..."
}

fn line_of(at: serde_saphyr::Location) -> usize {
    usize::try_from(at.line()).unwrap_or(usize::MAX)
}

/// The first line of the parser's message. Its position is relative to the document and is left out.
fn first_line(message: &str) -> String {
    let first = message.lines().find(|line| !line.trim().is_empty()).unwrap_or("not YAML").trim();
    first.trim_start_matches("error: ").to_owned()
}

#[cfg(test)]
mod tests;
