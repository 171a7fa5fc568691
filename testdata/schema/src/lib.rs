//! Whether a JSON value is as a schema of `docs/` says. Knows the words of JSON Schema that are used there; any other fails, so that no
//! rule is overlooked. For tests: it panics at schemas that it does not understand.

#![allow(clippy::expect_used, clippy::panic, reason = "a schema that is not understood is a failed test")]

use serde_json::{Map, Value};

/// What of `value` is not as `schema` wants it.
#[must_use]
pub fn wrong(schema: &Value, value: &Value) -> Vec<String> {
    let mut wrong = Vec::new();
    Checker { root: schema, wrong: &mut wrong }.value(schema, value, "");
    wrong
}

struct Checker<'a> {
    root: &'a Value,
    wrong: &'a mut Vec<String>,
}

impl Checker<'_> {
    fn value(&mut self, schema: &Value, value: &Value, at: &str) {
        let words = schema.as_object().expect("a schema is an object");
        for (word, rule) in words {
            let holds = match word.as_str() {
                "$schema" | "$defs" | "title" | "description" | "examples" => true,
                "$ref" => {
                    let pointer = rule.as_str().and_then(|r| r.strip_prefix('#')).expect("a reference into the schema");
                    let schema = self.root.pointer(pointer).unwrap_or_else(|| panic!("{pointer} is not in the schema"));
                    self.value(schema, value, at);
                    true
                }
                "allOf" => {
                    rule.as_array().expect("an array").iter().for_each(|schema| self.value(schema, value, at));
                    true
                }
                "anyOf" => {
                    let mut schemas = rule.as_array().expect("an array").iter();
                    schemas.any(|schema| {
                        let mut wrong = Vec::new();
                        Checker { root: self.root, wrong: &mut wrong }.value(schema, value, at);
                        wrong.is_empty()
                    })
                }
                "propertyNames" => {
                    for name in value.as_object().into_iter().flat_map(Map::keys) {
                        self.value(rule, &Value::String(name.clone()), &format!("{at}/{name}"));
                    }
                    true
                }
                "minItems" => value.as_array().is_none_or(|items| items.len() as u64 >= number(rule)),
                "uniqueItems" => {
                    value.as_array().is_none_or(|items| items.iter().enumerate().all(|(n, i)| !items[..n].contains(i)))
                }
                "type" => types(rule).any(|t| t == kind(value)),
                "enum" => rule.as_array().expect("an array").contains(value),
                "pattern" => value.as_str().is_none_or(|text| matches(rule.as_str().expect("a pattern"), text)),
                "minLength" => value.as_str().is_none_or(|text| text.len() as u64 >= number(rule)),
                "maxLength" => value.as_str().is_none_or(|text| text.len() as u64 <= number(rule)),
                "minimum" => value.as_i64().is_none_or(|n| n >= 0 && n.unsigned_abs() >= number(rule)),
                "maximum" => value.as_u64().is_none_or(|n| n <= number(rule)),
                "required" => {
                    let names = rule.as_array().expect("an array").iter().filter_map(Value::as_str);
                    names.into_iter().all(|name| value.as_object().is_none_or(|o| o.contains_key(name)))
                }
                "properties" | "additionalProperties" => {
                    if let Some(members) = value.as_object() {
                        self.members(words, word, members, at);
                    }
                    true
                }
                "items" => {
                    for (n, item) in value.as_array().into_iter().flatten().enumerate() {
                        self.value(rule, item, &format!("{at}/{n}"));
                    }
                    true
                }
                _ => panic!("the checker does not know {word:?}"),
            };
            if !holds {
                self.wrong.push(format!("{at}: {word} {rule}"));
            }
        }
    }

    fn members(&mut self, words: &Map<String, Value>, word: &str, members: &Map<String, Value>, at: &str) {
        let known = words.get("properties").and_then(Value::as_object);
        for (name, value) in members {
            let at = format!("{at}/{name}");
            match (word, known.and_then(|known| known.get(name)), &words[word]) {
                ("properties", Some(schema), _) => self.value(schema, value, &at),
                ("additionalProperties", None, Value::Bool(false)) => self.wrong.push(format!("{at}: unknown")),
                ("additionalProperties", None, schema @ Value::Object(_)) => self.value(schema, value, &at),
                _ => {}
            }
        }
    }
}

