use super::*;
use aya_obj::Object;
use aya_obj::btf::{Btf, BtfError, BtfKind};
use std::io::Cursor;

/// As the loader does it.
fn parse(cut: &[u8]) -> Result<Btf, BtfError> {
    let object = Object::parse(&crate::LoadOptions::default().bytes().unwrap()).unwrap();
    Btf::parse(cut, object.endianness)
}

/// Type information made by hand: words, with names as texts.
#[derive(Default)]
struct Maker {
    cut: Cut,
}

impl Maker {
    /// A type with its three words and what follows, in which `Err` is a name.
    fn add(&mut self, name: &str, kind: u32, count: u32, size_or_type: u32, tail: &[Result<u32, &str>]) -> &mut Self {
        let name = self.cut.string(name.as_bytes());
        let mut words = vec![name, kind << 24 | count, size_or_type];
        for word in tail {
            words.push(word.unwrap_or_else(|text| self.cut.string(text.as_bytes())));
        }
        self.cut.types.extend(words.iter().flat_map(|w| w.to_ne_bytes()));
        self
    }

    fn finish(self) -> Vec<u8> {
        self.cut.finish()
    }
}

/// struct outer { int unwanted; union { long inner; char other; }; alias value; struct stranger far; struct outer *next; };
fn kernel() -> Vec<u8> {
    let mut kernel = Maker::default();
    kernel
        .add("int", INT, 0, 4, &[Ok(32)])
        .add("stranger", STRUCT, 1, 64, &[Err("value"), Ok(1), Ok(0)])
        .add(
            "outer",
            STRUCT,
            5,
            96,
            &[
                Err("unwanted"),
                Ok(1),
                Ok(0),
                Err(""),
                Ok(4),
                Ok(64),
                Err("value"),
                Ok(6),
                Ok(128),
                Err("far"),
                Ok(2),
                Ok(192),
                Err("next"),
                Ok(8),
                Ok(704),
            ],
        )
        .add("", UNION, 2, 8, &[Err("inner"), Ok(5), Ok(0), Err("other"), Ok(1), Ok(0)])
        .add("long", INT, 0, 8, &[Ok(64)])
        .add("alias", TYPEDEF, 0, 7, &[])
        .add("", CONST, 0, 5, &[])
        .add("", PTR, 0, 3, &[])
        .add("colour", ENUM, 1, 4, &[Err("red"), Ok(0)])
        .add("unrelated", STRUCT, 1, 4, &[Err("value"), Ok(1), Ok(0)]);
    kernel.finish()
}

fn wanted(structures: &[(&str, &[&str])]) -> Wanted {
    let mut object = Maker::default();
    object.add("int", INT, 0, 4, &[Ok(32)]);
    for (name, members) in structures {
        let tail: Vec<_> = members.iter().flat_map(|m| [Err(*m), Ok(1), Ok(0)]).collect();
        object.add(name, STRUCT, members.len() as u32, 4, &tail);
    }
    Wanted::by(&object.finish()).unwrap()
}

/// Name and kind of each type, with its members' names.
fn contents(btf: &[u8]) -> Vec<(String, u32, Vec<String>)> {
    let mut types = Types::open(Cursor::new(btf)).unwrap();
    let mut names = HashMap::new();
    types.each_name(|offset, name| drop(names.insert(offset, String::from_utf8(name.to_vec()).unwrap()))).unwrap();
    let describe = |record: Record| {
        let members = if matches!(record.kind(), STRUCT | UNION) { record.members().collect() } else { Vec::new() };
        (names[&record.name()].clone(), record.kind(), members.iter().map(|m| names[&m[0]].clone()).collect())
    };
    types.all().unwrap().into_iter().map(describe).collect()
}

#[test]
fn what_the_object_declares_is_kept_and_nothing_else() {
    let wanted = wanted(&[("outer", &["inner", "value", "next"])]);
    let cut = excerpt(Cursor::new(kernel()), &wanted).unwrap();
    let found = contents(&cut);
    let own = |name: &str, kind, members: &[&str]| (name.to_owned(), kind, members.iter().map(|m| (*m).to_owned()).collect());
    assert_eq!(found[0], own("outer", STRUCT, &["", "value", "next"]));
    // What has no name is looked into; a pointer is not followed; names of simple types are not needed.
    let rest = [own("", UNION, &["inner"]), own("", TYPEDEF, &[]), own("", PTR, &[]), own("", INT, &[]), own("", CONST, &[])];
    assert_eq!(found[1..], rest);
    // The parser that relocates understands it.
    let parsed = parse(&cut).unwrap();
    assert_eq!(parsed.id_by_type_name_kind("outer", BtfKind::Struct).unwrap(), 1);
}

