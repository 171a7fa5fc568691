//! Reading HTTP/1.1 (RFC 9112) without state, sockets or allocation, and the few responses that we make ourselves.
//!
//! Nothing here is lenient: what two parsers could read in two ways is refused (PX-15 to PX-18, PX-43). A head is never rebuilt:
//! what is found in it is kept as [`Span`]s of the bytes that were received.

mod buf;
pub mod chunked;
pub mod head;
pub mod reply;
pub mod request;
pub mod response;
pub mod target;

pub use buf::Buf;
pub use head::{Field, HeadError, HeadScan, Span, Version};
pub use request::{RequestBody, RequestHead};
pub use response::{ResponseBody, ResponseHead};
