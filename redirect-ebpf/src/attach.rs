//! Which program goes where and in which order, and the links that hold them there: as long as this process lives, or pinned.

use crate::caps::Capability;
use crate::cgroup::Cgroup;
use crate::error::RedirectError;
use crate::layout::{Build, PROGRAMS};
use crate::store::Store;
use crate::sys::{self, LinkInfo};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

/// A program of the object and its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hook {
    /// Function name in the object.
    pub(crate) program: &'static str,
    /// `enum bpf_prog_type`.
    pub(crate) kind: u32,
    /// `enum bpf_attach_type`.
    pub(crate) attach_type: u32,
}

const CGROUP_SKB: u32 = 8;
const CGROUP_SOCK: u32 = 9;
const SOCK_OPS: u32 = 13;
const CGROUP_SOCK_ADDR: u32 = 18;

/// The packet backstop: loaded and attached only when asked for, because every packet of the machine pays for it.
pub(crate) const EGRESS: Hook = Hook { program: "egress", kind: CGROUP_SKB, attach_type: 1 };

/// In the order of attaching: first what makes a redirected connection safe (the guard) and attributed (the hand-over), last
/// what redirects. Detached in reverse. A take-over goes through them in this order too.
pub(crate) const HOOKS: [Hook; 9] = [
    Hook { program: "bind4", kind: CGROUP_SOCK_ADDR, attach_type: 8 },
    Hook { program: "bind6", kind: CGROUP_SOCK_ADDR, attach_type: 9 },
    Hook { program: "post_bind4", kind: CGROUP_SOCK, attach_type: 12 },
    Hook { program: "post_bind6", kind: CGROUP_SOCK, attach_type: 13 },
    Hook { program: "sock_ops", kind: SOCK_OPS, attach_type: 3 },
    Hook { program: "getpeername4", kind: CGROUP_SOCK_ADDR, attach_type: 29 },
    Hook { program: "getpeername6", kind: CGROUP_SOCK_ADDR, attach_type: 30 },
    Hook { program: "connect4", kind: CGROUP_SOCK_ADDR, attach_type: 10 },
    Hook { program: "connect6", kind: CGROUP_SOCK_ADDR, attach_type: 11 },
];

impl Hook {
    /// Place in [`Build::programs`].
    fn number(self) -> usize {
        HOOKS.iter().position(|hook| *hook == self).unwrap_or(PROGRAMS - 1)
    }
}

/// A loaded program.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) hook: Hook,
    pub(crate) fd: OwnedFd,
    /// The kernel's number of it.
    pub(crate) id: u32,
}

/// A program at its place.
#[derive(Debug)]
struct Link {
    hook: Hook,
    fd: OwnedFd,
    /// The kernel's number of the link.
    id: u32,
    /// Id of the program that belongs there.
    program: u32,
    /// The program itself; none if the link was found in order and nothing had to be loaded.
    loaded: Option<OwnedFd>,
    /// Whether it outlives this value. If not, its pin goes too.
    stays: bool,
    pin: Option<PathBuf>,
}

impl Link {
    /// Attaches a program: behind the link that an earlier agent pinned for it, or with a new one, which is pinned then and goes
    /// again with the value until it is told to stay.
    fn place(program: Program, cgroup: &Cgroup, store: Option<&Store>) -> Result<Self, RedirectError> {
        let hook = program.hook;
        if let Some(store) = store {
            store.about_to_change();
        }
        let (fd, id, stays) = match store.and_then(|store| store.find_link(hook, cgroup.id)) {
            Some((fd, info)) => {
                sys::link_update(fd.as_fd(), program.fd.as_fd())
                    .map_err(|source| RedirectError::Attach { program: hook.program, source })?;
                (fd, info.id, true)
            }
            None => {
                let fd = create(&program, cgroup)?;
                let info = sys::link_info(fd.as_fd());
                (fd, info.map_err(|source| RedirectError::Attach { program: hook.program, source })?.id, false)
            }
        };
        let mut this = Self { hook, fd, id, program: program.id, loaded: Some(program.fd), stays, pin: None };
        if let Some(store) = store {
            this.pin = Some(store.link_path(hook));
            store.pin_link(hook, this.fd.as_fd(), id)?;
        }
        Ok(this)
    }

    /// Attached to `cgroup`, and to our program.
    fn holds(&self, cgroup: &Cgroup) -> io::Result<bool> {
        sys::link_info(self.fd.as_fd()).map(|info| is_at(info, self.hook, cgroup.id) && info.program == self.program)
    }
}

