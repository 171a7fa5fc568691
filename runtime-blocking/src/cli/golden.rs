//! What the tools print, held against files: `testdata/cli/*.txt` has command lines (`$ rules …`) and what came of them. Standard error
//! is marked with `! `, an exit status other than 0 is the last line. `BLESS=1` writes the outputs of a run into the files: read the
//! difference before you keep it.
//!
//! Commands run as if in the repository's root, without a terminal.

use super::term::Term;
use super::tool::Io;
use super::{audit, rules};
use std::ffi::OsString;
use std::fs;
use std::path::Path;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Exit status, standard output, standard error of a command line without the program's name.
pub(super) fn run(line: &str) -> (u8, String, String) {
    let mut words = words(line).into_iter();
    let word = words.next().expect("a command");
    let family = [rules::FAMILY, audit::FAMILY].into_iter().find(|family| family.word == word).expect("rules or audit");
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut io = Io { out: &mut out, err: &mut err, term: Term::PLAIN };
    // Files are named as from the root, and tests run in their crate.
    let absolute = |word: String| if word.starts_with("testdata/") { format!("{ROOT}/{word}") } else { word };
    let status = family.run("azure-proxy-agent", words.map(|word| OsString::from(absolute(word))), &mut io);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8").replace(&format!("{ROOT}/"), "");
    (status, text(out), text(err))
}

/// Words as a shell has them: blanks part them, single quotes keep them together.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    for (at, part) in line.split('\'').enumerate() {
        if at % 2 == 1 {
            words.last_mut().expect("one").push_str(part);
            continue;
        }
        for (at, piece) in part.split(' ').enumerate() {
            if at > 0 {
                words.push(String::new());
            }
            words.last_mut().expect("one").push_str(piece);
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

fn transcript(lines: &str) -> String {
    let mut text = String::new();
    for line in lines.lines().filter(|line| line.starts_with("$ ") || line.starts_with('#')) {
        text.extend([line, "\n"]);
        let Some(command) = line.strip_prefix("$ ") else { continue };
        let (status, out, err) = run(command);
        text.push_str(&out);
        err.lines().for_each(|line| text.extend(["! ", line, "\n"]));
        if status != 0 {
            text.extend(["exit status ", &status.to_string(), "\n"]);
        }
        text.push('\n');
    }
    text
}

#[test]
fn the_tools_print_what_the_files_say() {
    let folder = Path::new(ROOT).join("testdata/cli");
    let mut files: Vec<_> = fs::read_dir(folder).expect("folder").map(|entry| entry.expect("entry").path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    files.sort();
    assert!(!files.is_empty());
    for path in files {
        let expected = fs::read_to_string(&path).expect("file");
        let found = transcript(&expected);
        if std::env::var_os("BLESS").is_some() {
            fs::write(&path, &found).expect("write");
        } else {
            assert_eq!(found, expected, "{}", path.display());
        }
    }
}

/// What `--help` shows as an example is understood, and every text fits on a terminal.
#[test]
fn every_example_of_a_help_text_is_understood() {
    for family in [rules::FAMILY, audit::FAMILY] {
        for tool in family.tools.iter().chain(&family.alone) {
            let spec = &tool.spec;
            assert!(!spec.examples.is_empty() && !spec.exit.is_empty(), "{}", spec.name);
            for example in spec.examples {
                // What a shell does with the output is not ours.
                let ours = example.split(['|', '>', '&']).next().unwrap_or_default();
                let arguments = ours.strip_prefix(spec.name).unwrap_or_else(|| panic!("{example} is of another tool"));
                let parsed = spec.parse(words(arguments).into_iter().map(OsString::from));
                assert!(parsed.is_ok(), "{example}: {parsed:?}");
            }
            for line in spec.help("azure-proxy-agent").lines() {
                // Twice that of a narrow terminal: examples are whole command lines.
                assert!(line.chars().count() <= 160, "{}: {line}", spec.name);
            }
        }
    }
}

/// The command lines of a document (`$ …` in blocks marked `console`), with what comes of them. Standard error comes first, as whoever
/// looks at both sees it; with `> FILE` the output is that file's, and is held against it.
fn example(text: &str) -> String {
    let mut out = String::new();
    let mut console = false;
    for line in text.lines() {
        if line.starts_with("```") {
            console = line == "```console";
        } else if console && !line.starts_with("$ ") {
            continue;
        }
        out.extend([line, "\n"]);
        let Some(command) = line.strip_prefix("$ ").filter(|_| console) else { continue };
        if let Some(file) = command.strip_prefix("cat ") {
            out.push_str(&fs::read_to_string(format!("{ROOT}/{file}")).expect("file"));
            continue;
        }
        let (command, file) = command.split_once(" > ").map_or((command, None), |(command, file)| (command, Some(file)));
        let (_, printed, said) = run(command.strip_prefix("azure-proxy-agent ").expect("our commands only"));
        out.push_str(&said);
        match file.map(|file| format!("{ROOT}/{file}")) {
            None => out.push_str(&printed),
            Some(file) if std::env::var_os("BLESS").is_some() => fs::write(file, printed).expect("write"),
            Some(file) => assert_eq!(printed, fs::read_to_string(&file).expect("file"), "{file}"),
        }
    }
    out
}

#[test]
fn the_worked_example_is_what_happens() {
    let path = Path::new(ROOT).join("docs/rules-worked-example.md");
    let expected = fs::read_to_string(&path).expect("file");
    let found = example(&expected);
    if std::env::var_os("BLESS").is_some() {
        fs::write(&path, &found).expect("write");
    } else {
        assert_eq!(found, expected, "{}", path.display());
    }
}
