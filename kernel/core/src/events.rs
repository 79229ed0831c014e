//! Event lines for the host (docs/protocol.md): `@portolan {"event":NAME,...}`.

use crate::log::Port;
use alloc::string::String;
use core::fmt::{self, Write};

/// Longest line, in bytes.
const LONGEST: usize = 4096;

/// Value of a field.
pub enum Value<'a> {
    /// Text.
    Text(&'a str),
    /// Number.
    Number(u64),
    /// True or false.
    Bool(bool),
}

struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        for c in self.0.chars() {
            match c {
                '"' | '\\' => write!(f, "\\{c}")?,
                c if c < ' ' => write!(f, "\\u{:04x}", c as u32)?,
                c => f.write_char(c)?,
            }
        }
        f.write_char('"')
    }
}

fn put(out: &mut dyn Write, name: &str, fields: &[(&str, Value<'_>)]) -> fmt::Result {
    // The separator lets the line stand behind a program's unfinished one.
    write!(out, "\x1e@portolan {{\"event\":{}", Escaped(name))?;
    for (key, value) in fields {
        write!(out, ",{}:", Escaped(key))?;
        match value {
            Value::Text(text) => write!(out, "{}", Escaped(text))?,
            Value::Number(n) => write!(out, "{n}")?,
            Value::Bool(b) => write!(out, "{b}")?,
        }
    }
    out.write_str("}\n")
}

/// Sends an event in one piece. One that would be too long is sent without its fields.
pub fn send(name: &str, fields: &[(&str, Value<'_>)]) {
    let mut line = String::new();
    if put(&mut line, name, fields).is_err() || line.len() > LONGEST {
        line.clear();
        let _ = put(&mut line, name, &[]);
    }
    let _ = Port.write_str(&line);
}

/// The event of a kernel that is ending; allocates nothing.
pub fn panic(message: &str) {
    let _ = put(&mut Port, "panic", &[("message", Value::Text(message))]);
}
