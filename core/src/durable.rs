//! In which order a file is replaced, and a folder made, so that a power cut leaves the old content or the new one and never less
//! (FS-29, FS-30, W-96).
//!
//! What a crash may take back is decided by the file system: content that was not synced, and each entry of a folder that was not
//! synced, in any combination. So the order is a decision, and it is here, once; the shell carries out one step after the other
//! (`runtime-blocking/src/host/files.rs`), and `core/tests/core/powercut.rs` cuts the power after each of them.

/// A step of replacing a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplaceStep {
    /// Remove a temporary file that a crash left.
    RemoveTemp,
    /// Make the temporary file; it must be new.
    CreateTemp,
    /// Give it its final mode: the umask may have taken bits away.
    SetMode,
    /// Write the whole content to it.
    Write,
    /// Wait until its content would survive a power cut.
    SyncFile,
    /// Rename it over the file.
    Rename,
    /// Give it its name, if that is free.
    RenameNew,
    /// Wait until the new name would survive a power cut.
    SyncFolder,
}

/// How a file is replaced. When a step fails, the steps after it are not taken and the temporary file is removed.
pub const REPLACE: [ReplaceStep; 7] = [
    ReplaceStep::RemoveTemp,
    ReplaceStep::CreateTemp,
    ReplaceStep::SetMode,
    ReplaceStep::Write,
    ReplaceStep::SyncFile,
    ReplaceStep::Rename,
    ReplaceStep::SyncFolder,
];

/// The same for what is written again soon anyway: readers see one content or the other, but a power cut may leave nothing of it.
pub const REFRESH: [ReplaceStep; 5] =
    [ReplaceStep::RemoveTemp, ReplaceStep::CreateTemp, ReplaceStep::SetMode, ReplaceStep::Write, ReplaceStep::Rename];

/// [`REFRESH`] for a file that must be new.
pub const ADD: [ReplaceStep; 5] =
    [ReplaceStep::RemoveTemp, ReplaceStep::CreateTemp, ReplaceStep::SetMode, ReplaceStep::Write, ReplaceStep::RenameNew];

/// A step of making a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FolderStep {
    /// Make it, with its final mode, if it does not exist.
    Make,
    /// Wait until its own name, in the folder above it, would survive a power cut: a file that is synced in a folder that is not is lost
    /// with it.
    SyncParent,
}

/// How a folder is made. For one that exists there is nothing to do, but before a key is stored both steps are taken: an agent that was
/// killed between the two has left a folder that a power cut may still take back.
pub const MAKE_FOLDER: [FolderStep; 2] = [FolderStep::Make, FolderStep::SyncParent];
