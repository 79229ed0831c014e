//! The real machine: /dev/iommu and /dev/vfio/devices.

use crate::{
    bitmap::Bitmap,
    machine::{DEVICES, Machine, State},
    memory::{Bar, Region, Window},
    sys::{self, cmd},
};
use migrate_wire::message::DeviceId;
use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::FileExt,
    },
    sync::{Mutex, PoisonError},
    time::Instant,
};

/// Where the region is mapped for the devices: above 4 GiB, so that a lost upper half of an address shows; inside 39 bits.
pub const IOVA: u64 = 0x1_0000_0000;
/// Device numbers that are tried.
const NUMBERS: u32 = 64;
/// Configuration space: command register, memory space and bus master.
const COMMAND: u64 = 4;
const COMMAND_ON: u16 = 1 << 1 | 1 << 2;

/// An error and what was being done.
pub fn context<T>(result: io::Result<T>, what: impl std::fmt::Display) -> Result<T, String> {
    result.map_err(|error| format!("{what}: {error}"))
}

/// An open /dev/iommu.
pub struct Iommu {
    /// The file.
    pub file: OwnedFd,
}

impl Iommu {
    /// Opens it.
    ///
    /// # Errors
    /// A message for the user.
    pub fn open() -> Result<Self, String> {
        let file = OpenOptions::new().read(true).write(true).open("/dev/iommu");
        Ok(Self { file: context(file, "/dev/iommu")?.into() })
    }
    /// A new IOAS; its id.
    ///
    /// # Errors
    /// Of the ioctl.
    pub fn ioas(&self) -> io::Result<u32> {
        let mut arg = sys::IoasAlloc::new();
        sys::ioctl(&self.file, cmd::IOAS_ALLOC, &mut arg)?;
        Ok(arg.out_ioas_id)
    }
    /// Maps with 4 KiB pages only.
    ///
    /// # Errors
    /// Of the ioctl.
    pub fn no_huge_pages(&self, ioas: u32) -> io::Result<()> {
        let mut arg = sys::OptionArg {
            option_id: sys::OPTION_HUGE_PAGES,
            op: 0,
            object_id: ioas,
            val64: 0,
            ..sys::OptionArg::new()
        };
        sys::ioctl(&self.file, cmd::OPTION, &mut arg).map(|_| ())
    }
    /// Maps memory at a fixed iova.
    ///
    /// # Errors
    /// Of the ioctl.
    pub fn map(&self, ioas_id: u32, flags: u32, user_va: u64, length: u64, iova: u64) -> io::Result<()> {
        let mut arg = sys::IoasMap { flags, ioas_id, user_va, length, iova, ..sys::IoasMap::new() };
        sys::ioctl(&self.file, cmd::IOAS_MAP, &mut arg).map(|_| ())
    }
    /// Unmaps; the bytes that were mapped.
    ///
    /// # Errors
    /// Of the ioctl.
    pub fn unmap(&self, ioas_id: u32, iova: u64, length: u64) -> io::Result<u64> {
        let mut arg = sys::IoasUnmap { ioas_id, iova, length, ..sys::IoasUnmap::new() };
        sys::ioctl(&self.file, cmd::IOAS_UNMAP, &mut arg)?;
        Ok(arg.length)
    }
    /// A new table for a device; its id.
    ///
    /// # Errors
    /// Of the ioctl; EOPNOTSUPP if `flags` ask for tracking that the unit has not.
    pub fn hwpt(&self, dev_id: u32, pt_id: u32, flags: u32) -> io::Result<u32> {
        let mut arg = sys::HwptAlloc { flags, dev_id, pt_id, ..sys::HwptAlloc::new() };
        sys::ioctl(&self.file, cmd::HWPT_ALLOC, &mut arg)?;
        Ok(arg.out_hwpt_id)
    }
    /// Destroys an object.
    ///
    /// # Errors
    /// Of the ioctl.
    pub fn destroy(&self, id: u32) -> io::Result<()> {
        sys::ioctl(&self.file, cmd::DESTROY, &mut sys::Destroy { id, ..sys::Destroy::new() }).map(|_| ())
    }
    /// Tracking of device writes on or off.
    ///
    /// # Errors
    /// Of the ioctl.
    pub fn set_dirty(&self, hwpt_id: u32, on: bool) -> io::Result<()> {
        let mut arg = sys::SetDirty { flags: on.into(), hwpt_id, ..sys::SetDirty::new() };
        sys::ioctl(&self.file, cmd::SET_DIRTY, &mut arg).map(|_| ())
    }
}

