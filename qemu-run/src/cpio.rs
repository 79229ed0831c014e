//! The initrd: a cpio archive in the "new ASCII" format (magic 070701).
//!
//! Written here because it is sixty lines, and because equal inputs must give equal bytes: inode numbers count up,
//! times and owners are zero, entries are sorted.

use std::collections::BTreeMap;

/// Files by their path in the image, without a leading slash.
#[derive(Default)]
pub struct Archive {
    files: BTreeMap<String, Vec<u8>>,
}

impl Archive {
    /// Empty.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an executable file; a path added twice keeps the later bytes.
    pub fn file(&mut self, path: &str, bytes: Vec<u8>) {
        self.files.insert(path.trim_start_matches('/').to_owned(), bytes);
    }

    /// The archive, directories before what is in them, padded to 512 bytes.
    pub fn pack(&self) -> Vec<u8> {
        let mut entries: BTreeMap<&str, Option<&[u8]>> = BTreeMap::new();
        for (path, bytes) in &self.files {
            for (slash, _) in path.match_indices('/') {
                entries.insert(&path[..slash], None);
            }
            entries.insert(path, Some(bytes));
        }
        let mut out = Vec::new();
        for (at, (path, bytes)) in entries.iter().enumerate() {
            let (mode, links) = if bytes.is_some() { (0o100_755, 1) } else { (0o040_755, 2) };
            entry(&mut out, at as u32 + 1, mode, links, path, bytes.unwrap_or_default());
        }
        entry(&mut out, 0, 0, 1, "TRAILER!!!", &[]);
        out.resize(out.len().next_multiple_of(512), 0);
        out
    }
}

fn entry(out: &mut Vec<u8>, ino: u32, mode: u32, links: u32, name: &str, data: &[u8]) {
    // ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
    let fields = [ino, mode, 0, 0, links, 0, data.len() as u32, 0, 0, 0, 0, name.len() as u32 + 1, 0];
    out.extend_from_slice(b"070701");
    for field in fields {
        out.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    out.extend_from_slice(name.as_bytes());
    out.push(0);
    out.resize(out.len().next_multiple_of(4), 0);
    out.extend_from_slice(data);
    out.resize(out.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_and_padding_are_those_of_the_format() {
        let mut archive = Archive::new();
        archive.file("/a", b"xyz".to_vec());
        let bytes = archive.pack();
        let want = "070701000000010000\
                    81ed00000000000000000000000100000000000000030000000000000000000000000000000000000002\
                    00000000a\0";
        assert_eq!(&bytes[..112], want.as_bytes());
        assert_eq!(&bytes[112..116], b"xyz\0");
        assert_eq!(bytes.len() % 512, 0);
        assert!(String::from_utf8_lossy(&bytes).contains("TRAILER!!!"));
    }

    #[test]
    fn directories_come_first_and_the_bytes_do_not_depend_on_the_order_of_adding() {
        let (mut one, mut two) = (Archive::new(), Archive::new());
        one.file("bin/b", vec![1]);
        one.file("bin/a", vec![2]);
        two.file("bin/a", vec![2]);
        two.file("bin/b", vec![1]);
        assert_eq!(one.pack(), two.pack());
        let text = String::from_utf8_lossy(&one.pack()).into_owned();
        assert!(text.find("bin\0") < text.find("bin/a\0") && text.find("bin/a\0") < text.find("bin/b\0"));
    }
}
