//! JSON with the place of everything in it. Reads only what the JSON library has taken before; on other text it finds something or
//! nothing, and never fails.

use core::fmt;
use core::ops::Range;

/// Deeper than anything that means something in a document. What is below is not looked at.
const DEPTH: usize = 16;

/// A value and its bytes in the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) span: Range<usize>,
    pub(super) value: Value,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Null,
    Bool,
    /// As written.
    Number(String),
    String(String),
    Array(Vec<Node>),
    Object(Vec<Member>),
    /// Below [`DEPTH`].
    Deep,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) name: String,
    /// The name with its quotes.
    pub(super) name_span: Range<usize>,
    pub(super) node: Node,
}

impl Node {
    /// Reads a whole text.
    pub(super) fn read(text: &str) -> Self {
        Reader { text, at: 0 }.value(0)
    }

    /// What it is, in the words of JSON.
    pub(super) const fn kind(&self) -> &'static str {
        match self.value {
            Value::Null => "null",
            Value::Bool => "a boolean",
            Value::Number(_) => "a number",
            Value::String(_) => "a string",
            Value::Array(_) => "an array",
            Value::Object(_) => "an object",
            Value::Deep => "a value",
        }
    }

    /// The last member of that name; of others readers know nothing.
    pub(super) fn member(&self, name: &str) -> Option<&Member> {
        match &self.value {
            Value::Object(members) => members.iter().rev().find(|member| member.name == name),
            _ => None,
        }
    }

    pub(super) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// The value at a place, if there is one, and it is not null.
    pub(super) fn get(&self, place: &At) -> Option<&Self> {
        let mut node = self;
        for step in &place.0 {
            node = match (step, &node.value) {
                (Step::Member(name), _) => &node.member(name)?.node,
                (Step::Index(index), Value::Array(elements)) => elements.get(*index)?,
                (Step::Name(_) | Step::Index(_), _) => return None,
            };
        }
        (node.value != Value::Null).then_some(node)
    }

    /// The bytes of what is at a place, or of the innermost thing around it that is there.
    pub(super) fn find(&self, place: &At) -> Range<usize> {
        let mut node = self;
        for step in &place.0 {
            let next = match (step, &node.value) {
                (Step::Member(name), _) => node.member(name).map(|member| &member.node),
                (Step::Name(name), _) => match node.member(name) {
                    Some(member) => return member.name_span.clone(),
                    None => None,
                },
                (Step::Index(index), Value::Array(elements)) => elements.get(*index),
                (Step::Index(_), _) => None,
            };
            let Some(next) = next else { break };
            node = next;
        }
        node.span.clone()
    }
}

/// Where something is: the way from the document to it. Prints as `rules.privileges[3].path`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct At(Vec<Step>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    /// The value of a member.
    Member(String),
    /// Its name. Leads nowhere else.
    Name(String),
    /// An element, counted from 0.
    Index(usize),
}

impl At {
    fn step(&self, step: Step) -> Self {
        Self(self.0.iter().cloned().chain([step]).collect())
    }

    pub(super) fn member(&self, name: &str) -> Self {
        self.step(Step::Member(name.to_owned()))
    }

    pub(super) fn name(&self, name: &str) -> Self {
        self.step(Step::Name(name.to_owned()))
    }

    pub(super) fn index(&self, index: usize) -> Self {
        self.step(Step::Index(index))
    }

    /// A member of an element of one of the lists.
    pub(super) fn element(list: &str, index: usize) -> Self {
        Self::default().member("rules").member(list).index(index)
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut dot = "";
        for step in &self.0 {
            match step {
                Step::Index(index) => write!(f, "[{index}]")?,
                Step::Member(name) | Step::Name(name) if is_word(name) => write!(f, "{dot}{name}")?,
                Step::Member(name) | Step::Name(name) => write!(f, "[{name:?}]")?,
            }
            dot = ".";
        }
        Ok(())
    }
}

