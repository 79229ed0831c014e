//! Random commands against a reference model written from the rules: every id and errno is predicted, and after each
//! command the tables, pins and charges are compared with what the model says.
#![allow(missing_docs, clippy::manual_is_multiple_of)]

mod common;

use common::fakes::{APERTURE_LAST, PAGE};
use common::{Random, World, group, spec, stream};
use iommufd::DeviceHandle;
use std::collections::{BTreeMap, BTreeSet};
use uapi::Errno;
use uapi::iommufd as abi;

/// A mapping: last address, where its memory is, and whether devices (and the pages) may be written.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Area {
    last: u64,
    va: u64,
    write: bool,
    pages_write: bool,
    /// Mappings that were copied from one another share pages.
    pages: u32,
}

#[derive(Clone, Default, Debug)]
struct Space {
    areas: BTreeMap<u64, Area>,
}

#[derive(Clone, Debug)]
struct Table {
    ioas: u32,
    auto: bool,
}

#[derive(Clone, Debug)]
enum Object {
    Ioas(Space),
    Hwpt(Table),
    Device(Option<u32>),
}

#[derive(Default)]
struct Model {
    objects: BTreeMap<u32, Object>,
    next_pages: u32,
}

const MSI: (u64, u64) = (0xfee0_0000, 0xfeef_ffff);

impl Model {
    fn free_id(&self) -> u32 {
        (1..).find(|id| !self.objects.contains_key(id)).unwrap()
    }
    fn add(&mut self, object: Object) -> u32 {
        let id = self.free_id();
        self.objects.insert(id, object);
        id
    }
    fn tables_of(&self, ioas: u32) -> Vec<u32> {
        let is = |object: &Object| matches!(object, Object::Hwpt(table) if table.ioas == ioas);
        self.objects.iter().filter(|(_, object)| is(object)).map(|(id, _)| *id).collect()
    }
    fn devices_on(&self, table: u32) -> usize {
        self.objects.values().filter(|object| matches!(object, Object::Device(Some(on)) if *on == table)).count()
    }
    fn space(&mut self, id: u32) -> Option<&mut Space> {
        match self.objects.get_mut(&id) {
            Some(Object::Ioas(space)) => Some(space),
            _ => None,
        }
    }
    fn alignment(&self, ioas: u32) -> u64 {
        if self.tables_of(ioas).is_empty() { 1 } else { PAGE }
    }
    fn reserved(&self, ioas: u32) -> Vec<(u64, u64)> {
        let tables = self.tables_of(ioas);
        let mut all = Vec::new();
        if !tables.is_empty() {
            all.push((APERTURE_LAST + 1, u64::MAX));
        }
        if tables.iter().any(|table| self.devices_on(*table) > 0) {
            all.push(MSI);
        }
        all
    }
    fn overlap(space: &Space, first: u64, last: u64) -> bool {
        space.areas.range(..=last).next_back().is_some_and(|(_, area)| area.last >= first)
    }
    /// Can the ioas take this reservation?
    fn can_reserve(&self, ioas: u32, range: (u64, u64)) -> bool {
        let Some(Object::Ioas(space)) = self.objects.get(&ioas) else { return false };
        !Self::overlap(space, range.0, range.1)
    }

    fn place(&mut self, ioas: u32, iova: u64, length: u64, va: u64) -> Result<(), Errno> {
        let alignment = self.alignment(ioas);
        let reserved = self.reserved(ioas);
        let space = self.space(ioas).unwrap();
        if length % alignment != 0 || iova % alignment != 0 {
            return Err(Errno::EINVAL);
        }
        let last = iova.checked_add(length - 1).ok_or(Errno::EOVERFLOW)?;
        if reserved.iter().any(|(first, end)| *first <= last && iova <= *end) {
            return Err(Errno::EINVAL);
        }
        if Self::overlap(space, iova, last) {
            return Err(Errno::EEXIST);
        }
        if (va % PAGE) % alignment != 0 { Err(Errno::EINVAL) } else { Ok(()) }
    }

