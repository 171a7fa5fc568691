//! `rules …`: what an owner asks about rule documents. One file per subcommand; what they know is in core's `advise`.

mod caller;
mod check;
mod diff;
mod explain;
mod learn;
mod live;
mod tell;
mod test;

use super::tool::{Family, Tool};

/// In the order of the help text.
const TOOLS: &[&Tool] = &[&check::TOOL, &explain::TOOL, &test::TOOL, &learn::TOOL, &diff::TOOL];

pub(super) const FAMILY: Family =
    Family { word: "rules", about: "checks, explains and tests authorization rules", tools: TOOLS, alone: None };
