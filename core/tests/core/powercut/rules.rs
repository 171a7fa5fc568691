//! Local rule files belong to the machine's owner, who writes them as he likes: with care (new file, sync, rename), without the sync, or
//! over the old content. The agent may read at any moment, and after any power cut. What it reads is the old document, the new one, or
//! no document at all; never a third one. (What it does without one is the rules' business: it fails closed.)

use super::disk::Disk;
use azure_proxy_agent_core::authz::LocalRules;
use std::collections::BTreeSet;

const OLD: &str = r#"{"defaultAccess":"deny","mode":"enforce","id":"old","rules":{"privileges":[{"name":"p","path":"/machine"}],
    "roles":[{"name":"r","privileges":["p"]}],"identities":[{"name":"i","userName":"root"}],
    "roleAssignments":[{"role":"r","identities":["i"]}]}}"#;
const NEW: &str = r#"{"defaultAccess":"deny","mode":"enforce","id":"new"}"#;

/// One thing that an owner does.
type Action = fn(&mut Disk);

/// What may be read while `actions` happen one after the other, at once and after a power cut.
fn readings(actions: &[Action]) -> BTreeSet<Option<Vec<u8>>> {
    let mut disk = Disk::default();
    disk.make_folder();
    disk.sync_root();
    disk.create("IMDS_Rules.json").unwrap();
    disk.write("IMDS_Rules.json", OLD.as_bytes()).unwrap();
    disk.sync_file("IMDS_Rules.json").unwrap();
    disk.sync_folder();
    let mut seen = BTreeSet::new();
    let nothing: Action = |_| {};
    for action in [nothing].iter().chain(actions) {
        action(&mut disk);
        seen.insert(disk.read("IMDS_Rules.json"));
        seen.extend(disk.cuts().iter().map(|after| after.read("IMDS_Rules.json")));
    }
    seen
}

/// What the readings are worth: `None` for what is no document.
fn documents(actions: &[Action]) -> BTreeSet<Option<String>> {
    let parse = |bytes: Option<Vec<u8>>| LocalRules::parse(&bytes?).ok()?.id().map(str::to_owned);
    readings(actions).into_iter().map(parse).collect()
}

fn set(ids: &[Option<&str>]) -> BTreeSet<Option<String>> {
    ids.iter().map(|id| id.map(str::to_owned)).collect()
}

/// FS-25, SEC-L18.
#[test]
fn a_rule_file_is_the_old_one_or_the_new_one_fs25() {
    let create: Action = |disk| disk.create("IMDS_Rules.json.tmp").unwrap();
    let half: Action = |disk| disk.write("IMDS_Rules.json.tmp", &NEW.as_bytes()[..20]).unwrap();
    let write: Action = |disk| disk.write("IMDS_Rules.json.tmp", NEW.as_bytes()).unwrap();
    let sync: Action = |disk| disk.sync_file("IMDS_Rules.json.tmp").unwrap();
    let rename: Action = |disk| disk.rename("IMDS_Rules.json.tmp", "IMDS_Rules.json").unwrap();
    let (old, new) = (Some("old"), Some("new"));
    assert_eq!(documents(&[create, half, write, sync, rename, Disk::sync_folder]), set(&[old, new]));
    assert_eq!(
        documents(&[create, write, rename]),
        set(&[old, new, None]),
        "without care it may be lost, and never half believed"
    );
    let over: [Action; 4] = [
        |disk| disk.write("IMDS_Rules.json", b"").unwrap(),
        |disk| disk.write("IMDS_Rules.json", &NEW.as_bytes()[..20]).unwrap(),
        |disk| disk.write("IMDS_Rules.json", &NEW.as_bytes()[..NEW.len() - 1]).unwrap(),
        |disk| disk.write("IMDS_Rules.json", NEW.as_bytes()).unwrap(),
    ];
    assert_eq!(documents(&over), set(&[old, new, None]), "half-written reads too");
}

/// However a document is cut off, it is none: there is nothing to be believed by half.
#[test]
fn no_part_of_a_rule_file_is_a_rule_file_sec_l10() {
    for text in [OLD, NEW] {
        for end in 0..text.len() {
            let part = &text.as_bytes()[..end];
            assert!(LocalRules::parse(part).is_err(), "{end}");
            let padded = [part, &vec![0; text.len() - end]].concat();
            assert!(LocalRules::parse(&padded).is_err(), "{end}, zeros");
        }
    }
}
