//! bpf(2) by hand: the operations that aya lacks or that must not allocate. Thin; every `unsafe` of this crate is here.

use crate::layout::Plain;
use aya_obj::generated::bpf_insn;
use core::marker::PhantomData;
use core::mem::{size_of, zeroed};
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_MAP_LOOKUP_ELEM: libc::c_long = 1;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_BTF_LOAD: libc::c_long = 18;
const BPF_MAP_LOOKUP_AND_DELETE_ELEM: libc::c_long = 21;
const BPF_MAP_FREEZE: libc::c_long = 22;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_LINK_UPDATE: libc::c_long = 29;
const BPF_LINK_DETACH: libc::c_long = 34;

/// A map of which type, key and value were compared with the kernel's idea of them.
#[derive(Debug)]
pub(crate) struct Map<K, V> {
    fd: OwnedFd,
    name: &'static str,
    of: PhantomData<fn(K) -> V>,
}

/// `struct { map_fd; key; value; flags }` of `union bpf_attr`.
#[repr(C)]
struct MapElem {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

impl<K: Plain, V: Plain> Map<K, V> {
    /// Takes a map into use; `None` if its key or value has another size than `K` and `V`: the kernel would write past them.
    pub(crate) fn new(fd: OwnedFd, name: &'static str) -> io::Result<Option<Self>> {
        let fits = kind(fd.as_fd())? == Kind::Map && {
            let Shape { kind, key_size, value_size, .. } = map_shape(fd.as_fd())?;
            // Per-CPU maps copy one value per processor. None of ours is one.
            let single = matches!(kind, BPF_MAP_TYPE_ARRAY | BPF_MAP_TYPE_SK_STORAGE);
            single && key_size as usize == size_of::<K>() && value_size as usize == size_of::<V>()
        };
        Ok(fits.then_some(Self { fd, name, of: PhantomData }))
    }

    /// To be pinned, and for programs to refer to.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// As in the object.
    pub(crate) const fn name(&self) -> &'static str {
        self.name
    }

    /// Copies the value of `key`; `None` if there is none.
    pub(crate) fn get(&self, key: K) -> io::Result<Option<V>> {
        let mut value = V::ZERO;
        match self.elem(BPF_MAP_LOOKUP_ELEM, &key, (&raw mut value) as u64) {
            Ok(()) => Ok(Some(value)),
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Sets the value of `key`, whether there was one or not.
    pub(crate) fn set(&self, key: K, value: V) -> io::Result<()> {
        self.elem(BPF_MAP_UPDATE_ELEM, &key, (&raw const value) as u64)
    }

    fn elem(&self, command: libc::c_long, key: &K, value: u64) -> io::Result<()> {
        let mut attr = MapElem { map_fd: raw(self.fd.as_fd()), pad: 0, key: core::ptr::from_ref(key) as u64, value, flags: 0 };
        // SAFETY: `key` and `value` point to a `K` and a `V` that live across the call, and `new` compared their sizes with
        // what the kernel copies. Any bytes that it writes are a valid `V` (`Plain`).
        unsafe { bpf(command, &mut attr) }.map(drop)
    }
}

/// A socket storage map: values that hang on sockets of this process.
#[derive(Debug)]
pub(crate) struct SocketStorage<V>(Map<i32, V>);

impl<V: Plain> SocketStorage<V> {
    /// As [`Map::new`].
    pub(crate) fn new(fd: OwnedFd, name: &'static str) -> io::Result<Option<Self>> {
        Ok(Map::new(fd, name)?.map(Self))
    }

    /// As in the object.
    pub(crate) const fn name(&self) -> &'static str {
        self.0.name()
    }

    /// As [`Map::fd`].
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.0.fd()
    }

    /// The value on `socket`.
    pub(crate) fn get(&self, socket: BorrowedFd<'_>) -> io::Result<Option<V>> {
        self.0.get(socket.as_raw_fd())
    }

    /// Puts a value on `socket`; it dies with it.
    pub(crate) fn set(&self, socket: BorrowedFd<'_>, value: V) -> io::Result<()> {
        self.0.set(socket.as_raw_fd(), value)
    }
}

/// A queue of values that programs fill.
#[derive(Debug)]
pub(crate) struct Queue<V> {
    fd: OwnedFd,
    name: &'static str,
    of: PhantomData<fn() -> V>,
}

impl<V: Plain> Queue<V> {
    /// As [`Map::new`].
    pub(crate) fn new(fd: OwnedFd, name: &'static str) -> io::Result<Option<Self>> {
        let fits = kind(fd.as_fd())? == Kind::Map && {
            let Shape { kind, key_size, value_size, .. } = map_shape(fd.as_fd())?;
            kind == BPF_MAP_TYPE_QUEUE && key_size == 0 && value_size as usize == size_of::<V>()
        };
        Ok(fits.then_some(Self { fd, name, of: PhantomData }))
    }

