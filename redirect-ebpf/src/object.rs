//! The object file: maps and programs as clang left them, relocated against the running kernel, ready to be loaded.
//!
//! `aya-obj` parses and relocates. The system calls are ours (`sys.rs`), so that maps can be ones that exist already, and nothing
//! is probed that every supported kernel has.

use crate::attach::{Hook, Program};
use crate::caps::Capability;
use crate::error::RedirectError;
use crate::kernel_types::{Wanted, excerpt};
use crate::sys::{self, Code, MapTypes, Shape};
use aya_obj::btf::{Btf, BtfFeatures};
use aya_obj::{EbpfSectionKind, Map, Object};
use std::collections::{HashMap, HashSet};
use std::error::Error;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

const KERNEL_TYPES: &str = "/sys/kernel/btf/vmlinux";

/// Parsed, relocated, and with its types known to the kernel.
pub(crate) struct ObjectFile {
    object: Object,
    types: Option<OwnedFd>,
}

impl ObjectFile {
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, RedirectError> {
        let mut object = Object::parse(bytes).map_err(|e| unusable(&e))?;
        let kernel = File::open(KERNEL_TYPES).map_err(RedirectError::NoBtf)?;
        let own = object.btf.as_ref().map(Btf::to_bytes).unwrap_or_default();
        let kernel = Wanted::by(&own).and_then(|wanted| excerpt(kernel, &wanted)).map_err(RedirectError::NoBtf)?;
        let kernel = Btf::parse(&kernel, object.endianness).map_err(|e| unusable(&e))?;
        // What clang makes of our C has nothing in it that Linux 5.10 does not know.
        let features = BtfFeatures::new(true, true, true, false, false, false, false, false);
        let types = object.fixup_and_sanitize_btf(&features).map_err(|e| unusable(&e))?.map(Btf::to_bytes);
        let types = types.map(|t| sys::btf_load(&t)).transpose().map_err(|e| refused("types", e, String::new()))?;
        object.relocate_btf(&kernel).map_err(|e| unusable(&e))?;
        Ok(Self { object, types })
    }

    fn definition(&self, name: &'static str) -> Result<&Map, RedirectError> {
        self.object.maps.get(name).ok_or_else(|| RedirectError::Object(format!("map {name} is missing")))
    }

    /// Whether `map` is what the object's programs expect under that name.
    pub(crate) fn fits(&self, name: &'static str, map: BorrowedFd<'_>) -> Result<bool, RedirectError> {
        let found = sys::map_shape(map).map_err(|source| RedirectError::Map { map: name, source })?;
        Ok(found == shape(self.definition(name)?))
    }

    /// Makes the map that the object declares under that name.
    pub(crate) fn create_map(&self, name: &'static str) -> Result<OwnedFd, RedirectError> {
        let map = self.definition(name)?;
        // The kernel wants none with a queue.
        let types = match (map, &self.types) {
            (Map::Btf(m), Some(btf)) if map.key_size() != 0 => {
                Some(MapTypes { btf: btf.as_fd(), key: m.def.btf_key_type_id, value: m.def.btf_value_type_id })
            }
            _ => None,
        };
        sys::map_create(name, shape(map), types).map_err(|e| refused("maps", e, String::new()))
    }

    /// The programs for `maps`, with the `.rodata` switches set.
    pub(crate) fn bind(&self, switches: &[(&str, u32)], maps: &[(&'static str, BorrowedFd<'_>)]) -> Result<Bound, RedirectError> {
        let mut object = self.object.clone();
        let values: Vec<_> = switches.iter().map(|(name, value)| (*name, value.to_ne_bytes())).collect();
        let globals: HashMap<_, _> = values.iter().map(|(name, value)| (*name, (&value[..], true))).collect();
        object.patch_map_data(globals).map_err(|e| unusable(&e))?;

        let definitions = std::mem::take(&mut object.maps);
        let mut constants = Vec::new();
        let mut fds = Vec::new();
        for (name, map) in &definitions {
            let fd = if map.section_kind() == EbpfSectionKind::Rodata {
                let fd = sys::constants(name, map.data(), map.map_flags()).map_err(|e| refused("maps", e, String::new()))?;
                let raw = fd.as_raw_fd();
                constants.push(fd);
                raw
            } else {
                let ours = maps.iter().find(|(n, _)| n == name);
                ours.ok_or_else(|| RedirectError::Object(format!("map {name} is unknown")))?.1.as_raw_fd()
            };
            fds.push((name.as_str(), fd, map));
        }
        let sections: HashSet<usize> = object.functions.keys().map(|(section, _)| *section).collect();
        object.relocate_maps(fds.into_iter(), &sections).map_err(|e| unusable(&e))?;
        object.relocate_calls(&sections).map_err(|e| unusable(&e))?;
        Ok(Bound { object, _constants: constants })
    }
}

