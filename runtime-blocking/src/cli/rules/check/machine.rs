//! What this machine has of what rules name.

use crate::host::accounts;
use azure_proxy_agent_core::advise::lint::{Account, Machine, Program};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

pub(super) struct This;

impl Machine for This {
    fn user(&self, name: &str) -> Option<Account> {
        Some(accounts::named(name).ok()?.map_or(Account::Missing, |account| Account::Id(account.uid)))
    }

    fn group(&self, name: &str) -> Option<Account> {
        Some(accounts::group_named(name).ok()?.map_or(Account::Missing, Account::Id))
    }

    fn program(&self, path: &str) -> Option<Program> {
        let real = match fs::canonicalize(path) {
            Ok(real) => real,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Some(Program::Missing),
            Err(_) => return None,
        };
        let metadata = fs::metadata(&real).ok()?;
        // As selectors are compared: slashes that are too many do not matter.
        let same = Path::new(path).components().eq(real.components());
        Some(if !metadata.is_file() || metadata.permissions().mode() & 0o111 == 0 {
            Program::NotRunnable
        } else if same {
            Program::Here
        } else {
            Program::LinkTo(real.to_string_lossy().into_owned())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    ///
    #[test]
    fn accounts_and_programs_of_this_machine() {
        assert_eq!(This.user("root"), Some(Account::Id(0)));
        assert_eq!(This.group("root"), Some(Account::Id(0)));
        for name in ["no-such-name-here", "a\0b"] {
            assert_eq!((This.user(name), This.group(name)), (Some(Account::Missing), Some(Account::Missing)));
        }
        let own = fs::canonicalize(std::env::current_exe().expect("a program")).expect("a path");
        let own = own.to_str().expect("UTF-8");
        assert_eq!(This.program(own), Some(Program::Here));
        assert_eq!(This.program(&own.replace('/', "//")), Some(Program::Here));
        assert_eq!(This.program(&format!("/proc/self/root{own}")), Some(Program::LinkTo(own.to_owned())));
        assert_eq!(This.program("/etc/passwd"), Some(Program::NotRunnable));
        assert_eq!(This.program("/no/such/program"), Some(Program::Missing));
    }
}