    /// As in the object.
    pub(crate) const fn name(&self) -> &'static str {
        self.name
    }

    /// As [`Map::fd`].
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Takes out the oldest.
    pub(crate) fn pop(&self) -> io::Result<Option<V>> {
        let mut value = V::ZERO;
        let mut attr = MapElem { map_fd: raw(self.fd()), pad: 0, key: 0, value: (&raw mut value) as u64, flags: 0 };
        // SAFETY: `value` lives across the call, `new` compared its size, and whatever is written is a valid `V` (`Plain`).
        match unsafe { bpf(BPF_MAP_LOOKUP_AND_DELETE_ELEM, &mut attr) } {
            Ok(_) => Ok(Some(value)),
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(e) => Err(e),
        }
    }
}

pub(crate) const BPF_MAP_TYPE_ARRAY: u32 = 2;
const BPF_MAP_TYPE_QUEUE: u32 = 22;
pub(crate) const BPF_MAP_TYPE_SK_STORAGE: u32 = 24;

/// What a map is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    /// `enum bpf_map_type`.
    pub(crate) kind: u32,
    pub(crate) key_size: u32,
    pub(crate) value_size: u32,
    pub(crate) entries: u32,
    pub(crate) flags: u32,
}

/// Type information that the kernel wants with some maps: the loaded types, and the ids of key and value in them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MapTypes<'a> {
    pub(crate) btf: BorrowedFd<'a>,
    pub(crate) key: u32,
    pub(crate) value: u32,
}

/// Makes a map.
pub(crate) fn map_create(name: &str, shape: Shape, types: Option<MapTypes<'_>>) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attr {
        kind: u32,
        key_size: u32,
        value_size: u32,
        entries: u32,
        flags: u32,
        inner: u32,
        node: u32,
        name: [u8; NAME],
        ifindex: u32,
        btf: u32,
        key: u32,
        value: u32,
    }
    let Shape { kind, key_size, value_size, entries, flags } = shape;
    let (btf, key, value) = types.map_or((0, 0, 0), |t| (raw(t.btf), t.key, t.value));
    let name = object_name(name);
    let mut attr = Attr { kind, key_size, value_size, entries, flags, inner: 0, node: 0, name, ifindex: 0, btf, key, value };
    // SAFETY: the structure holds no pointer.
    let fd = unsafe { bpf(BPF_MAP_CREATE, &mut attr)? };
    // SAFETY: the call made this descriptor, and nobody else knows it. bpf(2) sets close-on-exec.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Makes an array of one entry that nobody can write any more: its bytes are constants for the verifier.
pub(crate) fn constants(name: &str, bytes: &[u8], flags: u32) -> io::Result<OwnedFd> {
    let value_size = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    let fd = map_create(name, Shape { kind: BPF_MAP_TYPE_ARRAY, key_size: 4, value_size, entries: 1, flags }, None)?;
    let (map_fd, key) = (raw(fd.as_fd()), 0u32);
    let mut attr = MapElem { map_fd, pad: 0, key: (&raw const key) as u64, value: bytes.as_ptr() as u64, flags: 0 };
    // SAFETY: `key` is of the size that the map was made with, and so are the bytes; both live across the call.
    unsafe { bpf(BPF_MAP_UPDATE_ELEM, &mut attr)? };
    let mut frozen = map_fd;
    // SAFETY: the attribute is one integer.
    unsafe { bpf(BPF_MAP_FREEZE, &mut frozen)? };
    Ok(fd)
}

/// Loads the type information of the object.
pub(crate) fn btf_load(types: &[u8]) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attr {
        types: u64,
        log: u64,
        size: u32,
        log_size: u32,
        log_level: u32,
    }
    let size = u32::try_from(types.len()).map_err(io::Error::other)?;
    let mut attr = Attr { types: types.as_ptr() as u64, log: 0, size, log_size: 0, log_level: 0 };
    // SAFETY: `types` is `size` bytes long and lives across the call.
    let fd = unsafe { bpf(BPF_BTF_LOAD, &mut attr)? };
    // SAFETY: the call made this descriptor, and nobody else knows it. bpf(2) sets close-on-exec.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A program for the verifier.
#[derive(Clone, Copy)]
pub(crate) struct Code<'a> {
    /// As bpftool shows it.
    pub(crate) name: &'a str,
    /// `enum bpf_prog_type`.
    pub(crate) kind: u32,
    pub(crate) attach_type: u32,
    pub(crate) instructions: &'a [bpf_insn],
    pub(crate) licence: &'a CStr,
}