    fn map(&mut self, ioas: u32, va: u64, length: u64, iova: u64, write: bool, end: u64) -> Result<(), Errno> {
        if self.space(ioas).is_none() {
            return Err(Errno::ENOENT);
        }
        if length == 0 {
            return Err(Errno::EINVAL);
        }
        self.place(ioas, iova, length, va)?;
        if !self.tables_of(ioas).is_empty() && va + length > end {
            return Err(Errno::EFAULT);
        }
        let pages = self.next_pages;
        self.next_pages += 1;
        let area = Area { last: iova + (length - 1), va, write, pages_write: write, pages };
        self.space(ioas).unwrap().areas.insert(iova, area);
        Ok(())
    }

    fn copy(&mut self, src: u32, from: u64, length: u64, dst: u32, iova: u64, write: bool) -> Result<(), Errno> {
        let space = self.space(src).ok_or(Errno::ENOENT)?;
        let (mut parts, mut next) = (Vec::new(), from);
        let end = from + length - 1;
        loop {
            let (first, area) = space.areas.range(..=next).next_back().ok_or(Errno::ENOENT)?;
            if area.last < next {
                return Err(Errno::ENOENT);
            }
            let last = area.last.min(end);
            parts.push((next - from, Area { va: area.va + (next - first), last: last - from, ..*area }));
            if last == end {
                break;
            }
            next = last + 1;
        }
        if self.space(dst).is_none() {
            return Err(Errno::ENOENT);
        }
        self.place(dst, iova, length, 0)?;
        let alignment = self.alignment(dst);
        for (_, part) in &parts {
            if write && !part.pages_write {
                return Err(Errno::EPERM);
            }
            if (part.va % PAGE) % alignment != 0 {
                return Err(Errno::EINVAL);
            }
        }
        for (offset, part) in parts {
            let area = Area { last: iova + part.last, write, ..part };
            self.space(dst).unwrap().areas.insert(iova + offset, area);
        }
        Ok(())
    }

    fn unmap(&mut self, ioas: u32, first: u64, last: u64) -> Result<u64, Errno> {
        let space = self.space(ioas).ok_or(Errno::ENOENT)?;
        let hit: Vec<(u64, Area)> =
            space.areas.range(..=last).filter(|(_, area)| area.last >= first).map(|(at, area)| (*at, *area)).collect();
        let mut bytes = 0;
        for (at, area) in hit {
            if at < first || area.last > last {
                return Err(Errno::ENOENT);
            }
            space.areas.remove(&at);
            bytes += area.last - at + 1;
        }
        if bytes == 0 { Err(Errno::ENOENT) } else { Ok(bytes) }
    }

    /// Can a domain take what is mapped, and its memory be pinned?
    fn can_fill(&mut self, ioas: u32) -> Result<(), Errno> {
        let space = self.space(ioas).unwrap();
        let aligned =
            |at: u64, area: &Area| at % PAGE == 0 && area.last.wrapping_add(1) % PAGE == 0 && area.va % PAGE == 0;
        if space.areas.iter().any(|(at, area)| !aligned(*at, area) || area.last > APERTURE_LAST) {
            return Err(Errno::EADDRINUSE);
        }
        Ok(())
    }

    fn destroy(&mut self, id: u32) -> Result<(), Errno> {
        let busy = match self.objects.get(&id).ok_or(Errno::ENOENT)? {
            Object::Ioas(_) => !self.tables_of(id).is_empty(),
            Object::Hwpt(_) => self.devices_on(id) > 0,
            Object::Device(_) => true,
        };
        if busy {
            return Err(Errno::EBUSY);
        }
        self.objects.remove(&id);
        Ok(())
    }

    fn leave(&mut self, device: u32) {
        let Some(Object::Device(on)) = self.objects.get_mut(&device) else { return };
        let Some(table) = on.take() else { return };
        let auto = matches!(&self.objects[&table], Object::Hwpt(table) if table.auto);
        if auto && self.devices_on(table) == 0 {
            self.objects.remove(&table);
        }
    }

