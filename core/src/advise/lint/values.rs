//! The words of a document: default access, mode, id, and whether the lists are all there.

use super::tree::At;
use super::{Code, Draft, Linter, Severity, hint};
use crate::authz::{Mode, RuleLists};
use crate::suggest::closest;

impl Linter<'_> {
    pub(super) fn values(&mut self, draft: &Draft) {
        let at = |name: &str| At::default().member(name);
        if let Some(word) = &draft.default_access {
            self.default_access(word, &at("defaultAccess"));
        }
        if self.is_local() {
            if draft.id.as_ref().is_some_and(|id| id.trim().is_empty()) {
                self.error(Code::Blank, &at("id"), "the id is blank".into(), hint("give it one, or leave it out"));
            }
            if self.root.member("mode").is_some() {
                let what = "the mode of a local rule file is ignored: the host's document has it".into();
                self.warn(Code::IgnoredMember, &At::default().name("mode"), what, hint("remove it"));
            }
        } else if let Some(word) = &draft.mode {
            self.mode(word, &at("mode"));
        }
        if let Some(lists) = &draft.rules {
            self.lists(lists);
        }
    }

    fn default_access(&mut self, word: &str, at: &At) {
        let known = ["allow", "deny"];
        // A local file may have blanks around it, a remote document may not.
        let read = if self.is_local() { word.trim() } else { word };
        if known.iter().any(|known| read.eq_ignore_ascii_case(known)) {
            return;
        }
        let instead = closest(read.trim(), known).unwrap_or("deny");
        let counts = if self.is_local() { "and the file is not taken" } else { "and counts as deny" };
        let what = format!("{word:?} is neither \"allow\" nor \"deny\", {counts}");
        self.strict(Severity::Warning, Code::BadDefaultAccess, at, what, format!("did you mean {instead:?}?"));
    }

    fn mode(&mut self, word: &str, at: &At) {
        match Mode::parse(word) {
            None => {
                let what = format!("the mode {word:?} is not known and counts as \"disabled\": nothing is denied");
                let hint = match closest(word.trim(), ["disabled", "audit", "enforce"]) {
                    Some(meant) => format!("did you mean {meant:?}?"),
                    None => "write \"disabled\", \"audit\" or \"enforce\"".into(),
                };
                self.error(Code::UnknownMode, at, what, hint);
            }
            Some(Mode::Disabled) => {
                let what = "the mode is \"disabled\": nothing is denied, whatever the rules say".into();
                self.note(Code::ModeDisabled, at, what, hint("\"audit\" records what \"enforce\" would deny"));
            }
            Some(Mode::Audit | Mode::Enforce) => {}
        }
    }

    ///
    fn lists(&mut self, lists: &RuleLists) {
        let RuleLists { privileges, roles, identities, role_assignments, .. } = lists;
        let counts = [
            ("privileges", privileges.as_ref().map(Vec::len)),
            ("roles", roles.as_ref().map(Vec::len)),
            ("identities", identities.as_ref().map(Vec::len)),
            ("roleAssignments", role_assignments.as_ref().map(Vec::len)),
        ];
        let missing: Vec<&str> = counts.iter().filter(|(_, count)| count.is_none()).map(|(name, _)| *name).collect();
        // Without anything in them it makes no difference.
        if missing.is_empty() || counts.iter().all(|(_, count)| count.is_none_or(|count| count == 0)) {
            return;
        }
        let (at, names) = (At::default().member("rules"), missing.join(", "));
        if self.is_local() {
            let what = format!("without {names} the lists have an effect only if the host's document has those");
            self.note(Code::IncompleteLists, &at, what, hint("add them, empty if need be: []"));
        } else {
            let what = format!("without {names} there are no rules: only defaultAccess counts");
            self.error(Code::IncompleteLists, &at, what, hint("all four lists must be there; add them, empty if need be: []"));
        }
    }
}
