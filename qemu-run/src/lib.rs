//! Host tool: set-up, build, machine profiles, run, migrate, report.
//!
//! A library, so that the QEMU suites start machines exactly as a person does.
#![forbid(unsafe_code)]

pub mod cli;
pub mod cpio;
pub mod feed;
pub mod guest;
pub mod image;
pub mod inspect;
pub mod machine;
pub mod migrate;
pub mod program;
pub mod qemu;
pub mod report;
pub mod run;
pub mod sender;
pub mod serial;
pub mod setup;
pub mod symbols;
pub mod ui;