    /// Moves a device to a table.
    fn settle(&mut self, device: u32, table: u32) -> Result<u32, Errno> {
        let Object::Hwpt(target) = self.objects[&table].clone() else { panic!() };
        let Object::Device(now) = self.objects[&device].clone() else { panic!() };
        if now == Some(table) {
            return Ok(table);
        }
        let from = now.and_then(|now| match &self.objects[&now] {
            Object::Hwpt(table) => Some(table.ioas),
            _ => None,
        });
        if from != Some(target.ioas) && !self.can_reserve(target.ioas, MSI) {
            return Err(Errno::EADDRINUSE);
        }
        self.leave(device);
        self.objects.insert(device, Object::Device(Some(table)));
        Ok(table)
    }

    fn attach(&mut self, device: u32, pt: u32) -> Result<u32, Errno> {
        match self.objects.get(&pt).cloned() {
            None => Err(Errno::ENOENT),
            Some(Object::Device(_)) => Err(Errno::EINVAL),
            Some(Object::Hwpt(_)) => self.settle(device, pt),
            Some(Object::Ioas(_)) => {
                let autos = self.tables_of(pt);
                let auto = autos.into_iter().find(|id| matches!(&self.objects[id], Object::Hwpt(table) if table.auto));
                if let Some(auto) = auto {
                    return self.settle(device, auto);
                }
                self.can_fill(pt)?;
                let id = self.add(Object::Hwpt(Table { ioas: pt, auto: true }));
                let result = self.settle(device, id);
                if result.is_err() {
                    self.objects.remove(&id);
                }
                result
            }
        }
    }

    /// Pages that must be pinned: those of every chunk that a filled mapping uses, once per shared memory.
    fn pinned(&self) -> BTreeSet<(u32, u64)> {
        let mut all = BTreeSet::new();
        for (id, object) in &self.objects {
            let Object::Ioas(space) = object else { continue };
            if self.tables_of(*id).is_empty() {
                continue;
            }
            for (at, area) in &space.areas {
                let pages = (area.last - at + 1) / PAGE;
                all.extend((0..pages).map(|page| (area.pages, area.va / PAGE + page)));
            }
        }
        all
    }
}

struct Run {
    world: World,
    model: Model,
    devices: Vec<Option<DeviceHandle>>,
    random: Random,
    /// Commands that succeeded and failed, by name.
    tally: BTreeMap<&'static str, [u32; 2]>,
}

impl Run {
    fn count(&mut self, name: &'static str, ok: bool) {
        self.tally.entry(name).or_default()[usize::from(ok)] += 1;
    }
    fn id(&mut self) -> u32 {
        self.random.below(14) as u32
    }
    /// Addresses that meet one another often, and edges.
    fn iova(&mut self) -> u64 {
        match self.random.below(12) {
            0 => MSI.0 + self.random.below(3) * PAGE,
            1 => APERTURE_LAST + 1 - self.random.below(3) * PAGE,
            2 => u64::MAX - (self.random.below(4) * PAGE + 0xfff),
            3 => self.random.below(32) * PAGE + 0x800,
            _ => self.random.below(32) * PAGE,
        }
    }
    fn length(&mut self) -> u64 {
        match self.random.below(10) {
            0 => self.random.below(3) * 0x800,
            1 => 0x1800,
            _ => (1 + self.random.below(6)) * PAGE,
        }
    }

