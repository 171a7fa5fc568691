//! Members and their types. All that is wrong is said, where the JSON library would stop at the first.

use super::tree::{At, Member, Node, Value};
use super::{Code, Form, Linter, Severity, hint};
use crate::suggest::closest;
use std::collections::BTreeSet;

/// What may be the value of a member.
enum Kind {
    Text,
    /// An unsigned number of 32 bits.
    Id,
    Texts,
    /// An object of texts.
    Pairs,
    One(&'static Shape),
    Many(&'static Shape),
    /// It is ignored, but known.
    Ignored,
}

struct Field {
    name: &'static str,
    kind: Kind,
    required: bool,
}

struct Shape {
    /// With its article.
    what: &'static str,
    fields: &'static [Field],
}

const fn required(name: &'static str, kind: Kind) -> Field {
    Field { name, kind, required: true }
}

const fn optional(name: &'static str, kind: Kind) -> Field {
    Field { name, kind, required: false }
}

///
static REMOTE: Shape = Shape {
    what: "a rules document",
    fields: &[
        required("defaultAccess", Kind::Text),
        required("mode", Kind::Text),
        required("id", Kind::Text),
        optional("rules", Kind::One(&RULES)),
    ],
};
///
static LOCAL: Shape = Shape {
    what: "a local rule file",
    fields: &[
        optional("defaultAccess", Kind::Text),
        optional("id", Kind::Text),
        optional("rules", Kind::One(&RULES)),
        optional("mode", Kind::Ignored),
    ],
};
///
static RULES: Shape = Shape {
    what: "the object of the lists",
    fields: &[
        optional("privileges", Kind::Many(&PRIVILEGE)),
        optional("roles", Kind::Many(&ROLE)),
        optional("identities", Kind::Many(&IDENTITY)),
        optional("roleAssignments", Kind::Many(&ASSIGNMENT)),
    ],
};
static PRIVILEGE: Shape = Shape {
    what: "a privilege",
    fields: &[required("name", Kind::Text), required("path", Kind::Text), optional("queryParameters", Kind::Pairs)],
};
static ROLE: Shape = Shape { what: "a role", fields: &[required("name", Kind::Text), required("privileges", Kind::Texts)] };
static IDENTITY: Shape = Shape {
    what: "an identity",
    fields: &[
        required("name", Kind::Text),
        optional("userName", Kind::Text),
        optional("groupName", Kind::Text),
        optional("exePath", Kind::Text),
        optional("processName", Kind::Text),
        optional("uid", Kind::Id),
        optional("gid", Kind::Id),
        optional("exeSha256", Kind::Text),
        optional("cgroupPath", Kind::Text),
    ],
};
static ASSIGNMENT: Shape =
    Shape { what: "a role assignment", fields: &[required("role", Kind::Text), required("identities", Kind::Texts)] };

impl Kind {
    const fn expected(&self) -> &'static str {
        match self {
            Self::Text => "a string",
            Self::Id => "a number from 0 to 4294967295",
            Self::Texts => "an array of strings",
            Self::Pairs => "an object of strings",
            Self::One(_) => "an object",
            Self::Many(_) => "an array of objects",
            Self::Ignored => "anything",
        }
    }
}

impl Linter<'_> {
    pub(super) fn shape(&mut self) {
        let shape = match self.options.form {
            Form::Remote => &REMOTE,
            Form::Local => &LOCAL,
        };
        let root = self.root.clone();
        if let Some(name) = wrapper(&root) {
            let what = format!("this is no rules document: {name:?} is a member of what holds those of all endpoints");
            return self.error(Code::WrongType, &At::default().name(name), what, hint("take out the one that is to be checked"));
        }
        self.object(shape, &root, &At::default());
    }

    fn object(&mut self, shape: &'static Shape, node: &Node, at: &At) {
        let Value::Object(members) = &node.value else {
            return self.wrong(&format!("{} is an object, not {}", shape.what, node.kind()), at, node, None);
        };
        self.twins(members, at, |name| shape.fields.iter().any(|field| field.name == name));
        for member in members {
            match shape.fields.iter().find(|field| field.name == member.name) {
                Some(field) => self.field(field, &member.node, &at.member(field.name)),
                None => self.unknown(shape, members, member, at),
            }
        }
        for field in shape.fields.iter().filter(|field| field.required && node.member(field.name).is_none()) {
            let others = members.iter().map(|member| member.name.as_str()).filter(|name| !shape.has(name));
            let hint = match closest(field.name, others) {
                Some(typo) => format!("is {typo:?} meant to be {:?}? Letter case counts", field.name),
                None => format!("add it: {} must have {:?}, {}", shape.what, field.name, field.kind.expected()),
            };
            self.error(Code::MissingMember, at, format!("{} without {:?}", shape.what, field.name), hint);
        }
    }