fn types(rule: &Value) -> impl Iterator<Item = &str> {
    let one = std::slice::from_ref(rule);
    rule.as_array().map_or(one, Vec::as_slice).iter().filter_map(Value::as_str)
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_u64() || n.is_i64() => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn number(rule: &Value) -> u64 {
    rule.as_u64().expect("a natural number")
}

/// Whether `text` matches a pattern: `^`, characters, `\s`, `[a-z0-9]`, `{n}`, `{n,m}`, `*` and `$`; or `\S` alone.
///
/// # Panics
/// At anything else in a pattern.
#[must_use]
pub fn matches(pattern: &str, text: &str) -> bool {
    if pattern == "\\S" {
        return text.contains(|c: char| !c.is_whitespace());
    }
    let rest = pattern.strip_prefix('^').expect("patterns begin with ^");
    let (rest, whole) = rest.strip_suffix('$').map_or((rest, false), |rest| (rest, true));
    here(rest, text, whole)
}

fn here(pattern: &str, text: &str, whole: bool) -> bool {
    let Some(first) = pattern.chars().next() else { return text.is_empty() || !whole };
    let (class, rest) = if first == '[' {
        let end = pattern.find(']').expect("a class ends");
        (&pattern[1..end], &pattern[end + 1..])
    } else if pattern.starts_with("\\s") {
        pattern.split_at(2)
    } else {
        assert!(!"\\.*+?()|^$".contains(first), "the checker does not know {first:?} in {pattern:?}");
        pattern.split_at(first.len_utf8())
    };
    let (least, most, rest) = match (rest.strip_prefix('{'), rest.strip_prefix('*')) {
        (None, None) => (1, 1, rest),
        (None, Some(rest)) => (0, usize::MAX, rest),
        (Some(counts), _) => {
            let (counts, rest) = counts.split_once('}').expect("a count ends");
            let (least, most) = counts.split_once(',').unwrap_or((counts, counts));
            (least.parse().expect("a number"), most.parse().expect("a number"), rest)
        }
    };
    let fitting = text.chars().take(most).take_while(|c| is_in(class, *c)).count();
    // The longest first; shorter ones only if the rest of the pattern needs it.
    (least..=fitting).rev().any(|count| here(rest, &text[text.char_indices().nth(count).map_or(text.len(), |(i, _)| i)..], whole))
}

fn is_in(class: &str, c: char) -> bool {
    if class == "\\s" {
        return c.is_whitespace();
    }
    let class: Vec<char> = class.chars().collect();
    let mut at = 0;
    while let Some(low) = class.get(at) {
        let (high, step) = if class.get(at + 1) == Some(&'-') && at + 2 < class.len() { (class[at + 2], 3) } else { (*low, 1) };
        if (*low..=high).contains(&c) {
            return true;
        }
        at += step;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_wrong_is_found() {
        assert!(matches("^[0-9]{4}-[a-f0-9]{1,3}x$", "2026-0afx"));
        assert!(matches("^[1-5][0-9]{2} ", "421 Misdirected"));
        assert!(matches("^[a-c]{1,3}c$", "abc"), "gives back what the rest needs");
        assert!(matches("^\\s*[Aa]b\\s*$", "\t ab\n") && !matches("^\\s*[Aa]b\\s*$", " a b"));
        assert!(
            matches("\\S", " x") && !matches("\\S", " \n") && matches("^[ ->@-~]*$", "/a b") && !matches("^[ ->@-~]*$", "/a?")
        );
        for text in ["", "2026-0afx ", "2026-x", "202-0x", "2026-0afgx"] {
            assert!(!matches("^[0-9]{4}-[a-f0-9]{1,3}x$", text), "{text}");
        }
        let schema = json!({
            "type": "object", "required": ["a"], "additionalProperties": false,
            "properties": {
                "a": {"$ref": "#/$defs/small"},
                "b": {"type": ["array", "null"], "items": {"enum": ["x", "y"]}, "minItems": 1, "uniqueItems": true},
                "d": {"anyOf": [{"type": "null"}, {"type": "object", "propertyNames": {"pattern": "\\S"}}]},
            },
            "$defs": {"small": {"type": "integer", "minimum": 1, "maximum": 9}},
        });
        let wrong = |value: &Value| wrong(&schema, value).len();
        assert_eq!(wrong(&json!({"a": 1, "b": ["x", "y"], "d": {"e": 1}})) + wrong(&json!({"a": 9, "b": null, "d": null})), 0);
        for value in [
            json!({}),
            json!([]),
            json!({"a": 0}),
            json!({"a": -1}),
            json!({"a": 10}),
            json!({"a": "1"}),
            json!({"a": 1, "b": ["z"]}),
            json!({"a": 1, "b": []}),
            json!({"a": 1, "b": ["x", "x"]}),
            json!({"a": 1, "b": {}}),
            json!({"a": 1, "c": 2}),
            json!({"a": 1, "d": 2}),
            json!({"a": 1, "d": {" ": 2}}),
        ] {
            assert_eq!(wrong(&value), 1, "{value}");
        }
    }
}
