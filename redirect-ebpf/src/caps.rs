//! Which of the capabilities that bpf(2) wants this thread has: only to name the missing one.

use std::fs;

/// A capability that loading or attaching needs. `CAP_SYS_ADMIN` alone stands for `CAP_BPF` and `CAP_PERFMON`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Capability {
    /// Maps and programs.
    Bpf,
    /// Programs of the network, and attaching to a cgroup.
    NetAdmin,
    /// Reading kernel memory (who is the caller).
    Perfmon,
}

const SYS_ADMIN: u64 = 1 << 21;

impl Capability {
    const ALL: [Self; 3] = [Self::Bpf, Self::NetAdmin, Self::Perfmon];

    /// As in capabilities(7).
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bpf => "CAP_BPF",
            Self::NetAdmin => "CAP_NET_ADMIN",
            Self::Perfmon => "CAP_PERFMON",
        }
    }

    /// The bits of which one is enough.
    const fn accepted(self) -> u64 {
        match self {
            Self::Bpf => 1 << 39 | SYS_ADMIN,
            Self::NetAdmin => 1 << 12,
            Self::Perfmon => 1 << 38 | SYS_ADMIN,
        }
    }

    /// Those that the calling thread lacks now; none if that cannot be found out.
    pub(crate) fn missing() -> Vec<Self> {
        let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
        effective(&status).map_or_else(Vec::new, |have| Self::ALL.into_iter().filter(|c| have & c.accepted() == 0).collect())
    }
}

fn effective(status: &str) -> Option<u64> {
    let hex = status.lines().find_map(|l| l.strip_prefix("CapEff:"))?;
    u64::from_str_radix(hex.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sys_admin_stands_for_bpf_and_perfmon_but_not_for_net_admin() {
        let have = effective("Name:\tx\nCapEff:\t0000000000200000\n").unwrap();
        let missing: Vec<_> = Capability::ALL.into_iter().filter(|c| have & c.accepted() == 0).collect();
        assert_eq!(missing, [Capability::NetAdmin]);
    }

    #[test]
    fn a_status_without_the_line_says_nothing() {
        assert_eq!(effective("Name:\tx\n"), None);
        assert_eq!(effective("CapEff:\tzz\n"), None);
    }
}
