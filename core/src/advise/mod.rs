//! What people ask about rules: is this document right, why was this request decided so, what would these rules have done, what
//! changes between two documents.
//!
//! Pure, like all of core, and made of [`authz`](crate::authz): the same compilation, canonical form and decision that the daemon
//! uses, never a second one. The daemon's decisions use nothing of this; the shells of the tools (`azure-proxy-agent rules …`,
//! `azure-proxy-agent audit …`) read files, ask here, and print. The feature `advise` leaves it out of what cannot need it.

mod caller;
pub mod diff;
mod explain;
pub mod layout;
pub mod learn;
pub mod lint;
pub mod recording;
mod source;
mod suite;
pub mod view;

pub use caller::{Caller, CallerError, UNKNOWN_UID};
pub use explain::{Question, Refusal, Told, destination, explain, named_destination};
pub use source::{Documents, LocalMisplaced, SourceError};
pub use suite::{Case, Checked, Expected, Ran, Suite, SuiteError, SuiteRules};
