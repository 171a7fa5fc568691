//! `rules diff`: what a change of rules would change.

use super::super::args::{Given, JSON, Opt, Spec};
use super::super::recorded;
use super::super::term::clean;
use super::super::tool::{Failure, Io, Tool};
use super::super::usage::UsageError;
use azure_proxy_agent_core::advise::Documents;
use azure_proxy_agent_core::advise::diff::{Affected, Diff, affected, compare};
use azure_proxy_agent_core::authz::{Document, LocalRules};
use azure_proxy_agent_core::identity::Destination;
use serde::Serialize;
use std::ffi::OsStr;
use std::path::Path;

/// Longer files are no documents.
const MAX_FILE: u64 = 64 << 20;

pub(super) static TOOL: Tool = Tool {
    spec: Spec {
        name: "rules diff",
        about: "tells what a change of rules would allow and deny newly",
        usage: "[OPTIONS] OLD NEW",
        operands: (2, 2),
        options: &[
            Opt::value(
                "dest",
                "<endpoint>",
                "Whose documents they are: imds, wireserver or hostga\n[default: what the names of the files say]",
            ),
            Opt::value("against", "<file>", "Tell which requests of this audit log it would affect; may be\nrepeated").repeated(),
            JSON,
        ],
        details: "\
OLD and NEW are documents, local rule files, or what has the documents of several endpoints: a
snapshot of the rules, the agent's answer to /rules, the host's status document. Not their text
is compared but what they allow, with the code that decides. Two documents that say the same in
other words, names or order have no difference.

In the result, a path means everything below it, and \"everyone\" includes those that have names.",
        exit: &[(0, "both mean the same"), (1, "they do not"), (2, "wrong arguments, or a file cannot be read")],
        examples: &[
            "rules diff imds.json imds.new.json",
            "rules diff --dest imds old.json new.json --against /var/log/azure-proxy-agent/audit.jsonl",
        ],
    },
    run,
};

#[derive(Serialize)]
struct Compared {
    #[serde(flatten)]
    diff: Diff,
    #[serde(skip_serializing_if = "Option::is_none")]
    recorded: Option<Affected>,
}

fn run(given: &Given, io: &mut Io<'_>) -> Result<u8, Failure> {
    let [old, new] = given.operands.as_slice() else { return Err(UsageError::Missing(TOOL.spec.usage).into()) };
    let [before, after] = [Source::read(old, io)?, Source::read(new, io)?];
    let destinations = destinations(given, [(old, &before), (new, &after)])?;
    let against: Vec<&OsStr> = given.all("against").collect();
    let recording = if against.is_empty() { None } else { Some(recorded::read(against)?) };
    let mut all = Vec::new();
    for destination in destinations {
        let [(old, old_notes), (new, new_notes)] = [before.document(destination), after.document(destination)];
        let mut diff = compare(&old, &new, destination);
        diff.notes.extend(old_notes.into_iter().map(|note| format!("old: {note}")));
        diff.notes.extend(new_notes.into_iter().map(|note| format!("new: {note}")));
        // The host plug-in has the WireServer's document, but not its local file (W-41).
        let both = [Destination::WireServer, Destination::HostGaPlugin];
        let local = matches!(before, Source::Local(_)) || matches!(after, Source::Local(_));
        let whose = if destination == Destination::WireServer && !local { &both[..] } else { &[destination] };
        let recorded = recording.as_ref().map(|recording| affected(&old, &new, whose, &recording.requests));
        all.push(Compared { diff, recorded });
    }
    if given.has("json") {
        io.json(&all)?;
    } else {
        for Compared { diff, recorded } in &all {
            let mut text = if all.len() > 1 { format!("{}:\n{diff}", diff.destination) } else { diff.to_string() };
            if let Some(recorded) = recorded {
                text.push_str(&recorded.to_string());
            }
            for line in text.lines() {
                writeln!(io.out, "{}", clean(line))?;
            }
        }
    }
    for remark in recording.iter().flat_map(recorded::remarks) {
        let _ = writeln!(io.err, "{}", clean(&remark));
    }
    Ok(u8::from(all.iter().any(|compared| !compared.diff.is_empty())))
}

/// What a file has.
enum Source {
    /// One document.
    One(Document),
    /// A local rule file, as if it stood alone.
    Local(Document),
    /// Documents of several endpoints.
    Several(Box<Documents>),
}

impl Source {
    fn read(path: &OsStr, io: &Io<'_>) -> Result<Self, Failure> {
        let bytes = io.read(path, MAX_FILE)?;
        let of = |destination| Documents::read(&bytes, destination);
        match (of(Destination::Imds), of(Destination::WireServer)) {
            // Only a document alone is whose we say it is.
            (Ok(documents), Ok(other)) if documents == other => Ok(Self::Several(Box::new(documents))),
            (Ok(mut documents), _) => match documents.get_mut(Destination::Imds).take() {
                Some(document) => Ok(Self::One(document)),
                None => Ok(Self::Several(Box::new(documents))),
            },
            (Err(error), _) => match LocalRules::parse(&bytes) {
                // Without a mode it can only be a local file.
                Ok(local) if error.to_string().contains("missing field") => Ok(Self::Local(local.merge(&alone()))),
                _ => Err(format!("{}: {error}", path.display()).into()),
            },
        }
    }

    fn document(&self, destination: Destination) -> (Document, Option<String>) {
        match self {
            Self::One(document) => (document.clone(), None),
            Self::Local(document) => {
                (document.clone(), Some("a local rule file; compared as if it stood alone and were enforced".to_owned()))
            }
            Self::Several(documents) => match documents.by_destination.get(destination) {
                Some(document) => (document.clone(), None),
                None => (
                    Document { default_access: "allow".to_owned(), mode: "disabled".to_owned(), ..alone() },
                    Some(format!("there is no document for {}: everything is allowed", destination.name())),
                ),
            },
        }
    }
}

/// What a local rule file is merged with when nothing else is known.
fn alone() -> Document {
    Document { default_access: "deny".to_owned(), mode: "enforce".to_owned(), ..Document::default() }
}

fn destinations(given: &Given, files: [(&std::ffi::OsString, &Source); 2]) -> Result<Vec<Destination>, UsageError> {
    if let Some(word) = given.text("dest")? {
        return Ok(vec![recorded::destination(word)?]);
    }
    let several = |destination: &Destination| {
        files.iter().any(|(_, source)| match source {
            Source::Several(documents) => documents.by_destination.get(*destination).is_some(),
            Source::One(_) | Source::Local(_) => false,
        })
    };
    if files.iter().all(|(_, source)| matches!(source, Source::Several(_))) {
        return Ok(Destination::ALL.into_iter().filter(several).collect());
    }
    let named = |path: &OsStr| {
        let name = Path::new(path).file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
        Destination::ALL.into_iter().find(|destination| name.contains(recorded::word(*destination)))
    };
    match files.map(|(path, _)| named(path)) {
        [Some(one), Some(other)] if one == other => Ok(vec![one]),
        [Some(one), None] | [None, Some(one)] => Ok(vec![one]),
        _ => Err(UsageError::wrong("--dest is missing, and the names of the files do not say whose documents they are")),
    }
}

#[cfg(test)]
mod tests;