/// Loads a program. `log` takes what the verifier has to say; without it, nothing is said and loading is faster.
pub(crate) fn program_load(code: Code<'_>, log: Option<&mut [u8]>) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attr {
        kind: u32,
        count: u32,
        instructions: u64,
        licence: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
        version: u32,
        flags: u32,
        name: [u8; NAME],
        ifindex: u32,
        attach_type: u32,
    }
    let (log_level, log_size, log) = match log {
        Some(log) => (1, u32::try_from(log.len()).map_err(io::Error::other)?, log.as_mut_ptr() as u64),
        None => (0, 0, 0),
    };
    let mut attr = Attr {
        kind: code.kind,
        count: u32::try_from(code.instructions.len()).map_err(io::Error::other)?,
        instructions: code.instructions.as_ptr() as u64,
        licence: code.licence.as_ptr() as u64,
        log_level,
        log_size,
        log,
        version: 0,
        flags: 0,
        name: object_name(code.name),
        ifindex: 0,
        attach_type: code.attach_type,
    };
    // SAFETY: instructions, licence and log live across the call, and the log is `log_size` bytes long.
    let fd = unsafe { bpf(BPF_PROG_LOAD, &mut attr)? };
    // SAFETY: the call made this descriptor, and nobody else knows it. bpf(2) sets close-on-exec.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

const NAME: usize = 16;

/// `BPF_OBJ_NAME_LEN`, with a zero at the end.
fn object_name(name: &str) -> [u8; NAME] {
    let mut bytes = [0; NAME];
    for (to, from) in bytes.iter_mut().take(NAME - 1).zip(name.bytes()) {
        *to = if from.is_ascii_alphanumeric() || from == b'.' { from } else { b'_' };
    }
    bytes
}

/// The beginning of `struct bpf_map_info`.
#[repr(C)]
#[derive(Clone, Copy)]
struct MapInfo {
    kind: u32,
    id: u32,
    key_size: u32,
    value_size: u32,
    entries: u32,
    flags: u32,
}

/// The beginning of `struct bpf_prog_info`.
#[repr(C)]
#[derive(Clone, Copy)]
struct ProgramInfo {
    kind: u32,
    id: u32,
}

/// The beginning of `struct bpf_link_info` of a cgroup link.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct LinkInfo {
    /// 3 is a cgroup link.
    pub(crate) kind: u32,
    /// The kernel's number of it.
    pub(crate) id: u32,
    /// Id of the program behind the link now.
    pub(crate) program: u32,
    pad: u32,
    /// cgroup2 id of where it is attached; 0 once it was detached or its cgroup is gone.
    pub(crate) cgroup: u64,
    pub(crate) attach_type: u32,
    pad2: u32,
}

/// All of it is integers that the kernel fills in.
trait Info: Copy {}
impl Info for MapInfo {}
impl Info for ProgramInfo {}
impl Info for LinkInfo {}

fn info<T: Info>(fd: BorrowedFd<'_>) -> io::Result<T> {
    #[repr(C)]
    struct Attr {
        fd: u32,
        len: u32,
        info: u64,
    }
    // SAFETY: `T` is one of the three structures above: integers, for which zeros are a value.
    let mut value: T = unsafe { zeroed() };
    let mut attr = Attr { fd: raw(fd), len: size_of::<T>() as u32, info: (&raw mut value) as u64 };
    // SAFETY: the kernel writes at most `len` bytes, which is the size of `value`.
    unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr)? };
    Ok(value)
}

/// What kind of map that is, and how large.
pub(crate) fn map_shape(map: BorrowedFd<'_>) -> io::Result<Shape> {
    let MapInfo { kind, key_size, value_size, entries, flags, .. } = info(map)?;
    Ok(Shape { kind, key_size, value_size, entries, flags })
}

/// The kernel's number of a map.
pub(crate) fn map_id(map: BorrowedFd<'_>) -> io::Result<u32> {
    info::<MapInfo>(map).map(|m| m.id)
}

/// What a link points to now.
pub(crate) fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    info(link)
}

/// Gives a map, program or link a name in a bpffs: it stays when the last descriptor is closed.
pub(crate) fn pin(fd: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let mut attr = ObjectPath { path: path.as_ptr() as u64, fd: raw(fd), flags: 0 };
    // SAFETY: the path is a string that lives across the call.
    unsafe { bpf(BPF_OBJ_PIN, &mut attr) }.map(drop)
}

/// Opens what is pinned there, whatever it is.
pub(crate) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let mut attr = ObjectPath { path: path.as_ptr() as u64, fd: 0, flags: 0 };
    // SAFETY: the path is a string that lives across the call.
    let fd = unsafe { bpf(BPF_OBJ_GET, &mut attr)? };
    // SAFETY: the call made this descriptor, and nobody else knows it. bpf(2) sets close-on-exec.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `struct { pathname; bpf_fd; file_flags }` of `union bpf_attr`.
