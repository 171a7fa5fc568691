//! Who callers are: what the kernel noted, confirmed against `/proc`, completed from the account database and by what rules ask for.

use super::accounts::Accounts;
use super::exe_hash::ExeHashes;
use crate::clock;
use crate::redirector::client::Client;
use azure_proxy_agent_core::identity::{Claims, ExeHash, Fact, KernelRecord, OnDemand};
use azure_proxy_agent_core::policy::Policy;
use redirect_ebpf::Hierarchy;
use redirect_ebpf::verify::{self, Examined};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, OnceLock};

/// Whom to ask, and what was answered. One per process.
#[derive(Debug)]
pub struct Callers {
    accounts: Accounts,
    exe_hashes: ExeHashes,
    /// Found when rules ask for it first.
    cgroups: OnceLock<Hierarchy>,
    /// Another process that may look at processes; `None`: we may.
    redirector: Option<Arc<Client>>,
}

impl Callers {
    /// With the system's account database.
    #[must_use]
    pub fn system() -> Self {
        Self { accounts: Accounts::system(), exe_hashes: ExeHashes::default(), cgroups: OnceLock::new(), redirector: None }
    }

    /// The same with another process that looks at the callers'.
    pub(crate) fn through(self, redirector: Option<Arc<Client>>) -> Self {
        Self { redirector, ..self }
    }

    /// What can be said of the process of a record; without a policy nothing that only rules ask for. May take as long as the account
    /// database is given (two seconds, I-31), and, if the policy's rules ask for a hash, as long as that takes.
    #[must_use]
    pub fn claims(&self, record: &KernelRecord, policy: Option<&Policy>) -> Claims {
        // The process first: it may be gone any moment, the account stays.
        let Examined { facts, exe } = match &self.redirector {
            None => verify::examine(record),
            Some(redirector) => redirector.examine(record),
        };
        let (account, as_of) = self.accounts.dated(record.uid, clock::mono());
        let claims = Claims::derive(record, facts, account);
        let needs = policy.map(Policy::needs).unwrap_or_default();
        let cgroup_path = match needs.cgroup_path {
            true => self.cgroup_path(record.task_cgroup).map_or(Fact::Unknown, |path| Fact::Known(path.into())),
            false => Fact::NotAsked,
        };
        let wanted_by = policy.map(|policy| policy.epoch).unwrap_or_default();
        let claims = claims.with(OnDemand { as_of, wanted_by, cgroup_path, exe_hash: Fact::NotAsked });
        let exe_hash = match policy.filter(|_| needs.exe_hash) {
            // Reading a large file is work that a caller could cause at will: not for one whom no hash would help.
            Some(policy) if claims.exe_path().is_some() && policy.would_compare_exe_hash(&claims) => {
                exe.and_then(|exe| self.exe_hash(exe.as_fd())).map_or(Fact::Unknown, Fact::Known)
            }
            Some(_) => Fact::Unknown,
            None => Fact::NotAsked,
        };
        let on_demand = OnDemand { exe_hash, ..claims.on_demand.clone() };
        claims.with(on_demand)
    }

    fn exe_hash(&self, exe: BorrowedFd<'_>) -> Option<ExeHash> {
        match &self.redirector {
            None => self.exe_hashes.get(exe),
            Some(redirector) => redirector.exe_hash(exe),
        }
    }

    fn cgroup_path(&self, id: u64) -> Option<Vec<u8>> {
        if let Some(redirector) = &self.redirector {
            return redirector.cgroup_path(id);
        }
        let hierarchy = match self.cgroups.get() {
            Some(hierarchy) => hierarchy,
            None => {
                let found = Hierarchy::find()?;
                self.cgroups.get_or_init(|| found)
            }
        };
        hierarchy.path(id)
    }
}
