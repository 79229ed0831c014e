//! x86-64: `syscall`, number in rax, arguments in rdi rsi rdx r10 r8 r9, result in rax.

use super::{Abi, Popped, SignalFrame};
use crate::Errno;
use core::mem::size_of;
use task::Regs;
use uapi::UserMem;
use uapi::linux::signal::{SA_RESTORER, SigContextX86, SigInfo, UContextX86};
use uapi::linux::{abi, nr};
use zerocopy::{FromBytes, IntoBytes};

/// Numbers of registers in the instruction encoding.
mod reg {
    pub const RAX: usize = 0;
    pub const RCX: usize = 1;
    pub const RDX: usize = 2;
    pub const RBX: usize = 3;
    pub const RBP: usize = 5;
    pub const RSI: usize = 6;
    pub const RDI: usize = 7;
    pub const R8: usize = 8;
    pub const R9: usize = 9;
    pub const R10: usize = 10;
}

/// The convention of x86-64.
pub static X86_64: Abi = Abi {
    layout: abi::X86_64,
    call: nr::x86_64,
    number: |regs| regs.gpr[reg::RAX],
    arguments: |regs| [reg::RDI, reg::RSI, reg::RDX, reg::R10, reg::R8, reg::R9].map(|at| regs.gpr[at]),
    set_result: |regs, value| regs.gpr[reg::RAX] = value as u64,
    instruction: 2,
    push_frame,
    pop_frame,
};

/// The return address, then the context, then the information: `struct rt_sigframe`.
const FRAME: u64 = (8 + size_of::<UContextX86>() + size_of::<SigInfo>()) as u64;
/// Bytes below the stack pointer that a function may use without moving it.
const RED_ZONE: u64 = 128;
/// Direction and trap flag: off in a handler.
const CLEARED_FLAGS: u64 = 0x500;

fn push_frame(memory: &dyn UserMem, frame: &SignalFrame) -> Result<Regs, Errno> {
    // Without a restorer there is no way back from the handler: Linux refuses too.
    if frame.action.flags & SA_RESTORER == 0 {
        return Err(Errno::EFAULT);
    }
    let below = if frame.below == frame.regs.sp { frame.below.wrapping_sub(RED_ZONE) } else { frame.below };
    // As after a call: 8 below a multiple of 16.
    let at = (below.checked_sub(FRAME).ok_or(Errno::EFAULT)? & !15).wrapping_sub(8);
    let g = &frame.regs.gpr;
    let mut context = SigContextX86 {
        rdi: g[reg::RDI],
        rsi: g[reg::RSI],
        rbp: g[reg::RBP],
        rbx: g[reg::RBX],
        rdx: g[reg::RDX],
        rax: g[reg::RAX],
        rcx: g[reg::RCX],
        rsp: frame.regs.sp,
        rip: frame.regs.ip,
        flags: frame.regs.flags,
        segments: 0x2b_0000_0000_0033,
        old_mask: frame.mask,
        ..SigContextX86::default()
    };
    context.r8_15.copy_from_slice(&g[8..16]);
    if frame.info.signo == 11 || frame.info.signo == 7 {
        (context.cr2, context.trap) = (frame.info.first, 14);
    }
    let user = UContextX86 { stack: frame.alt_stack, context, mask: frame.mask, ..UContextX86::default() };
    let (user_at, info_at) = (at.wrapping_add(8), at.wrapping_add(8 + size_of::<UContextX86>() as u64));
    memory.copy_out(at, &frame.action.restorer.to_le_bytes())?;
    memory.copy_out(user_at, user.as_bytes())?;
    memory.copy_out(info_at, frame.info.as_bytes())?;
    let mut regs = *frame.regs;
    regs.gpr[reg::RDI] = u64::from(frame.info.signo as u32);
    regs.gpr[reg::RSI] = info_at;
    regs.gpr[reg::RDX] = user_at;
    regs.gpr[reg::RAX] = 0;
    (regs.ip, regs.sp) = (frame.action.handler, at);
    regs.flags &= !CLEARED_FLAGS;
    Ok(regs)
}

fn pop_frame(memory: &dyn UserMem, regs: &Regs) -> Result<Popped, Errno> {
    // The handler's return took the return address off.
    let at = regs.sp.wrapping_sub(8);
    let mut bytes = [0; size_of::<UContextX86>()];
    memory.copy_in(regs.sp, &mut bytes)?;
    let user = UContextX86::read_from_bytes(&bytes).map_err(|_| Errno::EFAULT)?;
    let context = user.context;
    let mut back = *regs;
    for (at, value) in [
        (reg::RDI, context.rdi),
        (reg::RSI, context.rsi),
        (reg::RBP, context.rbp),
        (reg::RBX, context.rbx),
        (reg::RDX, context.rdx),
        (reg::RAX, context.rax),
        (reg::RCX, context.rcx),
    ] {
        back.gpr[at] = value;
    }
    back.gpr[8..16].copy_from_slice(&context.r8_15);
    (back.sp, back.ip, back.flags) = (context.rsp, context.rip, context.flags);
    Ok(Popped { regs: back, mask: user.mask, frame: at })
}
