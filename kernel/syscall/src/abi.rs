//! What differs between architectures: which register is what, which number is which call, what a signal frame looks
//! like. One file per architecture.

mod x86_64;

pub use x86_64::X86_64;

use crate::Errno;
use task::Regs;
use uapi::UserMem;
use uapi::linux::abi::Layout;
use uapi::linux::nr::Call;
use uapi::linux::signal::{AltStack, SigAction, SigInfo};

/// What a signal handler is started with.
pub struct SignalFrame<'a> {
    /// Registers to come back to.
    pub regs: &'a Regs,
    /// Mask to come back to.
    pub mask: u64,
    /// The action.
    pub action: SigAction,
    /// The signal.
    pub info: SigInfo,
    /// Alternate stack of the thread, and whether to use it.
    pub alt_stack: AltStack,
    /// The frame goes below this address.
    pub below: u64,
}

/// What a signal frame says to go back to.
pub struct Popped {
    /// Registers.
    pub regs: Regs,
    /// Mask of blocked signals.
    pub mask: u64,
    /// The frame's address: it names the floating-point state kept aside.
    pub frame: u64,
}

/// The system-call convention of one architecture.
pub struct Abi {
    /// Layouts that differ.
    pub layout: Layout,
    /// Call by number.
    pub call: fn(u64) -> Option<Call>,
    /// The number in the registers.
    pub number: fn(&Regs) -> u64,
    /// The arguments in the registers.
    pub arguments: fn(&Regs) -> [u64; 6],
    /// Stores a result.
    pub set_result: fn(&mut Regs, i64),
    /// Bytes of the system-call instruction: how far back the call is made again.
    pub instruction: u64,
    /// Writes a signal frame; returns the registers the handler starts with.
    pub push_frame: fn(&dyn UserMem, &SignalFrame) -> Result<Regs, Errno>,
    /// Reads the frame of the handler that returns.
    pub pop_frame: fn(&dyn UserMem, &Regs) -> Result<Popped, Errno>,
}
