//! Test functions in Rust source, with what their comments and strings say. A scanner, no parser: it knows comments, strings,
//! attributes, braces, `mod`, `fn` and macro calls.
//!
//! A test is a function with `#[test]`; or, outside of functions, one that a macro is given (`sandboxed! { fn name(…) {…} }`), or
//! that a macro's list names (`on_both_runtimes!(name, …)`).

use std::collections::BTreeMap;

/// A test function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Test {
    /// Modules of the file in which it is, joined by `::`.
    pub(crate) module: String,
    pub(crate) name: String,
    /// Comments above it, comments and strings in it.
    pub(crate) texts: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Comment(String),
    Text(String),
    Word(String),
    Sign(char),
}

/// What a brace or parenthesis that is open belongs to.
#[derive(Debug)]
enum Scope {
    Module(String),
    /// Position of the function in the list being made.
    Function(usize),
    Macro,
    Other,
}

/// All tests of a file.
pub(crate) fn tests(source: &str) -> Vec<Test> {
    let tokens = tokens(source);
    let mut functions: Vec<(Test, bool)> = Vec::new();
    let mut listed: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut scopes: Vec<Scope> = Vec::new();
    // What belongs to the item that comes next.
    let (mut comments, mut is_test, mut next) = (Vec::new(), false, Scope::Other);
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        let sign = |ahead: usize| match tokens.get(at + ahead) {
            Some(Token::Sign(sign)) => Some(*sign),
            _ => None,
        };
        let function = scopes.iter().find_map(|scope| if let Scope::Function(index) = scope { Some(*index) } else { None });
        let in_macro = matches!(scopes.last(), Some(Scope::Macro));
        match token {
            Token::Comment(text) | Token::Text(text) => match function {
                Some(index) => functions.iter_mut().skip(index).take(1).for_each(|(test, _)| test.texts.push(text.clone())),
                None => comments.push(text.clone()),
            },
            Token::Sign('#') if function.is_none() && sign(1) == Some('[') => {
                let attribute: Vec<&Token> = tokens.iter().skip(at + 2).take_while(|token| **token != Token::Sign(']')).collect();
                is_test |= attribute == [&Token::Word("test".to_owned())];
                at += attribute.len() + 2;
            }
            Token::Word(word) if function.is_none() && (word == "mod" || word == "fn") => {
                if let Some(Token::Word(name)) = tokens.get(at + 1) {
                    if word == "mod" {
                        next = Scope::Module(name.clone());
                    } else {
                        let modules: Vec<&str> = scopes.iter().filter_map(Scope::module).collect();
                        let texts = std::mem::take(&mut comments);
                        let test = Test { module: modules.join("::"), name: name.clone(), texts };
                        next = Scope::Function(functions.len());
                        functions.push((test, is_test || in_macro));
                        is_test = false;
                    }
                    at += 1;
                }
            }
            Token::Word(_) if function.is_none() && sign(1) == Some('!') && matches!(sign(2), Some('{' | '(' | '[')) => {
                next = Scope::Macro;
                at += 1;
            }
            Token::Word(word) if in_macro => {
                listed.entry(word.clone()).or_default().append(&mut comments);
            }
            // A signature's parentheses do not open the body.
            Token::Sign('(' | '[') if !matches!(next, Scope::Macro) => scopes.push(Scope::Other),
            Token::Sign('{' | '(' | '[') => {
                scopes.push(std::mem::replace(&mut next, Scope::Other));
                if function.is_none() {
                    comments.clear();
                }
            }
            Token::Sign('}' | ')' | ']') => {
                let ended = scopes.pop();
                if function.is_none() || matches!(ended, Some(Scope::Function(_))) {
                    // Behind a parenthesis an item may go on.
                    if *token == Token::Sign('}') {
                        comments.clear();
                        is_test = false;
                    }
                }
            }
            Token::Sign(';') if function.is_none() && !matches!(scopes.last(), Some(Scope::Other)) => {
                comments.clear();
                is_test = false;
                next = Scope::Other;
            }
            _ => {}
        }
        at += 1;
    }
    let chosen = |(mut test, is_test): (Test, bool)| {
        let named = listed.get(&test.name);
        test.texts.extend(named.into_iter().flatten().cloned());
        (is_test || named.is_some()).then_some(test)
    };
    functions.into_iter().filter_map(chosen).collect()
}

