//! The initial archive: cpio "newc" (magic 070701, or 070702 with checksums that are not used).

use crate::tree::{Node, NodeBody};
use crate::walk::Tree;
use uapi::Errno;
use uapi::linux::fs::{S_IFDIR, S_IFLNK, S_IFMT, S_IFREG};

/// Why an archive was not read further.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadArchive {
    /// Offset of the member in bytes.
    pub offset: usize,
    /// What is wrong.
    pub reason: &'static str,
}

/// Bytes of a member's header.
const HEADER: usize = 110;

fn field(header: &[u8], index: usize) -> Option<usize> {
    let digits = header.get(6 + index * 8..14 + index * 8)?;
    if !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    usize::from_str_radix(core::str::from_utf8(digits).ok()?, 16).ok()
}

/// Adds the members of `archive` to `tree`. Members of other types than directory, regular file and link are skipped
/// with a log line. Returns the number of members added.
///
/// # Errors
/// [`BadArchive`]; members before it were added.
pub fn unpack(archive: &'static [u8], tree: &Tree) -> Result<usize, BadArchive> {
    let mut at = 0;
    let mut count = 0;
    loop {
        let bad = |reason| BadArchive { offset: at, reason };
        let header = archive.get(at..at + HEADER).ok_or(bad("ends without a trailer"))?;
        if !matches!(&header[..6], b"070701" | b"070702") {
            return Err(bad("no newc header"));
        }
        let number = |index| field(header, index).ok_or(bad("a header field is not hexadecimal"));
        let (mode, mtime, size, name_size) = (number(1)?, number(5)?, number(6)?, number(11)?);
        let name_at = at + HEADER;
        let name = archive.get(name_at..name_at + name_size).ok_or(bad("the name passes the end"))?;
        let name = name.strip_suffix(b"\0").ok_or(bad("the name has no end"))?;
        if name == b"TRAILER!!!" {
            return Ok(count);
        }
        let data_at = (name_at + name_size).next_multiple_of(4);
        let data = archive.get(data_at..data_at + size).ok_or(bad("the data passes the end"))?;
        let name = core::str::from_utf8(name).map_err(|_| bad("the name is not UTF-8"))?;
        let name = name.strip_prefix("./").unwrap_or(name);
        let mode = mode as u32;
        if name.split('/').any(|part| part == "..") {
            return Err(bad("the name leads upwards"));
        }
        if !matches!(name, "." | "" | "/") {
            let node = match mode & S_IFMT {
                S_IFDIR => Some(Node::directory(mode)),
                S_IFREG => Some(Node::rom(data, mode)),
                S_IFLNK => Some(Node::new(NodeBody::Link(data.to_vec()), 0o777)),
                other => {
                    log::warn!("initrd: {name} skipped: type {other:#o}");
                    None
                }
            };
            if let Some(node) = node {
                node.set_mtime(mtime as u64 * 1_000_000_000);
                match add(tree, name, node) {
                    Ok(()) => count += 1,
                    Err(_) => return Err(bad("the name passes through a file")),
                }
            }
        }
        at = (data_at + size).next_multiple_of(4);
    }
}

fn add(tree: &Tree, name: &str, node: alloc::sync::Arc<Node>) -> Result<(), Errno> {
    // A directory that is there already (listed twice, or made on the way to a file) keeps its contents.
    if matches!(node.body(), NodeBody::Directory(_))
        && tree.resolve(&tree.root(), name.as_bytes(), crate::Viewer::default(), false).is_ok()
    {
        return Ok(());
    }
    tree.install(name, node)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Position, VecStores, Viewer};
    use alloc::boxed::Box;
    use alloc::format;
    use alloc::sync::Arc;
    use alloc::vec::Vec;

    fn member(archive: &mut Vec<u8>, name: &str, mode: u32, data: &[u8]) {
        let fields = [1, mode, 0, 0, 1, 7, data.len() as u32, 0, 0, 0, 0, name.len() as u32 + 1, 0];
        archive.extend_from_slice(b"070701");
        for field in fields {
            archive.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        archive.extend_from_slice(name.as_bytes());
        archive.push(0);
        archive.resize(archive.len().next_multiple_of(4), 0);
        archive.extend_from_slice(data);
        archive.resize(archive.len().next_multiple_of(4), 0);
    }

    fn sample() -> Vec<u8> {
        let mut archive = Vec::new();
        member(&mut archive, ".", 0o40755, b"");
        member(&mut archive, "bin", 0o40755, b"");
        member(&mut archive, "./bin/hello", 0o100755, b"ELF?!");
        member(&mut archive, "bin/again", 0o120777, b"hello");
        member(&mut archive, "null", 0o20666, b"");
        member(&mut archive, "TRAILER!!!", 0, b"");
        archive
    }

    fn tree() -> Tree {
        Tree::new(Arc::new(VecStores), Box::new(|| 0))
    }

    #[test]
    fn members_become_files() {
        let tree = tree();
        assert_eq!(unpack(sample().leak(), &tree), Ok(3));
        let open = tree.open(&tree.root(), b"/bin/again", 0, 0, Viewer::default()).unwrap();
        let mut buffer = [0; 9];
        assert_eq!(open.read(Position::Current, &mut buffer), Ok(5));
        assert_eq!(&buffer[..5], b"ELF?!");
        assert_eq!(open.file.stat().mode, 0o755);
        assert_eq!(open.file.stat().mtime, 7_000_000_000);
    }

    #[test]
    fn an_archive_cut_anywhere_is_refused_with_its_offset() {
        let whole = sample();
        let archive: &'static [u8] = whole.leak();
        let end = archive.len();
        for cut in 0..end {
            if let Err(bad) = unpack(&archive[..cut], &tree()) {
                // A member starts at a multiple of 4, which may lie past the cut.
                assert!(bad.offset <= cut.next_multiple_of(4), "{bad:?}");
            } else {
                // Only the padding after the trailer may be missing.
                assert!(end - cut < 4);
            }
        }
    }

    #[test]
    fn names_that_lead_upwards_are_refused() {
        let mut archive = Vec::new();
        member(&mut archive, "a/../../b", 0o100644, b"x");
        assert_eq!(unpack(archive.leak(), &tree()).unwrap_err().reason, "the name leads upwards");
    }
}
