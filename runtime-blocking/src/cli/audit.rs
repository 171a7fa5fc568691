//! `audit …`: reads the audit log.

use super::tool::{Family, Tool};

/// In the order of the help text.
const TOOLS: &[&Tool] = &[];

pub(super) const FAMILY: Family = Family { word: "audit", about: "reads the audit log", tools: TOOLS, alone: None };
