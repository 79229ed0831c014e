//! The driver over a register file that behaves as QEMU's documentation of `edu` says.

use device_api::{Bar, Clock, Cx, Error, Function, Ids, Migratable, MsixTable, PageBytes, Services, Width};
use edu::{BUFFER, BUFFER_SIZE, Direction, Edu, Transfer, matches, transfer};
use iommu_types::{Iova, StreamId};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

const STREAM: StreamId = StreamId::pci(0, 0, 3, 0);
const IOVA: u64 = 0x0700_0000;
const MS: u64 = 1_000_000;

/// What the device and the machine around it are.
struct State {
    gone: bool,
    command: u16,
    liveness: u32,
    factorial: u32,
    status: u32,
    causes: u32,
    dma: [u64; 4],
    dma_done_at: u64,
    /// Ends every transfer if true.
    timer: bool,
    buffer: Vec<u8>,
    page: Vec<u8>,
    /// Is the device in its private domain?
    private: bool,
    interrupts: u32,
    writes: Vec<(u64, u64)>,
}

struct Machine {
    state: Arc<Mutex<State>>,
    now: AtomicU64,
}

impl Machine {
    fn new() -> Self {
        let state = State {
            gone: false,
            command: 0x0006,
            liveness: 0,
            factorial: 0,
            status: 0,
            causes: 0,
            dma: [0; 4],
            dma_done_at: 0,
            timer: true,
            buffer: vec![0; 4096],
            page: vec![0; 4096],
            private: false,
            interrupts: 0,
            writes: Vec::new(),
        };
        Self { state: Arc::new(Mutex::new(state)), now: AtomicU64::new(0) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap();
        let now = self.now.load(Ordering::Relaxed);
        if state.dma[3] & 1 != 0 && now >= state.dma_done_at && state.timer {
            let [source, target, count, command] = state.dma;
            let from_device = command & 2 != 0;
            let (bus, own) = if from_device { (target, source) } else { (source, target) };
            assert!(own >= 0x40000 && own + count <= 0x41000, "the emulator's memory is corrupted");
            let own = (own - 0x40000) as usize;
            let count = count as usize;
            // A request that the IOMMU or the missing bus mastering refuses reads zeros and writes nothing.
            let reach = state.private && state.command & 4 != 0 && bus >= IOVA && bus + count as u64 <= IOVA + 4096;
            let at = bus.wrapping_sub(IOVA) as usize;
            match (from_device, reach) {
                (true, true) => {
                    let bytes = state.buffer[own..own + count].to_vec();
                    state.page[at..at + count].copy_from_slice(&bytes);
                }
                (true, false) => {}
                (false, true) => {
                    let bytes = state.page[at..at + count].to_vec();
                    state.buffer[own..own + count].copy_from_slice(&bytes);
                }
                (false, false) => state.buffer[own..own + count].fill(0),
            }
            state.dma[3] &= !1;
            if state.dma[3] & 4 != 0 {
                state.causes |= 0x100;
                state.interrupts += 1;
            }
        }
        state
    }

    fn cx(&self) -> Cx<'_> {
        Cx { function: self, services: self }
    }
}