#[test]
fn a_structure_of_another_name_keeps_its_size_and_loses_its_members() {
    let cut = excerpt(Cursor::new(kernel()), &wanted(&[("outer", &["far", "value"])])).unwrap();
    let stranger = contents(&cut).into_iter().find(|(_, kind, members)| *kind == STRUCT && members.is_empty());
    assert!(stranger.is_some());
    let mut types = Types::open(Cursor::new(&cut)).unwrap();
    let offsets: Vec<u32> = types.find(1, &[(1, types.types.0)]).unwrap().members().map(|m| m[2]).collect();
    assert_eq!(offsets, [64, 128, 192], "offsets are the kernel's");
    assert!(types.all().unwrap().iter().any(|record| record.kind() == STRUCT && record.word(2) == 64));
}

/// CO-RE: `inode___x` asks for `inode`.
#[test]
fn flavours_are_not_part_of_the_name() {
    let cut = excerpt(Cursor::new(kernel()), &wanted(&[("unrelated___any", &["value"])])).unwrap();
    assert_eq!(contents(&cut)[0].0, "unrelated");
    assert_eq!(flavourless(b"a__b"), b"a__b");
}

#[test]
fn what_the_kernel_does_not_have_is_simply_missing() {
    let cut = excerpt(Cursor::new(kernel()), &wanted(&[("no_such_thing", &["value"])])).unwrap();
    assert!(contents(&cut).is_empty());
    assert!(parse(&cut).is_ok());
}

#[test]
fn numbers_far_apart_are_found_by_the_index() {
    let mut kernel = Maker::default();
    for _ in 0..1000 {
        kernel.add("int", INT, 0, 4, &[Ok(32)]);
    }
    kernel.add("outer", STRUCT, 3, 8, &[Err("a"), Ok(1), Ok(0), Err("b"), Ok(64), Ok(32), Err("c"), Ok(1000), Ok(64)]);
    let cut = excerpt(Cursor::new(kernel.finish()), &wanted(&[("outer", &["a", "b", "c"])])).unwrap();
    assert_eq!(contents(&cut).iter().map(|(_, kind, _)| *kind).collect::<Vec<_>>(), [STRUCT, INT, INT, INT]);
}

#[test]
fn nonsense_is_an_error() {
    let wanted = wanted(&[("outer", &["value"])]);
    assert!(excerpt(Cursor::new(b"too short".to_vec()), &wanted).is_err());
    assert!(excerpt(Cursor::new(vec![0; 64]), &wanted).is_err());
    let mut unknown = Maker::default();
    unknown.add("future", 25, 0, 0, &[]);
    assert!(excerpt(Cursor::new(unknown.finish()), &wanted).is_err());
    let mut cut_off = kernel();
    cut_off.truncate(cut_off.len() - 3);
    assert!(excerpt(Cursor::new(cut_off), &wanted).is_err());
}

/// On this machine's kernel: a few kilobytes, with what the embedded object looks into.
#[test]
fn an_excerpt_of_this_kernel() {
    let Ok(kernel) = std::fs::File::open("/sys/kernel/btf/vmlinux") else { return };
    let object = Object::parse(&crate::LoadOptions::default().bytes().unwrap()).unwrap();
    let wanted = Wanted::by(&object.btf.unwrap().to_bytes()).unwrap();
    let cut = excerpt(kernel, &wanted).unwrap();
    assert!(cut.len() < 16 * 1024, "{} bytes", cut.len());
    let names: Vec<String> = contents(&cut).into_iter().map(|(name, ..)| name).collect();
    for name in ["task_struct", "mm_struct", "file", "inode", "super_block", "pid", "upid", "net", "sock_common", "tcp_sock"] {
        assert!(names.iter().any(|n| n == name), "{name} is missing in {names:?}");
    }
}
