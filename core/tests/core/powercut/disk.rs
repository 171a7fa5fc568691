//! A disk with one folder, as POSIX promises it: what was not synced may survive a power cut or not, each entry and each content for
//! itself, and content may be torn.

use std::collections::{BTreeMap, BTreeSet};

/// The disk, and the folder of keys on it.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Disk {
    folder: Option<Folder>,
    /// The folder's own name is safe.
    folder_is_synced: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Folder {
    files: BTreeMap<u32, File>,
    /// Entries that are safe.
    synced: BTreeMap<String, u32>,
    /// What has happened to entries since.
    pending: Vec<Change>,
}

/// Each of them happens as a whole or not at all.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Change {
    Link(String, u32),
    Unlink(String),
    Rename(String, String, u32),
}

/// Content that is safe, and content as a process sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
struct File {
    synced: Vec<u8>,
    current: Vec<u8>,
}

impl File {
    /// What a power cut may leave.
    fn remains(&self) -> BTreeSet<Vec<u8>> {
        if self.synced == self.current {
            return BTreeSet::from([self.current.clone()]);
        }
        let half = self.current[..self.current.len() / 2].to_vec();
        let zeros = vec![0; self.current.len()];
        let mixed = [&half[..], &zeros[half.len()..]].concat();
        BTreeSet::from([self.synced.clone(), Vec::new(), half, zeros, mixed, self.current.clone()])
    }
}

fn apply(entries: &mut BTreeMap<String, u32>, change: &Change) {
    match change {
        Change::Link(name, file) => {
            entries.insert(name.clone(), *file);
        }
        Change::Unlink(name) => {
            entries.remove(name);
        }
        Change::Rename(from, to, file) => {
            entries.remove(from);
            entries.insert(to.clone(), *file);
        }
    }
}

impl Folder {
    fn entries(&self) -> BTreeMap<String, u32> {
        let mut entries = self.synced.clone();
        self.pending.iter().for_each(|change| apply(&mut entries, change));
        entries
    }

    fn cuts(&self) -> BTreeSet<Self> {
        // With each change or without it.
        let mut kept = BTreeSet::from([self.synced.clone()]);
        for change in &self.pending {
            let with = kept.iter().cloned().map(|mut entries| {
                apply(&mut entries, change);
                entries
            });
            let with: Vec<_> = with.collect();
            kept.extend(with);
        }
        kept.into_iter().flat_map(|entries| self.with_contents(&entries)).collect()
    }

    /// Every content that the named files may have.
    fn with_contents(&self, entries: &BTreeMap<String, u32>) -> Vec<Self> {
        let mut folders = vec![Self::default()];
        for (n, (name, file)) in (0..).zip(entries) {
            let remains = match name.ends_with("tmp") {
                // Nobody reads it: one of them stands for all.
                true => BTreeSet::from([b"torn".to_vec()]),
                false => self.files[file].remains(),
            };
            let each = folders.iter().flat_map(|folder| remains.iter().map(|content| (folder.clone(), content.clone())));
            folders = each
                .map(|(mut folder, content)| {
                    folder.synced.insert(name.clone(), n);
                    folder.files.insert(n, File { synced: content.clone(), current: content });
                    folder
                })
                .collect();
        }
        folders
    }
}

impl Disk {
    /// Every disk that a power cut may leave of this one.
    pub(super) fn cuts(&self) -> BTreeSet<Self> {
        let gone = (!self.folder_is_synced).then(Self::default);
        let kept = self.folder.iter().flat_map(Folder::cuts).map(|folder| Self { folder: Some(folder), folder_is_synced: true });
        gone.into_iter().chain(kept).collect()
    }

    pub(super) const fn has_folder(&self) -> bool {
        self.folder.is_some()
    }

    pub(super) fn make_folder(&mut self) {
        self.folder.get_or_insert_default();
    }

    pub(super) fn sync_root(&mut self) {
        self.folder_is_synced = self.folder.is_some();
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.folder.iter().flat_map(|folder| folder.entries().into_keys()).collect()
    }

    pub(super) fn read(&self, name: &str) -> Option<Vec<u8>> {
        let folder = self.folder.as_ref()?;
        folder.entries().get(name).map(|file| folder.files[file].current.clone())
    }

    pub(super) fn create(&mut self, name: &str) -> Result<(), &'static str> {
        let folder = self.folder.as_mut().ok_or("no folder")?;
        if folder.entries().contains_key(name) {
            return Err("it exists");
        }
        let file = folder.files.last_key_value().map_or(0, |(n, _)| n + 1);
        folder.files.insert(file, File::default());
        folder.pending.push(Change::Link(name.to_owned(), file));
        Ok(())
    }

    pub(super) fn write(&mut self, name: &str, bytes: &[u8]) -> Result<(), &'static str> {
        self.file(name).map(|file| file.current = bytes.to_vec())
    }

    pub(super) fn sync_file(&mut self, name: &str) -> Result<(), &'static str> {
        self.file(name).map(|file| file.synced.clone_from(&file.current))
    }

    fn file(&mut self, name: &str) -> Result<&mut File, &'static str> {
        let folder = self.folder.as_mut().ok_or("no folder")?;
        let file = *folder.entries().get(name).ok_or("no file")?;
        folder.files.get_mut(&file).ok_or("no file")
    }

    pub(super) fn rename(&mut self, from: &str, to: &str) -> Result<(), &'static str> {
        let folder = self.folder.as_mut().ok_or("no folder")?;
        let file = *folder.entries().get(from).ok_or("no file")?;
        folder.pending.push(Change::Rename(from.to_owned(), to.to_owned(), file));
        Ok(())
    }

    pub(super) fn unlink(&mut self, name: &str) {
        if let Some(folder) = &mut self.folder
            && folder.entries().contains_key(name)
        {
            folder.pending.push(Change::Unlink(name.to_owned()));
        }
    }

    pub(super) fn sync_folder(&mut self) {
        if let Some(folder) = &mut self.folder {
            folder.synced = folder.entries();
            folder.pending.clear();
            let Folder { files, synced, .. } = folder;
            // Nothing can bring back a file without a name.
            files.retain(|number, _| synced.values().any(|n| n == number));
        }
    }
}