impl Function for Machine {
    fn stream(&self) -> StreamId {
        STREAM
    }
    fn ids(&self) -> Ids {
        Ids { vendor: 0x1234, device: 0x11e8, subsystem_vendor: 0, subsystem: 0, revision: 0x10, class: 0xff00 }
    }
    fn config_len(&self) -> u16 {
        256
    }
    fn config_read(&self, offset: u16, out: &mut [u8]) {
        assert_eq!((offset, out.len()), (4, 2));
        out.copy_from_slice(&self.state().command.to_le_bytes());
    }
    fn config_write(&self, _: u16, _: &[u8]) {
        panic!("the driver uses bus_master()");
    }
    fn bars(&self) -> [Option<Bar>; 6] {
        [None; 6]
    }
    fn bar_read(&self, bar: u8, offset: u64, width: Width) -> Result<u64, Error> {
        assert_eq!(bar, 0);
        assert!(offset >= 0x80 || width == Width::W32, "below 0x80 only 32 bits are answered");
        let state = self.state();
        if state.gone {
            return Ok(u64::MAX >> (64 - 8 * width.bytes()));
        }
        Ok(match offset {
            0x00 => 0x0100_00ed,
            0x04 => state.liveness.into(),
            0x08 => state.factorial.into(),
            0x20 => state.status.into(),
            0x24 => state.causes.into(),
            0x80 | 0x88 | 0x90 | 0x98 => state.dma[(offset as usize - 0x80) / 8],
            _ => panic!("no register {offset:#x}"),
        })
    }
    fn bar_write(&self, bar: u8, offset: u64, width: Width, value: u64) -> Result<(), Error> {
        assert_eq!(bar, 0);
        assert!(offset >= 0x80 || width == Width::W32, "below 0x80 only 32 bits are answered");
        let now = self.now.load(Ordering::Relaxed);
        let mut state = self.state();
        state.writes.push((offset, value));
        let running = state.dma[3] & 1 != 0;
        match offset {
            0x04 => state.liveness = !(value as u32),
            0x08 => {
                state.factorial = (1..=value as u32).fold(1u32, u32::wrapping_mul);
                if state.status & 0x80 != 0 {
                    state.causes |= 1;
                    state.interrupts += 1;
                }
            }
            0x20 => state.status = value as u32 & 0x80,
            0x60 => {
                state.causes |= value as u32;
                state.interrupts += 1;
            }
            0x64 => state.causes &= !(value as u32),
            0x80 | 0x88 | 0x90 if !running => state.dma[(offset as usize - 0x80) / 8] = value,
            0x98 if !running && value & 1 != 0 => {
                state.dma[3] = value;
                state.dma_done_at = now + 100 * MS;
            }
            0x80 | 0x88 | 0x90 | 0x98 => {}
            _ => panic!("no register {offset:#x}"),
        }
        Ok(())
    }
    fn can_reset(&self) -> Result<(), &'static str> {
        Err("conventional")
    }
    fn reset(&self) -> Result<(), Error> {
        Err(Error::Unsupported("conventional"))
    }
    fn bus_master(&self, on: bool) {
        let mut state = self.state();
        state.command = if on { state.command | 4 } else { state.command & !4 };
    }
    fn msix(&self) -> Option<MsixTable> {
        None
    }
}

impl Clock for Machine {
    fn now_ns(&self) -> u64 {
        self.now.load(Ordering::Relaxed)
    }
    fn relax(&self) {
        self.now.fetch_add(MS, Ordering::Relaxed);
    }
}

struct Page<'a>(&'a Machine);
impl PageBytes for Page<'_> {
    fn read(&self, offset: usize, out: &mut [u8]) -> Result<(), Error> {
        out.copy_from_slice(&self.0.state().page[offset..offset + out.len()]);
        Ok(())
    }
    fn write(&self, offset: usize, data: &[u8]) -> Result<(), Error> {
        self.0.state().page[offset..offset + data.len()].copy_from_slice(data);
        Ok(())
    }
}

impl Services for Machine {
    fn with_private_page(&self, f: &mut dyn FnMut(Iova, &dyn PageBytes) -> Result<(), Error>) -> Result<(), Error> {
        {
            let mut state = self.state();
            assert_eq!(state.dma[3] & 1, 0, "quiet when it enters the private domain");
            state.page.fill(0);
            state.private = true;
        }
        let result = f(Iova(IOVA), &Page(self));
        let mut state = self.state();
        assert_eq!(state.dma[3] & 1, 0, "quiet when it leaves the private domain");
        assert_eq!(state.command & 4, 0, "cut off when it leaves the private domain");
        state.private = false;
        result
    }
}

fn pattern(seed: u8) -> Vec<u8> {
    (0..4096u32).map(|i| (i.wrapping_mul(31) >> 3) as u8 ^ seed).collect()
}

/// A device in use: every register and the buffer hold something.
fn used() -> Machine {
    let machine = Machine::new();
    machine.w32(0, 0x04, 0x1234_5678).unwrap();
    machine.w32(0, 0x08, 10).unwrap();
    machine.w32(0, 0x20, 0x80).unwrap();
    machine.w32(0, 0x60, 0x42).unwrap();
    for (register, value) in [(0x80, 0xaa55_0000_1000u64), (0x88, 0x4_0010), (0x90, 32)] {
        machine.bar_write(0, register, Width::W64, value).unwrap();
    }
    machine.state().buffer = pattern(9);
    machine
}

fn save(driver: &mut Edu, machine: &Machine) -> Vec<u8> {
    let mut out = Vec::new();
    driver
        .save(&machine.cx(), &mut |bytes| {
            out.extend_from_slice(bytes);
            Ok(())
        })
        .unwrap();
    out
}

