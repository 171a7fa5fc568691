//! Which program goes where and in which order, and the links that hold them there.

use crate::caps::Capability;
use crate::error::RedirectError;
use crate::sys;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A program of the object and its place (`enum bpf_attach_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hook {
    /// Function name in the object.
    pub(crate) program: &'static str,
    attach_type: u32,
}

/// The packet backstop: loaded and attached only when asked for, because every packet of the machine pays for it.
pub(crate) const EGRESS: Hook = Hook { program: "egress", attach_type: 1 };

/// In the order of attaching: first what makes a redirected connection safe (the guard) and attributed (the hand-over), last
/// what redirects. Detached in reverse.
pub(crate) const HOOKS: [Hook; 9] = [
    Hook { program: "bind4", attach_type: 8 },
    Hook { program: "bind6", attach_type: 9 },
    Hook { program: "post_bind4", attach_type: 12 },
    Hook { program: "post_bind6", attach_type: 13 },
    Hook { program: "sock_ops", attach_type: 3 },
    Hook { program: "getpeername4", attach_type: 29 },
    Hook { program: "getpeername6", attach_type: 30 },
    Hook { program: "connect4", attach_type: 10 },
    Hook { program: "connect6", attach_type: 11 },
];

/// A loaded program.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) hook: Hook,
    pub(crate) fd: OwnedFd,
    /// The kernel's number of it.
    pub(crate) id: u32,
}

#[derive(Debug)]
struct Link {
    fd: OwnedFd,
}

impl Link {
    fn create(program: &Program, cgroup: BorrowedFd<'_>) -> Result<Self, RedirectError> {
        let name = program.hook.program;
        match sys::link_create(program.fd.as_fd(), cgroup, program.hook.attach_type) {
            Ok(fd) => Ok(Self { fd }),
            Err(e) if e.raw_os_error() == Some(libc::EPERM) => Err(refused(name)),
            Err(source) => Err(RedirectError::Attach { program: name, source }),
        }
    }

    /// Attached, and to our program.
    fn holds(&self, program: &Program) -> io::Result<bool> {
        let info = sys::link_info(self.fd.as_fd())?;
        Ok(info.cgroup != 0 && info.program == program.id)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // Closing would do, unless a child inherited the descriptor.
        if let Err(e) = sys::link_detach(self.fd.as_fd()) {
            log::debug!("eBPF: link was not attached any more: {e}");
        }
    }
}

/// With all capabilities, `EPERM` from a cgroup means that somebody attached there without tolerating others.
fn refused(program: &'static str) -> RedirectError {
    let capabilities = Capability::missing();
    if capabilities.is_empty() {
        RedirectError::Exclusive { program }
    } else {
        RedirectError::Missing { what: program, capabilities }
    }
}

/// All programs attached to one cgroup. The only owner of the links: when it goes, they go, the redirect first. Links that are
/// pinned and outlive the agent would replace what is behind this type, and nothing else.
#[derive(Debug)]
pub(crate) struct Links {
    cgroup: OwnedFd,
    programs: Vec<Program>,
    /// One for each of `programs`, in the same order.
    links: Vec<Link>,
}

impl Links {
    /// Attaches `programs` in their order; on an error nothing stays attached.
    pub(crate) fn attach(programs: Vec<Program>, cgroup: OwnedFd) -> Result<Self, RedirectError> {
        let mut this = Self { cgroup, links: Vec::with_capacity(programs.len()), programs };
        for program in &this.programs {
            let link = Link::create(program, this.cgroup.as_fd())?;
            this.links.push(link);
        }
        Ok(this)
    }

    /// Attaches again what was detached or replaced (S-13). Returns the names of what had to be repaired.
    pub(crate) fn repair(&mut self) -> Result<Vec<&'static str>, RedirectError> {
        let mut repaired = Vec::new();
        for (program, link) in self.programs.iter().zip(&mut self.links) {
            let what = "reading the state of a link";
            if link.holds(program).map_err(|source| RedirectError::System { what, source })? {
                continue;
            }
            *link = Link::create(program, self.cgroup.as_fd())?;
            repaired.push(program.hook.program);
        }
        Ok(repaired)
    }

    /// How many programs are attached.
    pub(crate) const fn count(&self) -> usize {
        self.links.len()
    }

    /// Whether the packet backstop is among them.
    pub(crate) fn has(&self, hook: Hook) -> bool {
        self.programs.iter().any(|p| p.hook == hook)
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        while self.links.pop().is_some() {}
    }
}