    fn field(&mut self, field: &Field, node: &Node, at: &At) {
        let wrong = |linter: &mut Self| {
            let instead = match &node.value {
                Value::Null if field.required => "null (it is required)",
                Value::Number(number) => number,
                _ => node.kind(),
            };
            linter.wrong(&format!("{:?} is {}, not {instead}", field.name, field.kind.expected()), at, node, None);
        };
        match (&field.kind, &node.value) {
            (Kind::Ignored, _) | (Kind::Text, Value::String(_)) => {}
            (_, Value::Null) if !field.required => {}
            (Kind::Id, Value::Number(number)) if number.parse::<u32>().is_ok() => {}
            (Kind::One(shape), Value::Object(_)) => self.object(shape, node, at),
            (Kind::Many(shape), Value::Array(elements)) => {
                for (index, element) in elements.iter().enumerate() {
                    self.object(shape, element, &at.index(index));
                }
            }
            (Kind::Texts, Value::Array(elements)) => {
                for (index, element) in elements.iter().enumerate().filter(|(_, element)| element.text().is_none()) {
                    self.wrong(
                        &format!("{:?} is an array of strings: this is {}", field.name, element.kind()),
                        &at.index(index),
                        element,
                        None,
                    );
                }
            }
            (Kind::Pairs, Value::Object(members)) => {
                self.twins(members, at, |_| true);
                for member in members.iter().filter(|member| member.node.text().is_none()) {
                    let what = format!("the value of a query parameter is a string, not {}", member.node.kind());
                    let quoted = matches!(member.node.value, Value::Number(_) | Value::Bool);
                    self.wrong(
                        &what,
                        &at.member(&member.name),
                        &member.node,
                        quoted.then(|| "put it in double quotes".to_owned()),
                    );
                }
            }
            _ => wrong(self),
        }
    }

    fn wrong(&mut self, what: &str, at: &At, node: &Node, hint: Option<String>) {
        self.here(Severity::Error, Code::WrongType, at, node.span.clone(), what.to_owned(), hint);
    }

    /// Members that are there twice. The agent refuses them where it looks, and in a local file everywhere.
    fn twins(&mut self, members: &[Member], at: &At, known: impl Fn(&str) -> bool) {
        let mut seen = BTreeSet::new();
        for member in members {
            let twin = !seen.insert(member.name.as_str());
            if twin && (known(&member.name) || self.is_local()) {
                let what = format!("{:?} is there twice", member.name);
                self.error(Code::DuplicateMember, &at.name(&member.name), what, hint("keep one of them"));
            }
        }
    }

    fn unknown(&mut self, shape: &Shape, members: &[Member], member: &Member, at: &At) {
        if self.is_full(Severity::Warning, Code::UnknownMember) {
            return self.warn(Code::UnknownMember, at, String::new(), None);
        }
        let free = shape.fields.iter().map(|field| field.name).filter(|name| members.iter().all(|m| m.name != *name));
        let hint = match closest(&member.name, free) {
            Some(meant) => format!("did you mean {meant:?}?"),
            None => {
                let known: Vec<&str> = shape.fields.iter().map(|field| field.name).collect();
                format!("{} has {}", shape.what, known.join(", "))
            }
        };
        let what = format!("unknown member {:?} of {} is ignored", member.name, shape.what);
        self.warn(Code::UnknownMember, &at.name(&member.name), what, hint);
    }
}

/// Documents come in others: the member that tells that this is the outer one.
pub(super) fn wrapper(root: &Node) -> Option<&'static str> {
    let own = ["defaultAccess", "mode", "rules"].into_iter().any(|name| root.member(name).is_some());
    let outer = ["authorizationRules", "inputRules", "imds", "wireserver", "hostga"];
    outer.into_iter().find(|name| !own && root.member(name).is_some())
}

impl Shape {
    fn has(&self, name: &str) -> bool {
        self.fields.iter().any(|field| field.name == name)
    }
}
