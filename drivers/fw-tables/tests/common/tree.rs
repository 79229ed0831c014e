//! Device tree blobs typed from the Devicetree specification 0.4, chapter 5.

/// Writes the tags of a tree.
#[derive(Default)]
pub struct Tree {
    pub structure: Vec<u8>,
    pub strings: Vec<u8>,
}

impl Tree {
    pub fn tag(&mut self, tag: u32) -> &mut Self {
        self.structure.extend(tag.to_be_bytes());
        self
    }
    fn pad(&mut self) {
        self.structure.resize(self.structure.len().next_multiple_of(4), 0);
    }
    pub fn begin(&mut self, name: &str) -> &mut Self {
        self.tag(1);
        self.structure.extend(name.bytes());
        self.structure.push(0);
        self.pad();
        self
    }
    pub fn end(&mut self) -> &mut Self {
        self.tag(2)
    }
    pub fn bytes(&mut self, name: &str, value: &[u8]) -> &mut Self {
        let at = self.strings.len() as u32;
        self.strings.extend(name.bytes());
        self.strings.push(0);
        self.tag(3).tag(value.len() as u32).tag(at);
        self.structure.extend(value);
        self.pad();
        self
    }
    pub fn text(&mut self, name: &str, value: &str) -> &mut Self {
        self.bytes(name, format!("{value}\0").as_bytes())
    }
    pub fn cells(&mut self, name: &str, value: &[u32]) -> &mut Self {
        let value: Vec<u8> = value.iter().flat_map(|cell| cell.to_be_bytes()).collect();
        self.bytes(name, &value)
    }
    pub fn flag(&mut self, name: &str) -> &mut Self {
        self.bytes(name, &[])
    }

    /// Header of ten words: magic, total, structure, strings, reservations, version 17, compatible 16, boot CPU, sizes of strings
    /// and structure.
    pub fn blob(&mut self) -> Vec<u8> {
        self.tag(9);
        let (structure, strings) = (self.structure.len() as u32, self.strings.len() as u32);
        let words = [0xd00d_feed, 56 + structure + strings, 56, 56 + structure, 40, 17, 16, 0, strings, structure];
        let mut out: Vec<u8> = words.iter().flat_map(|word: &u32| word.to_be_bytes()).collect();
        out.extend([0; 16]);
        out.extend(&self.structure);
        out.extend(&self.strings);
        out
    }
}
