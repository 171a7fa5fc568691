//! The few types of the kernel that the object asks for, cut out of its type information (BTF).
//!
//! `/sys/kernel/btf/vmlinux` is 5 MB and 150,000 types; relocating our programs (CO-RE) needs some fifty of them. Taken apart
//! whole, it costs more time and memory than all the rest of starting. So it is read as a stream, the names first, then the types,
//! and what matters is kept: structures that the object declares too, by name, with those of their members that it declares
//! (or that have no name: the member may be inside), and the types of these. Where a pointer leads does not matter.
//!
//! Format: `Documentation/bpf/btf.rst` of the kernel.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};

const MAGIC: u16 = 0xeb9f;
const HEADER: usize = 24;

const INT: u32 = 1;
const PTR: u32 = 2;
const ARRAY: u32 = 3;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const ENUM: u32 = 6;
const TYPEDEF: u32 = 8;
const VOLATILE: u32 = 9;
const CONST: u32 = 10;
const RESTRICT: u32 = 11;
const FUNC_PROTO: u32 = 13;
const VAR: u32 = 14;
const DATASEC: u32 = 15;
const DECL_TAG: u32 = 17;
const TYPE_TAG: u32 = 18;
const ENUM64: u32 = 19;

/// One entry in this many is remembered by its place, so that a type is found by number without reading from the beginning.
const STRIDE: usize = 64;

/// What an object wants to know of the kernel: names of structures, and names of members.
#[derive(Debug)]
pub(crate) struct Wanted {
    types: HashSet<Vec<u8>>,
    members: HashSet<Vec<u8>>,
    /// For each first letter, the lengths of the names that begin with it, as bits: most of the kernel's 130,000 names need no second
    /// look.
    lengths: [u64; 256],
}

impl Wanted {
    /// All that the type information of the object declares. `___x` at the end of a name is not part of it (CO-RE).
    pub(crate) fn by(object: &[u8]) -> io::Result<Self> {
        let mut reader = Types::open(io::Cursor::new(object))?;
        let mut names = HashMap::new();
        reader.each_name(|offset, name| {
            names.insert(offset, name.to_vec());
        })?;
        let name = |offset: u32| names.get(&offset).map_or(&[][..], Vec::as_slice);
        let mut wanted = Self { types: HashSet::new(), members: HashSet::new(), lengths: [0; 256] };
        for record in reader.all()? {
            if matches!(record.kind(), STRUCT | UNION) {
                wanted.types.insert(flavourless(name(record.name())).to_vec());
                wanted.members.extend(record.members().map(|m| name(m[0]).to_vec()));
            }
        }
        wanted.types.remove(&[][..]);
        wanted.members.remove(&[][..]);
        for name in wanted.types.iter().chain(&wanted.members) {
            if let Some(lengths) = name.first().and_then(|first| wanted.lengths.get_mut(usize::from(*first))) {
                *lengths |= 1 << name.len().min(63);
            }
        }
        Ok(wanted)
    }

    fn may_have(&self, name: &[u8]) -> bool {
        let lengths = name.first().and_then(|first| self.lengths.get(usize::from(*first)));
        lengths.is_some_and(|lengths| lengths >> name.len().min(63) & 1 != 0)
    }
}

fn flavourless(name: &[u8]) -> &[u8] {
    name.windows(3).position(|w| w == b"___").map_or(name, |at| name.get(..at).unwrap_or(name))
}

/// Type information that holds of `kernel` what `wanted` asks for, and is otherwise like it.
pub(crate) fn excerpt(kernel: impl Read + Seek, wanted: &Wanted) -> io::Result<Vec<u8>> {
    let mut kernel = Types::open(kernel)?;
    let mut cut = Cut::default();
    // The offsets that stand for names of interest; those of structures in ascending order, as they come.
    let (mut types, mut texts) = (Vec::new(), HashMap::new());
    kernel.each_name(|offset, name| {
        if !wanted.may_have(name) {
            return;
        }
        if wanted.types.contains(name) {
            types.push(offset);
        }
        if wanted.types.contains(name) || wanted.members.contains(name) {
            texts.insert(offset, name.to_vec());
        }
    })?;
    let mut index = Vec::new();
    let mut queue = Vec::new();
    kernel.each(|id, at, kind, name| {
        if id as usize % STRIDE == 1 {
            index.push((id, at));
        }
        if matches!(kind, STRUCT | UNION) && types.binary_search(&name).is_ok() {
            queue.push(id);
        }
    })?;
    let names = Names { types, texts };
    // Numbers in the excerpt are given in this order, from 1.
    let mut order: Vec<Record> = Vec::new();
    let mut number: BTreeMap<u32, u32> = queue.iter().copied().zip(1..).collect();
    let mut next = 0;
    while let Some(id) = queue.get(next).copied() {
        next += 1;
        let mut record = kernel.find(id, &index)?;
        record.reduce(&names);
        for refers in record.refers() {
            if *refers != 0 {
                if let std::collections::btree_map::Entry::Vacant(new) = number.entry(*refers) {
                    queue.push(*refers);
                    new.insert(queue.len() as u32);
                }
                *refers = number.get(refers).copied().unwrap_or(0);
            }
        }
        order.push(record);
    }
    for record in &mut order {
        for name in record.names() {
            *name = cut.string(names.texts.get(name).map_or(&[][..], Vec::as_slice));
        }
        cut.types.extend(record.0.iter().flat_map(|word| word.to_ne_bytes()));
    }
    Ok(cut.finish())
}

