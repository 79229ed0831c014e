//! Processes and threads.
//!
//! The kernel is event-style: each CPU runs this loop and nothing else (kernel/core owns it).
//!
//! ```text
//! loop {
//!     poll_devices();                                     // network, console input; signals vfs::Event
//!     match kernel.next() {                               // task::Kernel: wakes what can run, takes the first
//!         Some(thread) => {
//!             let space = thread.space();                 // keeps the page tables alive while they are loaded
//!             let trap = {
//!                 let mut context = thread.context();     // lock guard of Box<dyn Context>: downcast it
//!                 run_user(&mut context, space.root())
//!             };
//!             system.handle(&thread, trap);               // syscall::System: does the call, queues the thread again
//!         }
//!         None if kernel.ended(first).is_some() => exit,
//!         None => sleep until kernel.deadline() or an interrupt,
//!     }
//! }
//! ```
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod futex;
mod kernel;
mod life;
mod machine;
mod process;
mod sched;
mod signal;
pub mod testing;
mod thread;
mod wait;

pub use futex::Waiter;
pub use kernel::{Kernel, Parts};
pub use life::{CloneRequest, ExecRequest};
pub use machine::{Context, Machine, Regs};
pub use process::{Credentials, FsContext, Limits, Process, Status};
pub use sched::WaitOn;
pub use signal::{Actions, DefaultAction, default_action, mask_of};
pub use thread::{Restart, SavedContext, Thread, ThreadState};
pub use wait::{WaitFor, Waited};
