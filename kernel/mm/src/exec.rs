//! Programs: static ELF files, ET_EXEC and static-PIE, and the stack a program starts with.
//!
//! What is refused is `ENOEXEC`, with the reason in the log.

use crate::map::anonymous;
use crate::space::{page_range, round_up};
use crate::vma::{Kind, Vma};
use crate::{AddressSpace, Errno, MMAP_MIN, PAGE, Prot, USER_END};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use elf::endian::LittleEndian;
use elf::file::{Class, FileHeader};
use elf::segment::{ProgramHeader, SegmentTable};
use uapi::UserMem;
use uapi::linux::sched::*;
use vfs::OpenFile;

/// A program and what it is started with.
pub struct Program<'a> {
    /// The file.
    pub file: Arc<OpenFile>,
    /// AT_EXECFN: the name it was started by.
    pub name: &'a [u8],
    /// Arguments, without the zero at the end.
    pub argv: &'a [Vec<u8>],
    /// Environment, likewise.
    pub envp: &'a [Vec<u8>],
    /// `e_machine` that the CPU runs.
    pub machine: u16,
    /// AT_HWCAP, AT_HWCAP2.
    pub hwcap: [u64; 2],
    /// AT_PLATFORM.
    pub platform: &'a str,
    /// AT_RANDOM.
    pub random: [u8; 16],
    /// AT_MINSIGSTKSZ in bytes.
    pub min_signal_stack: u64,
}

/// Where a program starts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Start {
    /// First instruction.
    pub entry: u64,
    /// Stack pointer.
    pub stack: u64,
}

/// Bytes of an ELF64 header, and of one program header.
const EHDR: usize = 64;
const PHDR: usize = 56;
/// Most program headers looked at.
const MAX_PHDRS: usize = 128;
/// Where a static-PIE goes, before its alignment is taken off.
const PIE_BASE: u64 = 0x5555_5555_4000;
/// Largest alignment of a segment.
const MAX_ALIGN: u64 = 1 << 30;
/// First address after the stack.
const STACK_TOP: u64 = USER_END - PAGE;
/// How far the stack may grow, bytes (RLIMIT_STACK).
const STACK_LIMIT: u64 = 8 << 20;
/// Stack that is mapped at the start beyond what arguments need, bytes.
const STACK_START: u64 = 128 << 10;
/// Most bytes of arguments and environment, with their pointers: a quarter of the stack, as on Linux.
const ARGS_LIMIT: usize = (STACK_LIMIT / 4) as usize;
/// Longest single string.
const ARG_LIMIT: usize = 128 << 10;

struct Segment {
    start: u64,
    /// End of the bytes from the file, of the memory.
    file_end: u64,
    end: u64,
    offset: u64,
    prot: Prot,
}

struct Image {
    segments: Vec<Segment>,
    entry: u64,
    phdr: u64,
    phnum: u64,
    stack_exec: bool,
}

/// Loads `program` into `space`, which is empty.
///
/// # Errors
/// `ENOEXEC` not a program that can run here (the log says why); `E2BIG` arguments; `ENOMEM`.
pub fn load(space: &AddressSpace, program: &Program) -> Result<Start, Errno> {
    let image = read(program).map_err(|reason| {
        log::warn!("exec {}: {reason}", String::from_utf8_lossy(program.name));
        Errno::ENOEXEC
    })?;
    for segment in &image.segments {
        space.map_segment(&program.file, segment)?;
    }
    let brk = image.segments.last().and_then(|segment| round_up(segment.end)).unwrap_or(MMAP_MIN);
    space.lock().brk = (brk, brk);
    let stack = space.make_stack(program, &image)?;
    Ok(Start { entry: image.entry, stack })
}

fn read_exact(file: &OpenFile, at: u64, to: &mut [u8]) -> Result<(), &'static str> {
    let mut done = 0;
    while done < to.len() {
        match file.file.read(at + done as u64, &mut to[done..]) {
            Ok(0) => return Err("the file is cut short"),
            Ok(count) => done += count,
            Err(_) => return Err("the file cannot be read"),
        }
    }
    Ok(())
}

