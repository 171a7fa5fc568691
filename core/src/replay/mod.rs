//! Fixtures: one connection's whole story as text, and a player that runs it through [`ProxyConn`](crate::conn::ProxyConn)
//! without a socket. Text in, text out; this module reads no files.
//!
//! ```text
//! replay 1
//! # W-61: what goes to the host is signed. Spec numbers come first.
//! epoch Tue, 06 Jan 2026 08:15:30 GMT
//! policy signed {"signer":"k1"}
//!
//! 0s     < accept 127.0.0.1:40112
//! 0s     > identify
//! 90us   < identified redirected imds alice
//! 120us  < client
//!     GET /metadata/instance?api-version=2021-02-01 HTTP/1.1
//!     Host: 169.254.169.254
//!
//!     .
//! 120us  > connect 169.254.169.254:80
//! ```
//!
//! `<` goes into the machine, `>` comes out of it. Bytes are heredocs: indented by four, each line ends in CRLF on the wire unless
//! its last character is `\`; a lone `.` closes; `\x00`, `\r`, `\n`, `\t`, `\\` and `\(1024*a)` (a run) are escapes. A `>` line
//! belongs to the `<` line before it. The printer has one form for each fixture and a test holds the stored ones to it, so
//! rewriting a fixture with fresh outputs changes nothing but outputs.
//!
//! What a fixture says about bytes is said per step, but holds for the whole exchange: [`Streams`] joins them, and two runs of one
//! fixture must give equal streams however its input was cut ([`Cuts`]).

mod fixture;
mod parse;
mod play;
mod print;
mod text;
mod world;

#[cfg(test)]
mod tests;

pub use fixture::{Fixture, Input, Output, PeerSpec, Report, Step};
pub use parse::ParseError;
pub use play::{Cuts, Played, Segment, Streams, XorShift, play};
pub use world::{ClaimsSpec, PolicySpec};