fn saved() -> Vec<u8> {
    let machine = used();
    let mut driver = Edu::new();
    driver.stop(&machine.cx()).unwrap();
    save(&mut driver, &machine)
}

#[test]
fn a_device_moves_with_its_registers_and_its_buffer() {
    let data = saved();
    assert!(data.len() <= Edu::new().max_state_bytes());
    let there = Machine::new();
    let mut driver = Edu::new();
    driver.stop(&there.cx()).unwrap();
    driver.begin_load(&there.cx()).unwrap();
    driver.load(&there.cx(), &data).unwrap();
    {
        let state = there.state();
        assert_eq!(state.buffer, pattern(9));
        assert_eq!((state.liveness, state.factorial, state.status, state.causes), (!0x1234_5678, 3628800, 0x80, 0x42));
        assert_eq!(state.dma[..3], [0xaa55_0000_1000, 0x4_0010, 32]);
        assert_eq!(state.command & 4, 0, "still cut off");
    }
    driver.resume(&there.cx()).unwrap();
    assert_eq!(there.state().command & 4, 4, "the source had bus mastering on");
}

#[test]
fn a_saved_device_goes_on_where_it_was() {
    let machine = used();
    let mut driver = Edu::new();
    driver.stop(&machine.cx()).unwrap();
    assert_eq!(machine.state().command & 4, 0);
    driver.stop(&machine.cx()).unwrap();
    let first = save(&mut driver, &machine);
    assert_eq!(save(&mut driver, &machine), first, "saving changes nothing that is saved");
    driver.resume(&machine.cx()).unwrap();
    let state = machine.state();
    assert_eq!(state.buffer, pattern(9));
    assert_eq!(state.dma[..3], [0xaa55_0000_1000, 0x4_0010, 32]);
    assert_eq!(state.command & 4, 4);
    assert_eq!(state.interrupts, 1, "the one the program raised");
}

#[test]
fn bus_mastering_that_was_off_stays_off() {
    let machine = used();
    machine.bus_master(false);
    let mut driver = Edu::new();
    driver.stop(&machine.cx()).unwrap();
    let data = save(&mut driver, &machine);
    driver.resume(&machine.cx()).unwrap();
    assert_eq!(machine.state().command & 4, 0);
    let there = Machine::new();
    driver.begin_load(&there.cx()).unwrap();
    driver.load(&there.cx(), &data).unwrap();
    driver.resume(&there.cx()).unwrap();
    assert_eq!(there.state().command & 4, 0);
}

#[test]
fn stop_waits_for_the_transfer_under_way() {
    let machine = used();
    machine.bar_write(0, 0x98, Width::W64, 1).unwrap();
    let mut driver = Edu::new();
    driver.stop(&machine.cx()).unwrap();
    assert!((100 * MS..200 * MS).contains(&machine.now_ns()));
    assert_eq!(machine.state().dma[3] & 1, 0);
}

#[test]
fn a_transfer_that_never_ends_is_stuck_within_two_seconds() {
    let machine = used();
    machine.state().timer = false;
    machine.bar_write(0, 0x98, Width::W64, 3).unwrap();
    let result = Edu::new().stop(&machine.cx());
    assert_eq!(
        result,
        Err(Error::Stuck { stream: STREAM, register: "edu DMA command, bit 0 (running)", want: 0, got: 1 })
    );
    assert!((2000 * MS..2100 * MS).contains(&machine.now_ns()));
}

#[test]
fn a_device_that_is_gone_is_lost() {
    let machine = used();
    machine.state().gone = true;
    assert_eq!(Edu::new().stop(&machine.cx()), Err(Error::Lost(STREAM)));
    assert_eq!(Edu::new().reset(&machine.cx()), Err(Error::Lost(STREAM)));
}

#[test]
fn save_of_a_running_device_is_refused() {
    let machine = used();
    let result = Edu::new().save(&machine.cx(), &mut |_| Ok(()));
    assert_eq!(result, Err(Error::Invalid("save of a device that is not stopped")));
}

#[test]
fn a_sink_that_refuses_is_passed_on() {
    let machine = used();
    let mut driver = Edu::new();
    driver.stop(&machine.cx()).unwrap();
    assert_eq!(driver.save(&machine.cx(), &mut |_| Err(Error::Sink(28))), Err(Error::Sink(28)));
    driver.resume(&machine.cx()).unwrap();
}