/// An open VFIO device, bound to an iommufd.
pub struct Device {
    file: File,
    /// Its id in the iommufd.
    pub id: u32,
    /// What it is.
    pub ids: DeviceId,
    bar: Window,
    /// Data descriptor of the current saving or resuming session.
    data: Mutex<Option<File>>,
}

impl Device {
    /// Finds the first device with these ids among /dev/vfio/devices, binds it and maps BAR 0.
    ///
    /// # Errors
    /// A message for the user.
    pub fn find(iommu: &Iommu, want: DeviceId) -> Result<Self, String> {
        let name = format!("{:04x}:{:04x}", want.vendor, want.device);
        let mut busy = None;
        for number in 0..NUMBERS {
            let path = format!("/dev/vfio/devices/vfio{number}");
            let file = match OpenOptions::new().read(true).write(true).open(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => {
                    busy = Some(format!("{path}: {error}"));
                    continue;
                }
            };
            let mut bind = sys::Bind { iommufd: iommu.file.as_raw_fd(), ..sys::Bind::new() };
            if let Err(error) = sys::ioctl(&file, cmd::BIND, &mut bind) {
                busy = Some(format!("{path}: bind: {error}"));
                continue;
            }
            let config = context(region(&file, sys::REGION_CONFIG), format_args!("{path}: configuration space"))?;
            let mut raw = [0; 4];
            context(file.read_exact_at(&mut raw, config.offset), format_args!("{path}: configuration space"))?;
            let ids =
                DeviceId { vendor: u16::from_le_bytes([raw[0], raw[1]]), device: u16::from_le_bytes([raw[2], raw[3]]) };
            if ids != want {
                continue;
            }
            let on = || -> io::Result<Window> {
                let mut command = [0; 2];
                file.read_exact_at(&mut command, config.offset + COMMAND)?;
                let command = u16::from_le_bytes(command) | COMMAND_ON;
                file.write_all_at(&command.to_le_bytes(), config.offset + COMMAND)?;
                let bar = region(&file, 0)?;
                sys::map_window(&file, bar.offset, bar.length as usize)
            };
            let bar = context(on(), format_args!("{path} ({name})"))?;
            return Ok(Self { file, id: bind.out_devid, ids, bar, data: Mutex::new(None) });
        }
        let busy = busy.map(|why| format!(" ({why})")).unwrap_or_default();
        Err(format!("no device {name} among /dev/vfio/devices{busy}"))
    }
    /// The file's descriptor, for calls that only checks make.
    pub fn raw_fd(&self) -> i32 {
        self.file.as_raw_fd()
    }
    /// Registers of BAR 0.
    pub fn bar(&self) -> &dyn Bar {
        &self.bar
    }
    /// Attaches to a table or an IOAS; the table's id.
    ///
    /// # Errors
    /// Of the ioctl.
    pub fn attach(&self, pt_id: u32) -> io::Result<u32> {
        let mut arg = sys::Attach { pt_id, ..sys::Attach::new() };
        sys::ioctl(&self.file, cmd::ATTACH, &mut arg)?;
        Ok(arg.pt_id)
    }
    /// Detaches.
    ///
    /// # Errors
    /// Of the ioctl.
    pub fn detach(&self) -> io::Result<()> {
        sys::ioctl(&self.file, cmd::DETACH, &mut sys::Detach::new()).map(|_| ())
    }
    /// Resets, and switches memory space and bus mastering on again.
    ///
    /// # Errors
    /// Of the system calls.
    pub fn reset(&self) -> io::Result<()> {
        *self.data.lock().unwrap_or_else(PoisonError::into_inner) = None;
        sys::ioctl_none(&self.file, cmd::RESET)?;
        let config = region(&self.file, sys::REGION_CONFIG)?;
        let mut command = [0; 2];
        self.file.read_exact_at(&mut command, config.offset + COMMAND)?;
        let command = u16::from_le_bytes(command) | COMMAND_ON;
        self.file.write_all_at(&command.to_le_bytes(), config.offset + COMMAND)
    }
    /// VFIO_DEVICE_FEATURE_MIGRATION's flags.
    ///
    /// # Errors
    /// ENOTTY if the device has no migration support.
    pub fn migration(&self) -> io::Result<u64> {
        let mut arg = sys::Migration { flags: sys::FEATURE_MIGRATION_GET, ..sys::Migration::new() };
        sys::ioctl(&self.file, cmd::FEATURE, &mut arg)?;
        Ok(arg.migration_flags)
    }
    /// Moves to a migration state; keeps the data descriptor if there is one.
    ///
    /// # Errors
    /// Of the ioctl.
    pub fn set_state(&self, state: State) -> io::Result<()> {
        let flags = sys::FEATURE_MIG_STATE_SET;
        let mut arg = sys::MigState { flags, device_state: state as u32, data_fd: -1, ..sys::MigState::new() };
        sys::ioctl(&self.file, cmd::FEATURE, &mut arg)?;
        let mut data = self.data.lock().unwrap_or_else(PoisonError::into_inner);
        *data = match state {
            State::StopCopy | State::Resuming => Some(sys::adopt_fd(arg.data_fd)?),
            State::Stop | State::Running => None,
        };
        Ok(())
    }
    /// Reads the state until its end.
    ///
    /// # Errors
    /// Of the read; EBADF outside of [`State::StopCopy`].
    pub fn save(&self) -> io::Result<Vec<u8>> {
        let mut data = self.data.lock().unwrap_or_else(PoisonError::into_inner);
        let file = data.as_mut().ok_or(io::Error::from_raw_os_error(libc::EBADF))?;
        let (mut state, mut piece) = (Vec::new(), vec![0; 64 * 1024]);
        loop {
            match file.read(&mut piece)? {
                0 => return Ok(state),
                count => state.extend(&piece[..count]),
            }
        }
    }
    /// Writes a state and stops the device, which checks it.
    ///
    /// # Errors
    /// Of the write; EBADF outside of [`State::Resuming`]; of the change to [`State::Stop`].
    pub fn load(&self, state: &[u8]) -> io::Result<()> {
        {
            let mut data = self.data.lock().unwrap_or_else(PoisonError::into_inner);
            data.as_mut().ok_or(io::Error::from_raw_os_error(libc::EBADF))?.write_all(state)?;
        }
        self.set_state(State::Stop)
    }
}

