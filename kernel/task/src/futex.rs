//! Futexes.
//!
//! A waiter queues itself *before* it reads the word. So a wake-up between the store of the waker and its call finds the
//! waiter queued, or the waiter reads the new value and leaves: none is lost, and no lock is held over user memory.

use crate::{Kernel, Restart, Thread, WaitOn};
use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, Ordering};
use mm::FutexKey;
use spin::Mutex;
use uapi::{Errno, UserMem};
use vfs::Event;

/// A thread on a futex queue.
pub struct Waiter {
    /// Which queue it is on; requeueing moves it.
    key: Mutex<FutexKey>,
    bits: u32,
    woken: AtomicBool,
    event: Event,
}

/// All queues.
#[derive(Default)]
pub(crate) struct Futexes(Mutex<BTreeMap<FutexKey, VecDeque<Arc<Waiter>>>>);

impl Futexes {
    fn wake(&self, key: FutexKey, limit: u32, bits: u32) -> u32 {
        let mut queues = self.0.lock();
        let Some(queue) = queues.get_mut(&key) else { return 0 };
        let mut count = 0;
        queue.retain(|waiter| {
            if count == limit || waiter.bits & bits == 0 {
                return true;
            }
            waiter.woken.store(true, Ordering::Release);
            waiter.event.signal();
            count += 1;
            false
        });
        if queue.is_empty() {
            queues.remove(&key);
        }
        count
    }
    /// Takes a waiter off its queue; false if it was woken before.
    fn leave(&self, waiter: &Arc<Waiter>) -> bool {
        let mut queues = self.0.lock();
        let key = *waiter.key.lock();
        let Some(queue) = queues.get_mut(&key) else { return false };
        let before = queue.len();
        queue.retain(|other| !Arc::ptr_eq(other, waiter));
        let left = queue.len() < before;
        if queue.is_empty() {
            queues.remove(&key);
        }
        left
    }
    fn requeue(&self, from: FutexKey, to: FutexKey, limit: u32) -> u32 {
        if from == to {
            return 0;
        }
        let mut queues = self.0.lock();
        let Some(mut queue) = queues.remove(&from) else { return 0 };
        let count = queue.len().min(limit as usize);
        let target = queues.entry(to).or_default();
        for waiter in queue.drain(..count) {
            *waiter.key.lock() = to;
            target.push_back(waiter);
        }
        if target.is_empty() {
            queues.remove(&to);
        }
        if !queue.is_empty() {
            queues.insert(from, queue);
        }
        count as u32
    }
}

fn word(memory: &dyn UserMem, address: u64) -> Result<u32, Errno> {
    let mut bytes = [0; 4];
    memory.copy_in(address, &mut bytes)?;
    Ok(u32::from_le_bytes(bytes))
}