    fn step(&mut self) {
        let rw = abi::MAP_READABLE | abi::MAP_WRITEABLE | abi::MAP_FIXED_IOVA;
        let ro = abi::MAP_READABLE | abi::MAP_FIXED_IOVA;
        match self.random.below(16) {
            0 => {
                let mut body = abi::IoasAlloc { size: 12, ..Default::default() };
                self.world.call(abi::IOAS_ALLOC, &mut body).unwrap();
                if body.out_ioas_id <= 12 {
                    assert_eq!(body.out_ioas_id, self.model.add(Object::Ioas(Space::default())));
                } else {
                    self.world.destroy(body.out_ioas_id).unwrap();
                }
            }
            1 => {
                let id = self.id();
                let got = self.world.destroy(id).map(|_| ());
                assert_eq!(got, self.model.destroy(id), "destroy {id}");
                self.count("destroy", got.is_ok());
            }
            2 => {
                let slot = self.random.below(4) as usize;
                if let Some(handle) = self.devices[slot].take() {
                    let id = handle.id();
                    drop(handle);
                    self.model.leave(id);
                    self.model.objects.remove(&id);
                } else {
                    let handle = {
                        let stream = stream(slot as u8);
                        let group = group(&self.world.unit, &[stream]);
                        self.world.context.bind(spec(&self.world.unit, &group, stream)).unwrap()
                    };
                    assert_eq!(handle.id(), self.model.add(Object::Device(None)));
                    self.devices[slot] = Some(handle);
                }
            }
            3..5 => {
                let (slot, pt) = (self.random.below(4) as usize, self.id());
                let Some(handle) = &self.devices[slot] else { return };
                let got = handle.attach(pt);
                assert_eq!(got, self.model.attach(handle.id(), pt), "attach {} to {pt}", handle.id());
                self.count("attach", got.is_ok());
            }
            5 => {
                let slot = self.random.below(4) as usize;
                let Some(handle) = &self.devices[slot] else { return };
                handle.detach().unwrap();
                self.model.leave(handle.id());
            }
            6 => {
                let (dev, pt) = (self.id(), self.id());
                let got = self.world.hwpt(dev, pt, abi::HWPT_DIRTY_TRACKING);
                let device = matches!(self.model.objects.get(&dev), Some(Object::Device(_)));
                let want = match self.model.objects.get(&pt) {
                    _ if !device => Err(Errno::ENOENT),
                    Some(Object::Ioas(_)) => {
                        self.model.can_fill(pt).map(|()| self.model.add(Object::Hwpt(Table { ioas: pt, auto: false })))
                    }
                    Some(Object::Hwpt(_)) => Err(Errno::EOPNOTSUPP),
                    _ => Err(Errno::EINVAL),
                };
                assert_eq!(got, want, "hwpt of {pt} by {dev}");
                self.count("hwpt", got.is_ok());
            }
            7..11 => {
                let (ioas_id, iova, length) = (self.id(), self.iova(), self.length());
                let write = self.random.below(3) > 0;
                let va = self.random.below(1 << 12) * PAGE + if self.random.below(8) == 0 { 0x800 } else { 0 };
                let flags = if write { rw } else { ro };
                let mut body =
                    abi::IoasMap { size: 40, flags, ioas_id, user_va: va, length, iova, ..Default::default() };
                let got = self.world.call(abi::IOAS_MAP, &mut body).map(|_| ());
                let want = self.model.map(ioas_id, va, length, iova, write, 1 << 32);
                assert_eq!(got, want, "map {ioas_id} {va:#x} {length:#x} {iova:#x}");
                self.count("map", got.is_ok());
            }
            11..13 => {
                let (mut src, dst, mut from, iova, mut length) =
                    (self.id(), self.id(), self.iova(), self.iova(), self.length());
                // Half of them start at something that is mapped, and stay inside.
                let all: Vec<(u32, u64, u64)> = self
                    .model
                    .objects
                    .iter()
                    .filter_map(|(id, object)| if let Object::Ioas(space) = object { Some((id, space)) } else { None })
                    .flat_map(|(id, space)| space.areas.iter().map(|(at, area)| (*id, *at, area.last - at + 1)))
                    .collect();
                if !all.is_empty() && self.random.below(2) == 0 {
                    let area = all[self.random.below(all.len() as u64) as usize];
                    (src, from, length) = (area.0, area.1, length.min(area.2));
                }
                if length == 0 || from.checked_add(length).is_none() {
                    return;
                }
                let write = self.random.below(2) == 0;
                let mut body = abi::IoasCopy {
                    size: 40,
                    flags: if write { rw } else { ro },
                    dst_ioas_id: dst,
                    src_ioas_id: src,
                    length,
                    dst_iova: iova,
                    src_iova: from,
                };
                let got = self.world.call(abi::IOAS_COPY, &mut body).map(|_| ());
                let want = self.model.copy(src, from, length, dst, iova, write);
                assert_eq!(got, want, "copy {src} {from:#x} {length:#x} to {dst} {iova:#x}");
                self.count("copy", got.is_ok());
            }
            _ => {
                let (id, iova, length) = (self.id(), self.iova(), self.length().max(1) * (1 + self.random.below(4)));
                let Some(last) = iova.checked_add(length - 1) else { return };
                let got = self.world.unmap(id, iova, length);
                assert_eq!(got, self.model.unmap(id, iova, last), "unmap {id} {iova:#x}");
                self.count("unmap", got.is_ok());
            }
        }
    }

