//! Identities: whom they match, and whom they cannot.

use super::tree::At;
use super::{Account, Code, Draft, Linter, Program, Severity, hint};
use crate::authz::Identity;
use crate::identity::{Destination, ExeHash};

/// Programs that run whatever they are told to: who may use one of them is everybody.
const GENERAL: [&str; 12] = ["python", "perl", "ruby", "node", "java", "bash", "dash", "sh", "zsh", "busybox", "curl", "wget"];

impl Linter<'_> {
    pub(super) fn identities(&mut self, draft: &Draft) {
        let Some(lists) = &draft.rules else { return };
        for (index, identity) in lists.identities.iter().flatten().enumerate() {
            self.identity(identity, &At::element("identities", index));
        }
    }

    fn identity(&mut self, identity: &Identity, at: &At) {
        let name = &identity.name;
        let texts = [
            ("userName", &identity.user_name),
            ("groupName", &identity.group_name),
            ("exePath", &identity.exe_path),
            ("processName", &identity.process_name),
            ("exeSha256", &identity.exe_sha256),
            ("cgroupPath", &identity.cgroup_path),
        ];
        let selectors: Vec<(&str, &str)> = texts.into_iter().filter_map(|(name, text)| Some((name, text.as_deref()?))).collect();
        if self.everyone(identity, &selectors, at) {
            return;
        }
        for (selector, text) in &selectors {
            let at = at.member(selector);
            let nobody = |why: &str| format!("the identity {name:?} matches nobody: {why}");
            if text.is_empty() {
                self.warn(Code::MatchesNobody, &at, nobody(&format!("no {selector} is empty")), hint("leave the member out"));
            } else if text.trim() != *text {
                let what = nobody(&format!("blanks around {text:?} count"));
                self.warn(Code::MatchesNobody, &at, what, format!("write {:?}", text.trim()));
            } else if !text.is_ascii() {
                let what = format!("{text:?} has letters that look like others, and only the same bytes match");
                self.note(Code::LooksAlike, &at, what, None);
            }
        }
        if let Some(path) = identity.exe_path.as_deref().filter(|path| !path.is_empty()) {
            self.exe_path(name, path, &at.member("exePath"));
        }
        if let Some(process) = identity.process_name.as_deref().filter(|process| !process.is_empty()) {
            self.process_name(name, process, identity.exe_path.as_deref(), &at.member("processName"));
        }
        self.forms(identity, at);
        self.weak(identity, at);
        self.elevated(identity, at);
        self.accounts(identity, at);
    }

    /// whether it has no selector at all.
    fn everyone(&mut self, identity: &Identity, selectors: &[(&str, &str)], at: &At) -> bool {
        let blank = selectors.iter().all(|(_, text)| text.trim().is_empty());
        let numbers = identity.uid.is_some() || identity.gid.is_some();
        let nothing = self.is_local() && blank && !numbers;
        if !identity.is_everyone() && !nothing {
            return false;
        }
        let what = format!("the identity {:?} has no selector", identity.name);
        if self.is_local() {
            let hint = hint("add userName, groupName, exePath or processName");
            self.error(Code::MatchesEveryone, at, format!("{what} that is not blank"), hint);
        } else if self.has_unknown(at) {
            let what = format!("{what} that is known, so it matches everyone");
            self.error(Code::MatchesEveryone, at, what, hint("mend the member that is unknown"));
        } else {
            self.warn(Code::MatchesEveryone, at, format!("{what}, so it matches everyone"), None);
        }
        true
    }

    fn has_unknown(&self, at: &At) -> bool {
        let at = at.to_string();
        self.lints.iter().any(|lint| lint.code == Code::UnknownMember && lint.place.starts_with(&format!("{at}.")))
    }

    fn exe_path(&mut self, name: &str, path: &str, at: &At) {
        let nobody = |why: &str| format!("the identity {name:?} matches nobody: {why}");
        if !path.starts_with('/') {
            let what = nobody("exePath is not an absolute path");
            return self.warn(Code::MatchesNobody, at, what, hint("write it as `readlink -f` prints it"));
        }
        if path.split('/').any(|component| component == "..") {
            let what = nobody("\"..\" in exePath is not resolved, and no program's path has it");
            return self.warn(Code::MatchesNobody, at, what, hint("write it as `readlink -f` prints it"));
        }
        let Some(program) = self.options.machine.and_then(|machine| machine.program(path)) else { return };
        let (what, hint) = match program {
            Program::Here => return,
            Program::Missing => (format!("there is no {path:?} on this machine"), None),
            Program::NotRunnable => (format!("{path:?} is no program"), None),
            Program::LinkTo(real) => {
                (format!("{path:?} is a link on this machine, and the real path counts"), Some(format!("write {real:?}")))
            }
        };
        self.warn(Code::UnknownProgram, at, what, hint);
    }

    fn process_name(&mut self, name: &str, process: &str, exe: Option<&str>, at: &At) {
        let nobody = |why: &str| format!("the identity {name:?} matches nobody: {why}");
        if process.contains('/') {
            let what = nobody("processName is the last component of a path, without slash");
            return self.warn(Code::MatchesNobody, at, what, hint("a whole path is exePath"));
        }
        let last = exe.and_then(|exe| exe.rsplit('/').find(|component| !matches!(*component, "" | ".")));
        if let Some(last) = last.filter(|last| *last != process) {
            let what = nobody(&format!("processName is {process:?}, but exePath ends with {last:?}"));
            self.warn(Code::MatchesNobody, at, what, hint("exePath alone is enough"));
        }
    }

    /// Selectors that must have a form.
    fn forms(&mut self, identity: &Identity, at: &At) {
        let nobody = |why: &str| format!("the identity {:?} matches nobody: {why}", identity.name);
        let written =
            |text: &Option<String>| text.as_deref().filter(|text| !text.is_empty() && text.trim() == *text).map(str::to_owned);
        if written(&identity.exe_sha256).is_some_and(|hash| ExeHash::from_hex(&hash).is_none()) {
            let what = nobody("exeSha256 is not 64 hexadecimal digits");
            self.warn(Code::MatchesNobody, &at.member("exeSha256"), what, hint("write what `sha256sum` prints"));
        }
        if written(&identity.cgroup_path).is_some_and(|path| !path.starts_with('/')) {
            let what = nobody("cgroupPath does not begin with a slash");
            self.warn(Code::MatchesNobody, &at.member("cgroupPath"), what, hint("write what /proc/PID/cgroup has after \"0::\""));
        }
    }

    /// Identities that anybody can take on.
    fn weak(&mut self, identity: &Identity, at: &At) {
        let name = &identity.name;
        let by_name = identity.user_name.is_some() || identity.group_name.is_some();
        let by_number = identity.uid.is_some() || identity.gid.is_some();
        if by_name || by_number || identity.exe_sha256.is_some() || identity.cgroup_path.is_some() {
            return;
        }
        match (&identity.exe_path, &identity.process_name) {
            (None, Some(process)) => {
                let what = format!("the identity {name:?} is anybody who calls a program {process:?}");
                self.warn(Code::WeakIdentity, &at.member("processName"), what, hint("add exePath, or userName"));
            }
            (Some(path), _) => {
                let program = path.rsplit('/').next().unwrap_or_default();
                let plain = program.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
                if GENERAL.contains(&plain) {
                    let what = format!("the identity {name:?} is anybody who runs {program:?}, whatever for");
                    self.note(Code::WeakIdentity, &at.member("exePath"), what, hint("add userName"));
                }
            }
            (None, None) => {}
        }
    }

    ///
    fn elevated(&mut self, identity: &Identity, at: &At) {
        if !matches!(self.options.destination, Some(Destination::WireServer | Destination::HostGaPlugin)) {
            return;
        }
        let member = match (identity.uid, identity.user_name.as_deref()) {
            (Some(0), _) | (None, None | Some("root")) => return,
            (Some(_), _) => "uid",
            (None, Some(user)) if self.options.machine.and_then(|machine| machine.user(user)) == Some(Account::Id(0)) => return,
            (None, Some(_)) => "userName",
        };
        let what = format!("only root reaches this endpoint: the identity {:?} lets nobody in", identity.name);
        self.warn(Code::NotElevated, &at.member(member), what, None);
    }

    fn accounts(&mut self, identity: &Identity, at: &At) {
        let Some(machine) = self.options.machine else { return };
        let missing = |answer: Option<Account>| answer == Some(Account::Missing);
        if let Some(user) = identity.user_name.as_deref().filter(|user| missing(machine.user(user))) {
            let what = format!("there is no user {user:?} on this machine");
            self.at(Severity::Warning, Code::UnknownAccount, &at.member("userName"), what, None);
        }
        if let (Some(user), Some(uid)) = (&identity.user_name, identity.uid)
            && let Some(Account::Id(other)) = machine.user(user).filter(|account| *account != Account::Id(uid))
        {
            let what =
                format!("the identity {:?} matches nobody: the user id of {user:?} is {other} on this machine", identity.name);
            self.warn(Code::MatchesNobody, &at.member("uid"), what, None);
        }
        if let Some(group) = identity.group_name.as_deref().filter(|group| missing(machine.group(group))) {
            let what = format!("there is no group {group:?} on this machine");
            self.at(Severity::Warning, Code::UnknownAccount, &at.member("groupName"), what, None);
        }
    }
}
