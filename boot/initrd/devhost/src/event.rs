//! Event lines on standard output, see docs/protocol.md.

use serde_json::{Map, Value};
use std::io::Write;

/// Which side this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Where the devices run first.
    Source,
    /// Where they go.
    Destination,
}

/// Takes events. The real one prints them; tests collect them.
pub trait Events: Send + Sync {
    /// One event with its fields.
    fn emit(&self, name: &str, fields: Value);
}

/// Writes each event as one line, in one write, so that lines of two threads do not mix.
pub struct Printer;

impl Events for Printer {
    fn emit(&self, name: &str, fields: Value) {
        let line = line(name, fields);
        let mut out = std::io::stdout().lock();
        // an event that cannot be delivered has nobody to complain to
        let _ = out.write_all(line.as_bytes()).and_then(|()| out.flush());
    }
}

fn line(name: &str, fields: Value) -> String {
    let mut all = Map::new();
    all.insert("event".into(), name.into());
    if let Value::Object(fields) = fields {
        all.extend(fields);
    }
    format!("\x1e@portolan {}\n", Value::Object(all))
}

/// At most 4 `progress` events a second.
pub struct Progress<'a> {
    events: &'a dyn Events,
    role: Role,
    last: Option<std::time::Instant>,
}

impl<'a> Progress<'a> {
    /// For one role.
    pub fn new(events: &'a dyn Events, role: Role) -> Self {
        Self { events, role, last: None }
    }
    /// `done` of `total` pages of a phase.
    pub fn at(&mut self, phase: &str, done: u64, total: u64) {
        if self.last.is_some_and(|last| last.elapsed().as_millis() < 250) && done != total {
            return;
        }
        self.last = Some(std::time::Instant::now());
        self.events
            .emit("progress", serde_json::json!({ "role": self.role, "phase": phase, "done": done, "total": total }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_starts_with_the_record_separator_and_is_json() {
        let line = line("pass", serde_json::json!({ "role": Role::Source, "pass": 3 }));
        let json = line.strip_prefix("\x1e@portolan ").unwrap().strip_suffix('\n').unwrap();
        let value: Value = serde_json::from_str(json).unwrap();
        assert_eq!(value, serde_json::json!({ "event": "pass", "role": "source", "pass": 3 }));
    }
}