    fn check(&self) {
        for (id, object) in &self.model.objects {
            let Object::Device(on) = object else { continue };
            let slot = self.devices.iter().position(|handle| handle.as_ref().is_some_and(|handle| handle.id() == *id));
            let domain = self.world.unit.at(stream(slot.unwrap() as u8));
            assert_eq!(domain.is_some(), on.is_some());
            let (Some(domain), Some(Object::Hwpt(table))) = (domain, on.and_then(|on| self.model.objects.get(&on)))
            else {
                continue;
            };
            let Object::Ioas(space) = &self.model.objects[&table.ioas] else { panic!() };
            let bytes: u64 = space.areas.iter().map(|(at, area)| area.last - at + 1).sum();
            assert_eq!(domain.mapped_bytes(), bytes);
            for (at, area) in &space.areas {
                for offset in (0..area.last - at).step_by(PAGE as usize) {
                    assert_eq!(domain.phys(at + offset), Some(self.world.program.source.phys(area.va + offset)));
                }
                assert_eq!(domain.write(*at), area.write, "rights at {at:#x}");
            }
        }
        // Every page of the model is pinned once per memory it belongs to; copies may keep the rest of a 2 MiB chunk.
        let pinned = self.model.pinned();
        let mut want: BTreeMap<u64, u32> = BTreeMap::new();
        for (_, page) in &pinned {
            *want.entry(self.world.program.source.phys(page * PAGE)).or_default() += 1;
        }
        let got = self.world.machine.pins.lock().unwrap();
        for (frame, count) in &want {
            assert!(got.get(frame).copied().unwrap_or(0) >= *count, "frame {frame:#x} is mapped but not pinned");
        }
        if want.is_empty() {
            assert!(got.is_empty());
        }
        let total: u32 = got.values().sum();
        assert_eq!(u64::from(total) * PAGE, self.world.machine.charged());
    }
}

#[test]
fn random_commands_agree_with_the_model() {
    let mut tally: BTreeMap<&str, [u32; 2]> = BTreeMap::new();
    for seed in 1..=32 {
        let world = World::new(true);
        let mut run = Run {
            world,
            model: Model::default(),
            devices: (0..4).map(|_| None).collect(),
            random: Random(0x1234_5678_9abc_def1 ^ seed << 32),
            tally: BTreeMap::new(),
        };
        for step in 0..4000 {
            run.step();
            if step % 25 == 0 {
                run.check();
            }
        }
        run.check();
        for (name, [failed, passed]) in &run.tally {
            let sum = tally.entry(name).or_default();
            *sum = [sum[0] + failed, sum[1] + passed];
        }
        let machine = run.world.machine.clone();
        drop(run);
        assert_eq!((machine.pinned(), machine.charged()), (0, 0), "seed {seed}");
        assert!(machine.reachable.lock().unwrap().is_empty());
    }
    // A walk that never gets anywhere agrees with every model.
    assert_eq!(tally.len(), 6);
    for (name, [failed, passed]) in tally {
        assert!(failed > 100 && passed > 100, "{name}: {failed} failed, {passed} passed");
    }
}