fn region(file: &File, index: u32) -> io::Result<sys::RegionInfo> {
    let mut info = sys::RegionInfo { index, ..sys::RegionInfo::new() };
    sys::ioctl(file, cmd::REGION_INFO, &mut info)?;
    Ok(info)
}

/// igb and edu behind one table.
pub struct Real {
    iommu: Iommu,
    devices: Vec<Device>,
    region: Region,
    hwpt: u32,
    tracking: bool,
    pagemap: File,
    clear_refs: File,
    begun: Instant,
}

/// Soft-dirty in an entry of /proc/self/pagemap (Documentation/admin-guide/mm/soft-dirty).
const SOFT_DIRTY: u64 = 1 << 55;

impl Real {
    /// Opens everything, maps a region of `bytes` bytes and attaches both devices. `prepare` fills the region before it is mapped.
    ///
    /// # Errors
    /// A message for the user.
    pub fn open(bytes: u64, prepare: impl FnOnce(&Region)) -> Result<Self, String> {
        let iommu = Iommu::open()?;
        let ioas = context(iommu.ioas(), "IOMMU_IOAS_ALLOC")?;
        let devices = DEVICES.iter().map(|ids| Device::find(&iommu, *ids)).collect::<Result<Vec<_>, _>>()?;
        for device in &devices {
            let what =
                format_args!("{:04x}:{:04x}: migration states", device.ids.vendor, device.ids.device).to_string();
            context(device.migration(), what)?;
            context(device.reset(), format_args!("{:04x}:{:04x}: reset", device.ids.vendor, device.ids.device))?;
        }
        let length = usize::try_from(bytes).map_err(|_| "the region is too large".to_owned())?;
        let region = Region::new(context(sys::map_memory(length), "memory for the region")?);
        prepare(&region);
        context(iommu.no_huge_pages(ioas), "IOMMU_OPTION_HUGE_PAGES")?;
        context(iommu.map(ioas, sys::MAP_FIXED_RW, region.address(), bytes, IOVA), "IOMMU_IOAS_MAP")?;
        let (hwpt, tracking) = match iommu.hwpt(devices[0].id, ioas, sys::HWPT_DIRTY_TRACKING) {
            Ok(hwpt) => (hwpt, true),
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                (context(iommu.hwpt(devices[0].id, ioas, 0), "IOMMU_HWPT_ALLOC")?, false)
            }
            Err(error) => return Err(format!("IOMMU_HWPT_ALLOC: {error}")),
        };
        for device in &devices {
            context(device.attach(hwpt), format_args!("{:04x}:{:04x}: attach", device.ids.vendor, device.ids.device))?;
        }
        let pagemap = context(File::open("/proc/self/pagemap"), "/proc/self/pagemap")?;
        let clear_refs = OpenOptions::new().write(true).open("/proc/self/clear_refs");
        let clear_refs = context(clear_refs, "/proc/self/clear_refs")?;
        Ok(Self { iommu, devices, region, hwpt, tracking, pagemap, clear_refs, begun: Instant::now() })
    }
}