impl Scope {
    fn module(&self) -> Option<&str> {
        if let Self::Module(name) = self { Some(name) } else { None }
    }
}

fn tokens(source: &str) -> Vec<Token> {
    let chars: Vec<char> = source.chars().collect();
    let char_at = |at: usize| chars.get(at).copied().unwrap_or('\0');
    let text = |from: usize, to: usize| chars.get(from..to.min(chars.len())).unwrap_or_default().iter().collect::<String>();
    // Where the first character after `from` is that `ends` accepts, or the end of the file.
    let find = |from: usize, ends: &dyn Fn(usize) -> bool| (from..chars.len()).find(|at| ends(*at)).unwrap_or(chars.len());
    let mut tokens = Vec::new();
    let mut at = 0;
    while at < chars.len() {
        let start = at;
        match (char_at(at), char_at(at + 1)) {
            ('/', '/') => {
                at = find(at, &|at| char_at(at) == '\n');
                // `//!` speaks of the file, not of what follows.
                if char_at(start + 2) != '!' {
                    tokens.push(Token::Comment(text(start, at)));
                }
            }
            ('/', '*') => {
                at = find(at + 2, &|at| char_at(at) == '*' && char_at(at + 1) == '/') + 2;
                tokens.push(Token::Comment(text(start, at)));
            }
            ('"', _) => {
                at += 1;
                while at < chars.len() && char_at(at) != '"' {
                    at += if char_at(at) == '\\' { 2 } else { 1 };
                }
                tokens.push(Token::Text(text(start + 1, at)));
                at += 1;
            }
            ('\'', '\\') => at = find(at + 3, &|at| char_at(at) == '\'') + 1,
            ('\'', _) if char_at(at + 2) == '\'' => at += 3,
            // A lifetime.
            ('\'', _) => at += 1,
            (first, _) if first.is_alphanumeric() || first == '_' => {
                at = find(at, &|at| !(char_at(at).is_alphanumeric() || char_at(at) == '_'));
                let word = text(start, at);
                let hashes = find(at, &|at| char_at(at) != '#') - at;
                if matches!(word.as_str(), "r" | "br" | "cr") && char_at(at + hashes) == '"' {
                    let begin = at + hashes + 1;
                    let is_end = |at: usize| char_at(at) == '"' && (1..=hashes).all(|ahead| char_at(at + ahead) == '#');
                    let end = find(begin, &is_end);
                    tokens.push(Token::Text(text(begin, end)));
                    at = end + 1 + hashes;
                } else if !(matches!(word.as_str(), "b" | "c") && char_at(at) == '"') {
                    tokens.push(Token::Word(word));
                }
            }
            (sign, _) => {
                if !sign.is_whitespace() {
                    tokens.push(Token::Sign(sign));
                }
                at += 1;
            }
        }
    }
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_are_found_with_what_they_say() {
        let source = r##"
            //! W-01: of the file.
            // W-02: of the helper.
            fn helper<'a>(x: &'a str) -> char { let _ = "W-03"; '"' }

            sandboxed! {
                /// W-04
                fn in_a_macro(sandbox) { check("W-05") }
            }

            on_both_runtimes!(
                // W-06
                listed,
                #[ignore = "W-07"]
                other,
            );

            /// W-08
            fn listed(runtime: Runtime) { let s = r#"W-09 " }"#; }

            mod tests {
                use super::*;
                const X: [u8; 2] = [b'{', b'\''];

                struct S { a: u8 }

                impl S {
                    fn method(&self) {}
                }

                /// W-10
                #[test]
                #[should_panic(expected = "W-11")]
                fn plain() -> Result<(), [u8; 1]> {
                    // W-12
                    fn inner() {}
                    assert!(x, "{} W-13 \" {{", y);
                }

                fn no_test() { plain!("W-14"); }
            }
        "##;
        let found = tests(source);
        let names: Vec<_> = found.iter().map(|test| (test.module.as_str(), test.name.as_str())).collect();
        assert_eq!(names, [("", "in_a_macro"), ("", "listed"), ("tests", "plain")]);
        let words = |test: &Test| {
            let all = test.texts.join(" ");
            (1..15).filter(|n| all.contains(&format!("W-{n:02}"))).collect::<Vec<_>>()
        };
        assert_eq!(found.iter().map(words).collect::<Vec<_>>(), [vec![4, 5], vec![6, 8, 9], vec![10, 12, 13]]);
    }
}