fn read(program: &Program) -> Result<Image, &'static str> {
    let file = &*program.file;
    let mut bytes = [0; EHDR];
    read_exact(file, 0, &mut bytes)?;
    if bytes[..4] != *b"\x7fELF" {
        return Err("not an ELF file");
    }
    let ident = elf::file::parse_ident::<LittleEndian>(&bytes).map_err(|_| "ELF: not little-endian, or bad ident")?;
    let header = FileHeader::parse_tail(ident, &bytes[16..]).map_err(|_| "ELF: bad header")?;
    if header.class != Class::ELF64 {
        return Err("ELF: not 64-bit");
    }
    if header.e_machine != program.machine {
        return Err("ELF: for another architecture");
    }
    let relocatable = match header.e_type {
        elf::abi::ET_EXEC => false,
        elf::abi::ET_DYN => true,
        _ => return Err("ELF: not an executable"),
    };
    let count = usize::from(header.e_phnum);
    if usize::from(header.e_phentsize) != PHDR || count == 0 || count > MAX_PHDRS {
        return Err("ELF: bad program header table");
    }
    let mut table = alloc::vec![0; count * PHDR];
    if header.e_phoff.checked_add(table.len() as u64).is_none() {
        return Err("ELF: program headers pass the end of the file");
    }
    read_exact(file, header.e_phoff, &mut table)?;
    let headers: Vec<ProgramHeader> = SegmentTable::new(LittleEndian, Class::ELF64, &table).iter().collect();
    if headers.iter().any(|header| header.p_type == elf::abi::PT_INTERP) {
        return Err("ELF: dynamically linked; only static programs run here");
    }
    let stack_exec =
        headers.iter().any(|header| header.p_type == elf::abi::PT_GNU_STACK && header.p_flags & elf::abi::PF_X != 0);
    let loads: Vec<&ProgramHeader> = headers.iter().filter(|header| header.p_type == elf::abi::PT_LOAD).collect();
    let align = loads.iter().map(|header| header.p_align.max(PAGE)).max().ok_or("ELF: nothing to load")?;
    if !align.is_power_of_two() || align > MAX_ALIGN {
        return Err("ELF: bad segment alignment");
    }
    let bias = if relocatable { PIE_BASE & !(align - 1) } else { 0 };
    let size = file.file.stat().size;
    let mut segments = Vec::with_capacity(loads.len());
    let mut floor = MMAP_MIN;
    let mut phdr = 0;
    for load in loads {
        let segment = segment(load, bias, size, floor)?;
        floor = round_up(segment.end).ok_or("ELF: segment outside user memory")?;
        let in_file = load.p_offset..load.p_offset + load.p_filesz;
        if in_file.contains(&header.e_phoff) && header.e_phoff + table.len() as u64 <= in_file.end {
            phdr = bias + load.p_vaddr + (header.e_phoff - load.p_offset);
        }
        segments.push(segment);
    }
    let entry = header.e_entry.checked_add(bias).ok_or("ELF: entry outside user memory")?;
    if !segments.iter().any(|segment| segment.prot.exec && (segment.start..segment.end).contains(&entry)) {
        return Err("ELF: entry is not in an executable segment");
    }
    Ok(Image { segments, entry, phdr, phnum: count as u64, stack_exec })
}

fn segment(load: &ProgramHeader, bias: u64, size: u64, floor: u64) -> Result<Segment, &'static str> {
    if load.p_filesz > load.p_memsz {
        return Err("ELF: segment has more bytes in the file than in memory");
    }
    let in_file = load.p_offset.checked_add(load.p_filesz).is_some_and(|end| end <= size);
    if !in_file {
        return Err("ELF: segment passes the end of the file");
    }
    let start = load.p_vaddr.checked_add(bias).ok_or("ELF: segment outside user memory")?;
    let end = start.checked_add(load.p_memsz).filter(|end| *end <= STACK_TOP - STACK_LIMIT);
    let end = end.ok_or("ELF: segment outside user memory")?;
    if start & !(PAGE - 1) < floor {
        return Err("ELF: segments overlap, are out of order, or lie too low");
    }
    if start % PAGE != load.p_offset % PAGE {
        return Err("ELF: segment address and offset do not agree");
    }
    let right = |bit| load.p_flags & bit != 0;
    let prot = Prot { read: right(elf::abi::PF_R), write: right(elf::abi::PF_W), exec: right(elf::abi::PF_X) };
    Ok(Segment { start, file_end: start + load.p_filesz, end, offset: load.p_offset, prot })
}