struct Names {
    /// Of wanted structures.
    types: Vec<u32>,
    /// Of everything wanted, with the text.
    texts: HashMap<u32, Vec<u8>>,
}

/// The excerpt under construction.
#[derive(Default)]
struct Cut {
    types: Vec<u8>,
    strings: Vec<u8>,
    known: HashMap<Vec<u8>, u32>,
}

impl Cut {
    fn string(&mut self, text: &[u8]) -> u32 {
        if self.strings.is_empty() {
            self.strings.push(0);
        }
        if text.is_empty() {
            return 0;
        }
        let strings = &mut self.strings;
        *self.known.entry(text.to_vec()).or_insert_with(|| {
            let offset = strings.len() as u32;
            strings.extend_from_slice(text);
            strings.push(0);
            offset
        })
    }

    fn finish(mut self) -> Vec<u8> {
        self.string(b"");
        let (types, strings) = (self.types.len() as u32, self.strings.len() as u32);
        let mut all = Vec::with_capacity(HEADER + self.types.len() + self.strings.len());
        all.extend(MAGIC.to_ne_bytes());
        all.extend([1, 0]);
        for word in [HEADER as u32, 0, types, types, strings] {
            all.extend(word.to_ne_bytes());
        }
        all.extend(self.types);
        all.extend(self.strings);
        all
    }
}

/// One type: `struct btf_type` (name, info, size or type) and what follows it.
#[derive(Debug)]
struct Record(Vec<u32>);

impl Record {
    fn word(&self, at: usize) -> u32 {
        self.0.get(at).copied().unwrap_or(0)
    }

    fn name(&self) -> u32 {
        self.word(0)
    }

    fn kind(&self) -> u32 {
        kind(self.word(1))
    }

    /// Name, type and offset of each member.
    fn members(&self) -> impl Iterator<Item = [u32; 3]> {
        let members = self.0.get(3..).unwrap_or(&[]);
        members.as_chunks::<3>().0.iter().copied()
    }

    /// Drops what the object does not ask for. All that it keeps stays true: offsets and sizes are written out.
    fn reduce(&mut self, names: &Names) {
        match self.kind() {
            STRUCT | UNION => {
                let named = self.name() != 0 && names.types.binary_search(&self.name()).is_err();
                let keep = |m: &[u32; 3]| !named && (m[0] == 0 || names.texts.contains_key(&m[0]));
                let kept: Vec<[u32; 3]> = self.members().filter(keep).collect();
                self.0.truncate(3);
                self.0.extend(kept.as_flattened());
                self.count(kept.len());
            }
            ENUM | ENUM64 => {
                self.0.truncate(3);
                self.count(0);
            }
            // Whatever it leads to.
            PTR => self.0.truncate(2),
            _ => {}
        }
        self.0.resize(self.0.len().max(3), 0);
    }

    fn count(&mut self, members: usize) {
        if let Some(info) = self.0.get_mut(1) {
            *info = *info & !0xffff | members as u32;
        }
    }

    /// Numbers of other types in it. Of an array, also the type of its index.
    fn refers(&mut self) -> impl Iterator<Item = &mut u32> {
        let places: Vec<usize> = match self.kind() {
            STRUCT | UNION => (4..self.0.len()).step_by(3).collect(),
            ARRAY => vec![3, 4],
            PTR | TYPEDEF | VOLATILE | CONST | RESTRICT | TYPE_TAG => vec![2],
            _ => Vec::new(),
        };
        self.0.iter_mut().enumerate().filter(move |(i, _)| places.contains(i)).map(|(_, word)| word)
    }

    /// Offsets of names in it.
    fn names(&mut self) -> impl Iterator<Item = &mut u32> {
        let members = matches!(self.kind(), STRUCT | UNION);
        self.0.iter_mut().enumerate().filter(move |(i, _)| *i == 0 || members && *i >= 3 && i % 3 == 0).map(|(_, word)| word)
    }
}

fn kind(info: u32) -> u32 {
    info >> 24 & 0x1f
}

/// Words that follow the first three.
fn tail(info: u32) -> io::Result<usize> {
    let count = (info & 0xffff) as usize;
    Ok(match kind(info) {
        INT | VAR | DECL_TAG => 1,
        ARRAY => 3,
        STRUCT | UNION | DATASEC | ENUM64 => 3 * count,
        ENUM | FUNC_PROTO => 2 * count,
        0 | 20.. => return Err(invalid("kind of type")),
        _ => 0,
    })
}