fn is_word(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

struct Reader<'t> {
    text: &'t str,
    at: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    fn value(&mut self, depth: usize) -> Node {
        self.blanks();
        let start = self.at;
        let value = match self.peek() {
            Some(b'{' | b'[') if depth == DEPTH => {
                self.skip();
                Value::Deep
            }
            Some(b'{') => Value::Object(self.members(depth)),
            Some(b'[') => Value::Array(self.elements(depth)),
            Some(b'"') => Value::String(self.string()),
            other => {
                while self.peek().is_some_and(|b| !matches!(b, b',' | b'}' | b']' | b' ' | b'\t' | b'\r' | b'\n')) {
                    self.at += 1;
                }
                match other {
                    Some(b'n') => Value::Null,
                    Some(b't' | b'f') => Value::Bool,
                    _ => Value::Number(self.text.get(start..self.at).unwrap_or_default().to_owned()),
                }
            }
        };
        Node { span: start..self.at, value }
    }

    fn members(&mut self, depth: usize) -> Vec<Member> {
        let mut members = Vec::new();
        self.at += 1;
        loop {
            self.blanks();
            match self.peek() {
                Some(b'"') => {
                    let start = self.at;
                    let name = self.string();
                    let name_span = start..self.at;
                    self.blanks();
                    self.at += usize::from(self.peek() == Some(b':'));
                    members.push(Member { name, name_span, node: self.value(depth + 1) });
                }
                Some(b',') => self.at += 1,
                Some(b'}') => {
                    self.at += 1;
                    return members;
                }
                _ => return members,
            }
        }
    }

    fn elements(&mut self, depth: usize) -> Vec<Node> {
        let mut elements = Vec::new();
        self.at += 1;
        loop {
            self.blanks();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => {
                    self.at += 1;
                    return elements;
                }
                Some(_) => {
                    let before = self.at;
                    elements.push(self.value(depth + 1));
                    if self.at == before {
                        return elements;
                    }
                }
                None => return elements,
            }
        }
    }

    /// The string that begins here; without the quotes if it cannot be decoded.
    fn string(&mut self) -> String {
        let start = self.at;
        self.at += 1;
        while let Some(byte) = self.peek() {
            self.at += if byte == b'\\' { 2 } else { 1 };
            if byte == b'"' {
                break;
            }
        }
        self.at = self.at.min(self.text.len());
        let raw = self.text.get(start..self.at).unwrap_or_default();
        serde_json::from_str(raw).unwrap_or_else(|_| raw.trim_matches('"').to_owned())
    }

    /// Passes over a value, however deep it is.
    fn skip(&mut self) {
        let mut depth = 0usize;
        while let Some(byte) = self.peek() {
            match byte {
                b'"' => drop(self.string()),
                b'{' | b'[' => depth += 1,
                b'}' | b']' => depth -= 1,
                _ => {}
            }
            self.at += usize::from(byte != b'"');
            if depth == 0 {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_has_its_place() {
        let text = r#" {"a": [1, {"b\n": "x\"}]"}, null], "é" : true , "a2":{} }"#;
        let root = Node::read(text);
        let at = |place: &At| &text[root.find(place)];
        let top = At::default();
        assert_eq!(at(&top.member("a").index(0)), "1");
        let inner = top.member("a").index(1).member("b\n");
        assert_eq!((at(&inner), inner.to_string().as_str()), (r#""x\"}]""#, r#"a[1]["b\n"]"#));
        assert_eq!(at(&top.member("a").index(2)), "null");
        assert_eq!(at(&top.name("é")), r#""é""#);
        assert_eq!(at(&top.member("é")), "true");
        assert_eq!(at(&top.member("a2")), "{}");
        assert_eq!(at(&top.member("a").index(7).member("b")), r#"[1, {"b\n": "x\"}]"}, null]"#, "what is around it");
        assert_eq!(At::element("roles", 3).member("name").to_string(), "rules.roles[3].name");
    }

    #[test]
    fn depth_and_nonsense_are_survived() {
        let deep = format!("{{\"a\":{}{}, \"b\":1}}", "[".repeat(100_000), "]".repeat(100_000));
        let root = Node::read(&deep);
        assert_eq!(&deep[root.find(&At::default().member("b"))], "1");
        for text in ["", "{", "[", "\"", "{\"", "{\"a\"", "{\"a\":", "[1", "[}", "{]", "\\", "{\"a\\", "[,,]", "]", "nul"] {
            Node::read(text);
        }
    }
}
