//! What migration needs of a machine.

use crate::{
    bitmap::Bitmap,
    memory::{Bar, Region},
};
use migrate_wire::message::DeviceId;
use std::io;

/// VFIO migration states (linux/vfio.h numbers).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum State {
    /// Stopped; nothing moves.
    Stop = 1,
    /// Runs.
    Running = 2,
    /// Stopped, its state can be read.
    StopCopy = 3,
    /// Stopped, takes a state.
    Resuming = 4,
}

/// Place of the igb among the devices.
pub const IGB: usize = 0;
/// Place of the edu.
pub const EDU: usize = 1;
/// What [`IGB`] and [`EDU`] are.
pub const DEVICES: [DeviceId; 2] =
    [DeviceId { vendor: 0x8086, device: 0x10c9 }, DeviceId { vendor: 0x1234, device: 0x11e8 }];

/// Two devices, attached to one table in which the whole region is mapped for reading and writing.
pub trait Machine: Send + Sync {
    /// The region.
    fn region(&self) -> Region;
    /// Where the region begins for the devices.
    fn iova(&self) -> u64;
    /// Whether device writes can be tracked.
    fn tracking(&self) -> bool;
    /// Begins or ends the tracking of device writes. Beginning forgets all earlier writes.
    ///
    /// # Errors
    /// Of the system call.
    fn set_tracking(&self, on: bool) -> io::Result<()>;
    /// Marks the pages that devices wrote since the last call, and forgets them.
    ///
    /// # Errors
    /// Of the system call.
    fn device_dirty(&self, out: &mut Bitmap) -> io::Result<()>;
    /// Marks the pages that CPUs wrote since the last [`cpu_clear`](Self::cpu_clear).
    ///
    /// # Errors
    /// Of the system calls.
    fn cpu_dirty(&self, out: &mut Bitmap) -> io::Result<()>;
    /// Forgets what CPUs wrote. Nobody may write between `cpu_dirty` and the return of this: the caller holds the writers.
    ///
    /// # Errors
    /// Of the system calls.
    fn cpu_clear(&self) -> io::Result<()>;
    /// Registers of a device.
    fn bar(&self, device: usize) -> &dyn Bar;
    /// Moves a device to another migration state.
    ///
    /// # Errors
    /// Of the system call.
    fn set_state(&self, device: usize, state: State) -> io::Result<()>;
    /// Reads the whole state of a device in [`State::StopCopy`].
    ///
    /// # Errors
    /// Of the system calls.
    fn save(&self, device: usize) -> io::Result<Vec<u8>>;
    /// Gives a state to a device in [`State::Resuming`] and stops it, which is where the state is checked.
    ///
    /// # Errors
    /// Of the system calls.
    fn load(&self, device: usize, state: &[u8]) -> io::Result<()>;
    /// Puts a device into the state of a fresh open: running, nothing set up.
    ///
    /// # Errors
    /// Of the system call.
    fn reset(&self, device: usize) -> io::Result<()>;
    /// Clock in nanoseconds.
    fn now(&self) -> u64;
}
