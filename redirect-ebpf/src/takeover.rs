//! From nothing, or from what an earlier agent left pinned, to programs that are in force (S-03).
//!
//! | found | done |
//! |---|---|
//! | links of the same build, all in order | nothing: maps and links are used as they are |
//! | the same layout, another build or a half-finished take-over | new programs for the pinned maps, put behind the pinned links one by one, the redirect last: nobody passes unseen, and the identities of connections that wait for the agent are still there |
//! | another layout | new maps too, with the targets and the heartbeat of the old ones. A connection whose handshake was under way has no identity then and is refused |
//! | links on another cgroup | new ones are attached first, then those are detached |
//! | nothing | all is made |

use crate::attach::{Hook, Links, Program};
use crate::cgroup::Cgroup;
use crate::error::RedirectError;
use crate::layout::Build;
use crate::load::{self, LoadOptions, Maps, agent, step};
use crate::object::ObjectFile;
use crate::store::Store;

/// Programs in force.
#[derive(Debug)]
pub(crate) struct Ready {
    pub(crate) maps: Maps,
    pub(crate) links: Links,
    /// Number of the step of the ladder.
    pub(crate) step: usize,
    /// How it came about, for log and status.
    pub(crate) how: &'static str,
}

/// Puts the programs that `options` ask for in force. On an error, nothing is left that was not there before (S-05).
pub(crate) fn bring_up(options: &LoadOptions, cgroup: Cgroup, store: Option<&Store>) -> Result<Ready, RedirectError> {
    let result = keep_or_settle(options, cgroup, store);
    if let (Err(_), Some(store)) = (&result, store) {
        store.undo();
    }
    result
}

fn keep_or_settle(options: &LoadOptions, cgroup: Cgroup, store: Option<&Store>) -> Result<Ready, RedirectError> {
    let object = options.bytes()?;
    let fingerprint = options.fingerprint(&object);
    let cgroup = match store {
        None => cgroup,
        Some(store) => match keep(options, fingerprint, cgroup, store) {
            Ok(ready) => return Ok(ready),
            Err(cgroup) => cgroup,
        },
    };
    settle(options, &object, fingerprint, cgroup, store)
}

/// Everything as the same build left it: not a single change.
fn keep(options: &LoadOptions, fingerprint: u64, cgroup: Cgroup, store: &Store) -> Result<Ready, Cgroup> {
    let hooks = options.hooks();
    let Some(build) = store.build().filter(|build| build.fingerprint == fingerprint && store.is_tidy(&hooks)) else {
        return Err(cgroup);
    };
    let pinned = |name| store.open_map(name).ok_or(RedirectError::Layout { map: name });
    let Ok(maps) = Maps::new(pinned) else { return Err(cgroup) };
    let same_agent = agent(step(build.step as usize)).is_ok_and(|own| maps.config.get(0).is_ok_and(|found| found == Some(own)));
    if !same_agent {
        return Err(cgroup);
    }
    let links = Links::kept(&hooks, &build, cgroup, store)?;
    Ok(Ready { maps, links, step: build.step as usize, how: "taken over as it was" })
}

fn settle(
    options: &LoadOptions,
    object: &[u8],
    fingerprint: u64,
    cgroup: Cgroup,
    store: Option<&Store>,
) -> Result<Ready, RedirectError> {
    let object = ObjectFile::parse(object)?;
    let hooks = options.hooks();
    let mut found = Vec::new();
    let maps = Maps::new(|name| match store.and_then(|store| store.open_map(name)) {
        Some(map) if object.fits(name, std::os::fd::AsFd::as_fd(&map))? => {
            found.push(name);
            Ok(map)
        }
        _ => object.create_map(name),
    })?;
    let (index, programs) = load::load(&object, &maps, &hooks, options.first_step)?;
    if let Some(store) = store {
        store.begin()?;
        if !found.contains(&"targets") {
            store.carry_over(&maps)?;
        }
    }
    let config = agent(step(index))?;
    let error = |source| RedirectError::Map { map: "config", source };
    if maps.config.get(0).map_err(error)? != Some(config) {
        if let Some(store) = store {
            store.about_to_change();
        }
        maps.config.set(0, config).map_err(error)?;
    }
    if let Some(store) = store {
        store.pin_maps(&maps)?;
    }
    let mut links = Links::attach(programs, cgroup, store)?;
    if let Some(store) = store {
        links.stay();
        store.finish(&hooks, &links.ids(), record(fingerprint, index, &links))?;
    }
    Ok(Ready { maps, links, step: index, how: if found.is_empty() { "new" } else { "taken over with other programs" } })
}

/// What the pinned links hold, for [`Store::record`].
pub(crate) fn record(fingerprint: u64, step: usize, links: &Links) -> Build {
    Build { fingerprint, programs: links.programs(), step: step as u32, zero: 0 }
}

/// One program more of what is in force, for a link that somebody detached.
pub(crate) fn reload(options: &LoadOptions, index: usize, maps: &Maps, hook: Hook) -> Result<Program, RedirectError> {
    let missing = || RedirectError::Object(format!("program {} is missing", hook.program));
    let object = ObjectFile::parse(&options.bytes()?)?;
    let programs = step(index).load(&object, maps, &[hook])?;
    programs.into_iter().next().ok_or_else(missing)
}