#[test]
fn bad_data_is_refused_before_the_device_is_touched() {
    let data = saved();
    let there = Machine::new();
    let mut driver = Edu::new();
    driver.begin_load(&there.cx()).unwrap();
    there.state().writes.clear();
    for end in 0..data.len() {
        assert!(matches!(driver.load(&there.cx(), &data[..end]), Err(Error::BadState { .. })), "cut at {end}");
    }
    for bit in (0..data.len() * 8).step_by(5) {
        let mut bent = data.clone();
        bent[bit / 8] ^= 1 << (bit % 8);
        assert!(matches!(driver.load(&there.cx(), &bent), Err(Error::BadState { .. })), "bit {bit}");
    }
    assert_eq!(there.state().writes, []);
}

#[test]
fn data_that_no_device_can_have_had_is_refused() {
    let load = |words: [u32; 11], content: &[u8], extra: bool| {
        let mut writer = device_api::state::Writer::new(0x1234_11e8, 1);
        writer.words(1, &words);
        writer.section(2, content);
        if extra {
            writer.section(3, &[]);
        }
        let there = Machine::new();
        Edu::new().load(&there.cx(), &writer.finish())
    };
    let good = [6, 0, 1, 0x80, 0, 0, 0, 0, 0, 0, 0];
    let with = |at: usize, value: u32| {
        let mut words = good;
        words[at] = value;
        words
    };
    let page = [0; 4096];
    assert_eq!(load(good, &page, false), Ok(()));
    let refused = |section, reason| Err(Error::BadState { section, reason });
    assert_eq!(load(with(0, 0x100), &page, false), refused(1, "command register with bits that are not the program's"));
    assert_eq!(load(with(2, 7), &page, false), refused(1, "factorial that is none"));
    assert_eq!(load(with(3, 1), &page, false), refused(1, "status of a device that is not idle"));
    assert_eq!(load(good, &page[..4095], false), refused(2, "wrong length"));
    assert_eq!(load(good, &page, true), refused(3, "unknown section"));
}

#[test]
fn reset_leaves_nothing_of_the_last_owner() {
    let machine = used();
    Edu::new().reset(&machine.cx()).unwrap();
    let state = machine.state();
    assert_eq!(state.buffer, vec![0; 4096]);
    assert_eq!((state.liveness, state.factorial, state.status, state.causes), (0, 0, 0, 0));
    assert_eq!(state.dma[..3], [0; 3]);
    assert_eq!(state.command & 4, 0);
}

#[test]
fn an_address_past_the_buffer_is_refused_before_it_is_written() {
    let machine = Machine::new();
    machine.state().writes.clear();
    let cases = [
        (BUFFER - 1, 1, "DMA past the device's buffer"),
        (BUFFER, BUFFER_SIZE + 1, "DMA past the device's buffer"),
        (BUFFER + BUFFER_SIZE, 1, "DMA past the device's buffer"),
        (BUFFER + 1, BUFFER_SIZE, "DMA past the device's buffer"),
        (u64::MAX, 2, "DMA past the device's buffer"),
        (0, 16, "DMA past the device's buffer"),
        (BUFFER, 0, "DMA of no bytes"),
    ];
    for direction in [Direction::ToDevice, Direction::FromDevice] {
        for (buffer, count, reason) in cases {
            let what = Transfer { bus: IOVA, buffer, count, direction };
            assert_eq!(transfer(&machine, &machine, &what), Err(Error::Invalid(reason)));
        }
    }
    assert_eq!(machine.state().writes, []);
    let last = Transfer { bus: IOVA, buffer: BUFFER + BUFFER_SIZE - 1, count: 1, direction: Direction::FromDevice };
    assert_eq!(transfer(&machine, &machine, &last), Ok(()));
}

#[test]
fn a_second_transfer_does_not_disturb_the_first() {
    let machine = used();
    machine.bar_write(0, 0x98, Width::W64, 1).unwrap();
    let what = Transfer { bus: IOVA, buffer: BUFFER, count: 8, direction: Direction::FromDevice };
    assert!(matches!(transfer(&machine, &machine, &what), Err(Error::Stuck { got: 1, .. })));
}

#[test]
fn the_driver_is_for_edu_only() {
    let ids = Machine::new().ids();
    assert!(matches(&ids));
    assert!(!matches(&Ids { device: 0x11e9, ..ids }));
    assert_eq!(Edu::new().name(), "edu");
    assert!(!Edu::new().unreadable().is_empty());
}