impl Machine for Real {
    fn region(&self) -> Region {
        self.region
    }
    fn iova(&self) -> u64 {
        IOVA
    }
    fn tracking(&self) -> bool {
        self.tracking
    }
    fn set_tracking(&self, on: bool) -> io::Result<()> {
        self.iommu.set_dirty(self.hwpt, on)
    }
    fn device_dirty(&self, out: &mut Bitmap) -> io::Result<()> {
        let pages = out.pages();
        sys::get_dirty(&self.iommu.file, self.hwpt, IOVA, out.words_mut(), pages)
    }
    fn cpu_dirty(&self, out: &mut Bitmap) -> io::Result<()> {
        let mut entries = vec![0; 8 * 4096];
        let (first, pages) = (self.region.address() / 4096, self.region.pages());
        let mut page = 0;
        while page < pages {
            let count = (pages - page).min(4096);
            let entries = &mut entries[..8 * count as usize];
            self.pagemap.read_exact_at(entries, (first + u64::from(page)) * 8)?;
            for (entry, at) in entries.as_chunks::<8>().0.iter().zip(page..) {
                if u64::from_le_bytes(*entry) & SOFT_DIRTY != 0 {
                    out.set(at);
                }
            }
            page += count;
        }
        Ok(())
    }
    fn cpu_clear(&self) -> io::Result<()> {
        (&self.clear_refs).write_all(b"4")
    }
    fn bar(&self, device: usize) -> &dyn Bar {
        self.devices[device].bar()
    }
    fn set_state(&self, device: usize, state: State) -> io::Result<()> {
        self.devices[device].set_state(state)
    }
    fn save(&self, device: usize) -> io::Result<Vec<u8>> {
        self.devices[device].save()
    }
    fn load(&self, device: usize, state: &[u8]) -> io::Result<()> {
        self.devices[device].load(state)
    }
    fn reset(&self, device: usize) -> io::Result<()> {
        self.devices[device].reset()
    }
    fn now(&self) -> u64 {
        self.begun.elapsed().as_nanos() as u64
    }
}