fn create(program: &Program, cgroup: &Cgroup) -> Result<OwnedFd, RedirectError> {
    let name = program.hook.program;
    match sys::link_create(program.fd.as_fd(), cgroup.fd.as_fd(), program.hook.attach_type) {
        Ok(fd) => Ok(fd),
        Err(e) if e.raw_os_error() == Some(libc::EPERM) => Err(refused(name)),
        Err(source) => Err(RedirectError::Attach { program: name, source }),
    }
}

/// Whether a link is attached for `hook` to the cgroup with the number `cgroup`.
pub(crate) fn is_at(info: LinkInfo, hook: Hook, cgroup: u64) -> bool {
    const CGROUP_LINK: u32 = 3;
    info.kind == CGROUP_LINK && info.attach_type == hook.attach_type && info.cgroup == cgroup
}

impl Drop for Link {
    fn drop(&mut self) {
        if self.stays {
            return;
        }
        // Closing would do, unless it is pinned, or a child inherited the descriptor.
        if let Err(e) = sys::link_detach(self.fd.as_fd()) {
            log::debug!("eBPF: link was not attached any more: {e}");
        }
        if let Some(Err(e)) = self.pin.as_deref().map(crate::pins::unpin) {
            log::warn!("eBPF: {e}");
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

/// All programs attached to one cgroup. Without pins the only owner of the links: when it goes, they go, the redirect first.
#[derive(Debug)]
pub(crate) struct Links {
    cgroup: Cgroup,
    /// In the order of attaching.
    links: Vec<Link>,
}

impl Links {
    /// Attaches `programs` in their order. On an error, what this call attached is detached again; what was pinned before stays.
    pub(crate) fn attach(programs: Vec<Program>, cgroup: Cgroup, store: Option<&Store>) -> Result<Self, RedirectError> {
        let mut this = Self { cgroup, links: Vec::with_capacity(programs.len()) };
        for program in programs {
            let link = Link::place(program, &this.cgroup, store)?;
            this.links.push(link);
        }
        Ok(this)
    }

    /// From now on they outlive this value.
    pub(crate) fn stay(&mut self) {
        self.links.iter_mut().for_each(|link| link.stays = true);
    }

    /// What is pinned, if every link holds the program that `build` says, and nothing else.
    pub(crate) fn kept(hooks: &[Hook], build: &Build, cgroup: Cgroup, store: &Store) -> Result<Self, Cgroup> {
        let expected = |hook: &Hook| build.programs.get(hook.number()).copied().unwrap_or(0);
        let link = |hook: &Hook| {
            let (fd, info) = store.find_own_link(*hook, cgroup.id)?;
            (info.program == expected(hook)).then(|| Link {
                hook: *hook,
                fd,
                id: info.id,
                program: info.program,
                loaded: None,
                stays: true,
                pin: None,
            })
        };
        match hooks.iter().map(link).collect() {
            Some(links) => Ok(Self { cgroup, links }),
            None => Err(cgroup),
        }
    }

    /// Attaches again what was detached or replaced, and pins what was unpinned (S-13). `load` makes a program that this process has
    /// not loaded. Returns the names of what had to be repaired.
    pub(crate) fn repair(
        &mut self,
        store: Option<&Store>,
        load: impl Fn(Hook) -> Result<Program, RedirectError>,
    ) -> Result<Vec<&'static str>, RedirectError> {
        let mut repaired = Vec::new();
        for link in &mut self.links {
            let what = "reading the state of a link";
            if link.holds(&self.cgroup).map_err(|source| RedirectError::System { what, source })? {
                if let Some(store) = store
                    && store.pin_link(link.hook, link.fd.as_fd(), link.id)?
                {
                    repaired.push(link.hook.program);
                }
                continue;
            }
            let program = match &link.loaded {
                Some(fd) => Program {
                    hook: link.hook,
                    fd: fd.try_clone().map_err(|source| RedirectError::System { what: "copying a descriptor", source })?,
                    id: link.program,
                },
                None => load(link.hook)?,
            };
            *link = Link::place(program, &self.cgroup, store)?;
            link.stays = store.is_some();
            repaired.push(link.hook.program);
        }
        Ok(repaired)
    }

    /// How many programs are attached.
    pub(crate) const fn count(&self) -> usize {
        self.links.len()
    }

    /// Whether the packet backstop is among them.
    pub(crate) fn has(&self, hook: Hook) -> bool {
        self.links.iter().any(|link| link.hook == hook)
    }

    /// The kernel's numbers of the links.
    pub(crate) fn ids(&self) -> Vec<u32> {
        self.links.iter().map(|link| link.id).collect()
    }

    /// For [`Build::programs`].
    pub(crate) fn programs(&self) -> [u32; PROGRAMS] {
        let mut programs = [0; PROGRAMS];
        for link in &self.links {
            if let Some(place) = programs.get_mut(link.hook.number()) {
                *place = link.program;
            }
        }
        programs
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        while self.links.pop().is_some() {}
    }
}