impl AddressSpace {
    fn map_segment(&self, file: &Arc<OpenFile>, segment: &Segment) -> Result<(), Errno> {
        let first = segment.start & !(PAGE - 1);
        let file_end =
            if segment.file_end > segment.start { round_up(segment.file_end).ok_or(Errno::ENOMEM)? } else { first };
        let end = round_up(segment.end).ok_or(Errno::ENOMEM)?;
        let mut inner = self.lock();
        if file_end > first {
            let offset = segment.offset & !(PAGE - 1);
            let kind = Kind::FileCopy { file: file.clone(), offset };
            inner.vmas.insert(first, Vma { kind, ..anonymous(file_end, segment.prot) });
        }
        if end > file_end {
            inner.vmas.insert(file_end, anonymous(end, segment.prot));
        }
        let tail = segment.file_end % PAGE;
        if segment.end > segment.file_end && tail != 0 && file_end > first {
            // The rest of the last page from the file is bss.
            let page = file_end / PAGE - 1;
            let entry = inner.populate(&*self.frames, page, true)?;
            let zeros = [0; 256];
            let mut at = tail;
            while at < PAGE {
                let part = (PAGE - at).min(zeros.len() as u64);
                self.frames.write(iommu_types::Phys(entry.frame().0 + at), &zeros[..part as usize]);
                at += part;
            }
        }
        Ok(())
    }
    /// Makes the stack: strings on top, below them argc, argv, envp and the auxiliary vector.
    fn make_stack(&self, program: &Program, image: &Image) -> Result<u64, Errno> {
        let strings = || program.argv.iter().chain(program.envp);
        if strings().any(|string| string.len() >= ARG_LIMIT) {
            return Err(Errno::E2BIG);
        }
        let bytes: usize = strings().map(|string| string.len() + 1 + 8).sum();
        if bytes > ARGS_LIMIT || program.name.len() >= ARG_LIMIT {
            return Err(Errno::E2BIG);
        }
        let mut text = Vec::new();
        let mut place = |string: &[u8]| {
            let at = text.len() as u64;
            text.extend_from_slice(string);
            text.push(0);
            at
        };
        let name = place(program.name);
        let platform = place(program.platform.as_bytes());
        let argv: Vec<u64> = program.argv.iter().map(|string| place(string)).collect();
        let envp: Vec<u64> = program.envp.iter().map(|string| place(string)).collect();
        // A null pointer above everything, as Linux has it.
        let text_at = (STACK_TOP - 8 - text.len() as u64) & !15;
        let random_at = text_at - 16;
        let mut words = Vec::new();
        words.push(argv.len() as u64);
        words.extend(argv.iter().map(|at| text_at + at));
        words.push(0);
        words.extend(envp.iter().map(|at| text_at + at));
        words.push(0);
        let [hwcap, hwcap2] = program.hwcap;
        let vector = [
            (AT_HWCAP, hwcap),
            (AT_PAGESZ, PAGE),
            (AT_CLKTCK, 100),
            (AT_PHDR, image.phdr),
            (AT_PHENT, PHDR as u64),
            (AT_PHNUM, image.phnum),
            (AT_BASE, 0),
            (AT_FLAGS, 0),
            (AT_ENTRY, image.entry),
            (AT_UID, 0),
            (AT_EUID, 0),
            (AT_GID, 0),
            (AT_EGID, 0),
            (AT_SECURE, 0),
            (AT_RANDOM, random_at),
            (AT_HWCAP2, hwcap2),
            (AT_EXECFN, text_at + name),
            (AT_PLATFORM, text_at + platform),
            (AT_MINSIGSTKSZ, program.min_signal_stack),
            (AT_NULL, 0),
        ];
        words.extend(vector.iter().flat_map(|(kind, value)| [*kind, *value]));
        let stack = (random_at - words.len() as u64 * 8) & !15;
        let bottom = (stack - STACK_START) & !(PAGE - 1);
        {
            let mut inner = self.lock();
            let prot = Prot { exec: image.stack_exec, ..Prot::RW };
            let vma = Vma { floor: Some(STACK_TOP - STACK_LIMIT), ..anonymous(STACK_TOP, prot) };
            inner.vmas.insert(bottom, vma);
            inner.stack = stack;
        }
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let written = self
            .copy_out(stack, &bytes)
            .and_then(|()| self.copy_out(random_at, &program.random))
            .and_then(|()| self.copy_out(text_at, &text));
        // The only way to fail on a stack that was just mapped.
        written.map_err(|_| Errno::ENOMEM)?;
        debug_assert!(page_range(bottom, STACK_TOP).contains(&(stack / PAGE)));
        Ok(stack)
    }
}