impl Kernel {
    /// FUTEX_WAIT and FUTEX_WAIT_BITSET, restartable: `Ok(None)` is "woken", `Ok(Some(wait))` "call again after".
    ///
    /// # Errors
    /// `EAGAIN` the word has another value; `ETIMEDOUT`; `EINVAL`, `EFAULT` for the address.
    pub fn futex_wait(
        &self,
        thread: &Thread,
        address: u64,
        value: u32,
        bits: u32,
        private: bool,
        deadline: Option<u64>,
    ) -> Result<Option<WaitOn>, Errno> {
        let restart = thread.state.lock().restart.take();
        let (waiter, deadline) = match restart {
            Some(Restart::Futex(waiter, deadline)) => (waiter, deadline),
            _ => {
                let space = thread.space().ok_or(Errno::EFAULT)?;
                if bits == 0 {
                    return Err(Errno::EINVAL);
                }
                let key = space.futex_key(address, private)?;
                let waiter =
                    Arc::new(Waiter { key: Mutex::new(key), bits, woken: AtomicBool::new(false), event: Event::new() });
                self.futexes.0.lock().entry(key).or_default().push_back(waiter.clone());
                let now = word(&*space, address);
                if now != Ok(value) && self.futexes.leave(&waiter) {
                    return Err(now.err().unwrap_or(Errno::EAGAIN));
                }
                (waiter, deadline)
            }
        };
        let ticket = waiter.event.ticket();
        if waiter.woken.load(Ordering::Acquire) {
            return Ok(None);
        }
        if deadline.is_some_and(|deadline| deadline <= self.machine.monotonic()) {
            return if self.futexes.leave(&waiter) { Err(Errno::ETIMEDOUT) } else { Ok(None) };
        }
        thread.state.lock().restart = Some(Restart::Futex(waiter, deadline));
        Ok(Some(WaitOn { tickets: [ticket].into(), deadline }))
    }
    /// The call that waited is given up (a signal, the thread's end); true if it had been woken after all.
    pub(crate) fn futex_abandon(&self, waiter: &Arc<Waiter>) -> bool {
        !self.futexes.leave(waiter)
    }
    /// Forgets what an interrupted call remembered; true if that call has in truth succeeded (a futex wake-up came).
    pub fn abandon(&self, thread: &Thread) -> bool {
        let restart = thread.state.lock().restart.take();
        match restart {
            Some(Restart::Futex(waiter, _)) => self.futex_abandon(&waiter),
            _ => false,
        }
    }
    /// FUTEX_WAKE and FUTEX_WAKE_BITSET: wakes up to `limit` waiters; returns how many.
    ///
    /// # Errors
    /// `EINVAL`, `EFAULT` for the address.
    pub fn futex_wake(
        &self,
        thread: &Thread,
        address: u64,
        limit: u32,
        bits: u32,
        private: bool,
    ) -> Result<u32, Errno> {
        if bits == 0 {
            return Err(Errno::EINVAL);
        }
        let key = thread.space().ok_or(Errno::EFAULT)?.futex_key(address, private)?;
        Ok(self.futexes.wake(key, limit, bits))
    }
    /// FUTEX_REQUEUE and FUTEX_CMP_REQUEUE: wakes up to `wake`, moves up to `limit` of the rest to `to`; returns the
    /// number woken and the number moved.
    ///
    /// # Errors
    /// `EAGAIN` the word is not `expect`; `EINVAL`, `EFAULT` for the addresses.
    pub fn futex_requeue(
        &self,
        thread: &Thread,
        (from, to): (u64, u64),
        (wake, limit): (u32, u32),
        expect: Option<u32>,
        private: bool,
    ) -> Result<(u32, u32), Errno> {
        let space = thread.space().ok_or(Errno::EFAULT)?;
        let (from_key, to_key) = (space.futex_key(from, private)?, space.futex_key(to, private)?);
        if let Some(expect) = expect
            && word(&*space, from)? != expect
        {
            return Err(Errno::EAGAIN);
        }
        let woken = self.futexes.wake(from_key, wake, u32::MAX);
        Ok((woken, self.futexes.requeue(from_key, to_key, limit)))
    }
    /// FUTEX_WAKE_OP: changes the word at `second` as `operation` says, wakes waiters of `first`, and of `second` if its
    /// old value compares as the operation says. Returns how many.
    ///
    /// # Errors
    /// `ENOSYS` for an unknown operation; `EINVAL`, `EFAULT` for the addresses.
    pub fn futex_wake_op(
        &self,
        thread: &Thread,
        (first, second): (u64, u64),
        (limit, second_limit): (u32, u32),
        operation: u32,
        private: bool,
    ) -> Result<u32, Errno> {
        let space = thread.space().ok_or(Errno::EFAULT)?;
        let (key, second_key) = (space.futex_key(first, private)?, space.futex_key(second, private)?);
        let signed = |bits: u32| ((bits << 20) as i32 >> 20) as u32;
        let mut argument = signed(operation >> 12 & 0xfff);
        let compare_with = signed(operation & 0xfff);
        if operation >> 31 != 0 {
            argument = 1u32.wrapping_shl(argument);
        }
        let old = word(&*space, second)?;
        let new = match operation >> 28 & 7 {
            0 => argument,
            1 => old.wrapping_add(argument),
            2 => old | argument,
            3 => old & !argument,
            4 => old ^ argument,
            _ => return Err(Errno::ENOSYS),
        };
        space.copy_out(second, &new.to_le_bytes())?;
        let (left, right) = (old as i32, compare_with as i32);
        let also = match operation >> 24 & 15 {
            0 => left == right,
            1 => left != right,
            2 => left < right,
            3 => left <= right,
            4 => left > right,
            5 => left >= right,
            _ => return Err(Errno::ENOSYS),
        };
        let woken = self.futexes.wake(key, limit, u32::MAX);
        Ok(woken + if also { self.futexes.wake(second_key, second_limit, u32::MAX) } else { 0 })
    }
    /// A thread ends: its word is cleared and one waiter woken (CLONE_CHILD_CLEARTID), its robust futexes are marked.
    pub(crate) fn futex_exit(&self, thread: &Thread) {
        let (clear, robust) = {
            let mut state = thread.state.lock();
            (core::mem::take(&mut state.clear_tid), core::mem::take(&mut state.robust))
        };
        let Some(space) = thread.space() else { return };
        if robust != 0 {
            let _ = self.robust_exit(thread, &*space, robust);
        }
        if clear != 0 && space.copy_out(clear, &[0; 4]).is_ok() {
            // Without the private flag on Linux; key and waiters agree either way for private memory.
            for private in [false, true] {
                if let Ok(key) = space.futex_key(clear, private) {
                    self.futexes.wake(key, 1, u32::MAX);
                }
            }
        }
    }
    /// Walks `struct robust_list_head { next; futex_offset; pending }`, at most 2048 entries, as Linux does.
    fn robust_exit(&self, thread: &Thread, memory: &dyn UserMem, head: u64) -> Result<(), Errno> {
        use uapi::linux::sched::{FUTEX_OWNER_DIED, FUTEX_TID_MASK, FUTEX_WAITERS};
        let long = |at: u64| -> Result<u64, Errno> {
            let mut bytes = [0; 8];
            memory.copy_in(at, &mut bytes)?;
            Ok(u64::from_le_bytes(bytes))
        };
        let offset = long(head.wrapping_add(8))?;
        let pending = long(head.wrapping_add(16))?;
        let release = |entry: u64| -> Result<(), Errno> {
            let address = (entry & !1).wrapping_add(offset);
            let old = word(memory, address)?;
            if old & FUTEX_TID_MASK != thread.tid {
                return Ok(());
            }
            memory.copy_out(address, &(old & FUTEX_WAITERS | FUTEX_OWNER_DIED).to_le_bytes())?;
            if old & FUTEX_WAITERS != 0 {
                let _ = self.futex_wake(thread, address, 1, u32::MAX, false);
            }
            Ok(())
        };
        let mut entry = long(head)?;
        for _ in 0..2048 {
            if entry & !1 == head {
                break;
            }
            let next = long(entry & !1)?;
            if entry & !1 != pending & !1 {
                release(entry)?;
            }
            entry = next;
        }
        if pending & !1 != 0 { release(pending) } else { Ok(()) }
    }
}