#[repr(C)]
struct ObjectPath {
    path: u64,
    fd: u32,
    flags: u32,
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)
}

/// What a descriptor of bpf(2) can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Map,
    Link,
    Other,
}

/// Which of them it is. The structures of `BPF_OBJ_GET_INFO_BY_FD` do not say, and the wrong one would be misread.
pub(crate) fn kind(fd: BorrowedFd<'_>) -> io::Result<Kind> {
    let name = rustix::fs::readlink(format!("/proc/self/fd/{}", fd.as_raw_fd()), Vec::with_capacity(32))?;
    let is = |what: &[u8]| name.as_bytes().windows(what.len()).any(|w| w == what);
    Ok(if is(b"bpf-map") {
        Kind::Map
    } else if is(b"bpf_link") || is(b"bpf-link") {
        Kind::Link
    } else {
        Kind::Other
    })
}

/// The kernel's number of a program.
pub(crate) fn program_id(program: BorrowedFd<'_>) -> io::Result<u32> {
    info::<ProgramInfo>(program).map(|p| p.id)
}

/// Attaches a program to a cgroup. Others may be attached there too, before and after; the program goes when the last
/// descriptor of the link is closed.
pub(crate) fn link_create(program: BorrowedFd<'_>, cgroup: BorrowedFd<'_>, attach_type: u32) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attr {
        program: u32,
        target: u32,
        attach_type: u32,
        flags: u32,
    }
    let mut attr = Attr { program: raw(program), target: raw(cgroup), attach_type, flags: 0 };
    // SAFETY: the structure holds no pointer.
    let fd = unsafe { bpf(BPF_LINK_CREATE, &mut attr)? };
    // SAFETY: the call made this descriptor, and nobody else knows it. bpf(2) sets close-on-exec.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Puts another program behind a link, in one step for those who pass there.
pub(crate) fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = [raw(link), raw(program), 0, 0];
    // SAFETY: the attribute is four integers.
    unsafe { bpf(BPF_LINK_UPDATE, &mut attr) }.map(drop)
}

/// Detaches at once, even if another process holds the link too.
pub(crate) fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = raw(link);
    // SAFETY: the attribute is one integer.
    unsafe { bpf(BPF_LINK_DETACH, &mut attr) }.map(drop)
}

/// CLOCK_MONOTONIC, ns: what the kernel half compares heartbeats with.
pub(crate) fn monotonic_ns() -> u64 {
    // SAFETY: integers, for which zeros are a value.
    let mut now: libc::timespec = unsafe { zeroed() };
    // SAFETY: `now` lives across the call, which cannot fail for this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}

/// Cookie of the network namespace of a socket (`SO_NETNS_COOKIE`, Linux 5.14).
///
/// # Errors
/// An older kernel, or no socket.
pub fn netns_cookie(socket: BorrowedFd<'_>) -> io::Result<u64> {
    let mut cookie = 0u64;
    let mut len = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes, the size of `cookie`.
    let r = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, SO_NETNS_COOKIE, (&raw mut cookie).cast(), &raw mut len)
    };
    if r == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

const SO_NETNS_COOKIE: libc::c_int = 71;

/// # Safety
/// Pointers in `attr` must be good for what `command` does with them.
unsafe fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<RawFd> {
    // SAFETY: `attr` is a prefix of `union bpf_attr` of the size given: the kernel takes the rest as zeros. Pointers in it: see
    // the caller.
    let r = unsafe { libc::syscall(libc::SYS_bpf, command, core::ptr::from_mut(attr), size_of::<T>()) };
    if r < 0 { Err(io::Error::last_os_error()) } else { Ok(r as RawFd) }
}

fn raw(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

/// Opens a cgroup by its number (open_by_handle_at(2)): its directory, with `O_PATH`. `mount` is any directory of the hierarchy.
pub(crate) fn open_cgroup(mount: BorrowedFd<'_>, id: u64) -> io::Result<OwnedFd> {
    /// `struct file_handle` of linux/fs.h with the content that kernfs takes.
    #[repr(C)]
    struct Handle {
        bytes: u32,
        kind: i32,
        id: [u8; 8],
    }
    /// `FILEID_KERNFS` of linux/exportfs.h.
    const KERNFS: i32 = 0xfe;
    let mut handle = Handle { bytes: 8, kind: KERNFS, id: id.to_ne_bytes() };
    let flags = libc::O_PATH | libc::O_CLOEXEC | libc::O_DIRECTORY;
    // SAFETY: `handle` begins as a `struct file_handle` does, and as many bytes follow as it says; it outlives the call, which only
    // reads it.
    let fd = unsafe { libc::syscall(libc::SYS_open_by_handle_at, mount.as_raw_fd(), &raw mut handle, flags) };
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so `fd` is a descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