/// Type information as a stream.
struct Types<R> {
    source: BufReader<R>,
    /// Where the types begin and end.
    types: (u64, u64),
    /// Where the names begin, and how long they are.
    strings: (u64, u64),
}

impl<R: Read + Seek> Types<R> {
    fn open(source: R) -> io::Result<Self> {
        // sysfs gives 4 KiB at a time, whatever is asked for.
        let mut source = BufReader::with_capacity(4096, source);
        let mut header = [0; HEADER];
        source.read_exact(&mut header)?;
        let word = |at: usize| header.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_ne_bytes);
        if word(0) & 0xffff != u32::from(MAGIC) {
            return Err(invalid("magic number"));
        }
        let [length, type_at, type_length, string_at, string_length] = [4, 8, 12, 16, 20].map(|at| u64::from(word(at)));
        let types = (length + type_at, length + type_at + type_length);
        Ok(Self { source, types, strings: (length + string_at, string_length) })
    }

    /// Calls `f` with each name and its offset.
    fn each_name(&mut self, mut f: impl FnMut(u32, &[u8])) -> io::Result<()> {
        self.source.seek(SeekFrom::Start(self.strings.0))?;
        let mut left = self.strings.1;
        // Of the name that began in an earlier piece.
        let (mut begun, mut offset) = (Vec::new(), 0u32);
        while left > 0 {
            let piece = self.source.fill_buf()?;
            let piece = piece.get(..left.min(piece.len() as u64) as usize).unwrap_or(piece);
            if piece.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let length = piece.len();
            for part in piece.split_inclusive(|byte| *byte == 0) {
                let whole = part.last() == Some(&0);
                let text = part.strip_suffix(&[0]).unwrap_or(part);
                if !whole || !begun.is_empty() {
                    begun.extend_from_slice(text);
                }
                if whole {
                    let name = if begun.is_empty() { text } else { &begun };
                    let after = offset + name.len() as u32 + 1;
                    f(offset, name);
                    offset = after;
                    begun.clear();
                }
            }
            left -= length as u64;
            self.source.consume(length);
        }
        Ok(())
    }

    /// Calls `f` with number, place, kind and name of each type.
    fn each(&mut self, mut f: impl FnMut(u32, u64, u32, u32)) -> io::Result<()> {
        let (mut at, end) = self.types;
        self.source.seek(SeekFrom::Start(at))?;
        let mut id = 1;
        while at < end {
            let [name, info, _] = self.head()?;
            f(id, at, kind(info), name);
            let tail = 4 * tail(info)?;
            self.skip(tail)?;
            id += 1;
            at += 12 + tail as u64;
        }
        Ok(())
    }

    /// Every type.
    fn all(&mut self) -> io::Result<Vec<Record>> {
        let (mut at, end) = self.types;
        self.source.seek(SeekFrom::Start(at))?;
        let mut all = Vec::new();
        while at < end {
            let record = self.read()?;
            at += 4 * record.0.len() as u64;
            all.push(record);
        }
        Ok(all)
    }

    /// The type with the number `id`, by way of an index of some that come before it.
    fn find(&mut self, id: u32, index: &[(u32, u64)]) -> io::Result<Record> {
        let before = index.partition_point(|(first, _)| *first <= id).checked_sub(1);
        let (mut at, place) = *before.and_then(|i| index.get(i)).ok_or_else(|| invalid("number of a type"))?;
        self.source.seek(SeekFrom::Start(place))?;
        while at < id {
            let [_, info, _] = self.head()?;
            self.skip(4 * tail(info)?)?;
            at += 1;
        }
        self.read()
    }

    /// The type at the present place.
    fn read(&mut self) -> io::Result<Record> {
        let head = self.head()?;
        let mut tail = vec![0; 4 * tail(head[1])?];
        self.source.read_exact(&mut tail)?;
        Ok(Record(head.into_iter().chain(tail.as_chunks().0.iter().map(|word| u32::from_ne_bytes(*word))).collect()))
    }

    /// Name, info, and size or type.
    fn head(&mut self) -> io::Result<[u32; 3]> {
        let mut head = [0; 12];
        match self.source.buffer().first_chunk::<12>() {
            Some(bytes) => {
                head = *bytes;
                self.source.consume(12);
            }
            None => self.source.read_exact(&mut head)?,
        }
        let [a, b, c, d, e, f, g, h, i, j, k, l] = head;
        Ok([[a, b, c, d], [e, f, g, h], [i, j, k, l]].map(u32::from_ne_bytes))
    }

    fn skip(&mut self, bytes: usize) -> io::Result<()> {
        if bytes <= self.source.buffer().len() {
            self.source.consume(bytes);
            return Ok(());
        }
        self.source.seek_relative(bytes as i64)
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("type information with an unknown {what}"))
}

#[cfg(test)]
mod tests;