fn shape(map: &Map) -> Shape {
    Shape {
        kind: map.map_type(),
        key_size: map.key_size(),
        value_size: map.value_size(),
        entries: map.max_entries(),
        flags: map.map_flags(),
    }
}

/// Programs that refer to maps of this process by descriptor.
pub(crate) struct Bound {
    object: Object,
    /// Referred to by the programs; the kernel holds them once these are loaded.
    _constants: Vec<OwnedFd>,
}

impl Bound {
    /// Has the verifier look at the program of `hook`, and keeps it.
    pub(crate) fn load(&self, hook: Hook) -> Result<Program, RedirectError> {
        let name = hook.program;
        let missing = || RedirectError::Object(format!("program {name} is missing"));
        let program = self.object.programs.get(name).ok_or_else(missing)?;
        let function = self.object.functions.get(&program.function_key()).ok_or_else(missing)?;
        let code = Code {
            name,
            kind: hook.kind,
            attach_type: hook.attach_type,
            instructions: &function.instructions,
            licence: &program.license,
        };
        let fd = sys::program_load(code, None).map_err(|error| {
            // Only now with a log: writing it costs more than verifying.
            let mut log = vec![0; 1 << 20];
            let error = sys::program_load(code, Some(&mut log)).err().unwrap_or(error);
            let end = log.iter().position(|b| *b == 0).unwrap_or(log.len());
            refused(name, error, last_line(&String::from_utf8_lossy(log.get(..end).unwrap_or_default())))
        })?;
        let id =
            sys::program_id(fd.as_fd()).map_err(|source| RedirectError::System { what: "reading a program's id", source })?;
        Ok(Program { hook, fd, id })
    }
}

/// Who asks, or what was asked for? Without `CAP_PERFMON` the verifier says `EINVAL`, as if the kernel were too old: hence no look at
/// the error alone, and no stepping down before the capabilities are complete.
fn refused(what: &'static str, source: io::Error, verifier: String) -> RedirectError {
    let capabilities = Capability::missing();
    if source.raw_os_error() == Some(libc::EPERM) || !capabilities.is_empty() {
        RedirectError::Missing { what, capabilities }
    } else {
        RedirectError::Load { what, source, verifier }
    }
}

/// The verifier's verdict: its last line before the statistics.
fn last_line(log: &str) -> String {
    let statistics = ["processed ", "verification time", "stack depth"];
    let verdict = log.lines().rev().map(str::trim).find(|l| !l.is_empty() && !statistics.iter().any(|s| l.starts_with(s)));
    verdict.unwrap_or_default().to_owned()
}

/// An error with its causes: aya's texts alone say only that something failed.
fn unusable(error: &dyn Error) -> RedirectError {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(e) = cause {
        text.push_str(": ");
        text.push_str(&e.to_string());
        cause = e.source();
    }
    RedirectError::Object(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verdict_is_found_behind_the_statistics() {
        let log = "0: (85) call bpf_get_netns_cookie#122\nunknown func bpf_get_netns_cookie#122\nverification time 5 usec\n\
                   stack depth 16\nprocessed 3 insns (limit 1000000)\n";
        assert_eq!(last_line(log), "unknown func bpf_get_netns_cookie#122");
        assert_eq!(last_line(""), "");
    }

    #[test]
    fn a_file_that_is_no_object_is_said_so() {
        let error = ObjectFile::parse(b"not an object").err().unwrap();
        assert!(matches!(error, RedirectError::Object(_)), "{error}");
    }
}
