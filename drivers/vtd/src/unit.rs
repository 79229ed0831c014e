//! One unit: where its streams are, and moving them.

use crate::domain::VtdDomain;
use crate::inval::{self, Batch};
use crate::shared::Core;
use crate::structures::{Raw, Structures};
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use core::sync::atomic::Ordering;
use iommu_api::{AttachError, Clock, Domain, DomainSpec, IommuUnit, Mmio, TableMem};
use iommu_types::{Error, Fault, Features, Pasid, StreamId, TableKind, UnitId};
use spin::Mutex;

/// Where a requester (and PASID) is. No slot: blocked.
enum Slot<M, T: TableMem, C> {
    At(Held<M, T, C>),
    /// Somebody is moving it, outside of the lock.
    Moving,
    /// A flush failed while it was moved: hardware may use the domain for ever, so it is held for ever.
    Lost(#[allow(dead_code, reason = "held, not read")] Held<M, T, C>),
}

/// A requester id and PASID; 0 stands for requests without PASID.
type Key = (u16, u32);
type Held<M, T, C> = Arc<VtdDomain<M, T, C>>;
type Slots<M, T, C> = BTreeMap<Key, Slot<M, T, C>>;

/// One VT-d unit, translating. Streams that were never attached are blocked.
pub struct Unit<M, T: TableMem, C> {
    pub(crate) core: Arc<Core<M, T, C>>,
    slots: Mutex<Slots<M, T, C>>,
}

impl<M: Mmio + 'static, T: TableMem + 'static, C: Clock + 'static> Unit<M, T, C> {
    pub(crate) fn new(core: Core<M, T, C>) -> Self {
        Self { core: Arc::new(core), slots: Mutex::new(BTreeMap::new()) }
    }

    /// The 16-bit requester id and PASID (0: requests without) that `stream` means here.
    fn key(&self, stream: StreamId, pasid: Option<Pasid>) -> Result<Key, Error> {
        if stream.segment != self.core.segment {
            return Err(Error::Invalid("the stream is on another PCI segment than the unit"));
        }
        let source = u16::try_from(stream.id).map_err(|_| Error::Range("requester id has 16 bits"))?;
        let Some(Pasid(pasid)) = pasid else { return Ok((source, 0)) };
        if !self.core.scalable {
            return Err(Error::Unsupported("PASID needs scalable mode: ECAP.SMTS (bit 43)"));
        }
        if !self.core.ecap.pasid() {
            return Err(Error::Unsupported("requests with PASID: ECAP.PASID (bit 40)"));
        }
        if pasid == 0 {
            return Err(Error::Invalid("PASID 0 stands for requests without PASID"));
        }
        if pasid >= self.core.structures.lock().pasid_limit() {
            return Err(Error::Range("PASID is beyond the unit's directory"));
        }
        Ok((source, pasid))
    }

    /// Marks `key` as moving and gives what was there. `Lost` and `Moving` stay.
    fn begin(&self, stream: StreamId, key: Key) -> Result<Option<Held<M, T, C>>, Error> {
        let mut slots = self.slots.lock();
        match slots.get(&key) {
            Some(Slot::Moving) => Err(Error::Busy("the stream is being moved")),
            Some(Slot::Lost(_)) => Err(Error::Lost(stream)),
            _ => match slots.insert(key, Slot::Moving) {
                Some(Slot::At(old)) => Ok(Some(old)),
                _ => Ok(None),
            },
        }
    }

    fn end(&self, key: Key, slot: Option<Slot<M, T, C>>) {
        let mut slots = self.slots.lock();
        // What is replaced is the mark; a domain is never dropped under the lock.
        match slot {
            Some(slot) => drop(slots.insert(key, slot)),
            None => drop(slots.remove(&key)),
        }
    }

    /// What must be invalidated after `old` was changed or removed, or, on a unit that caches absent entries, filled.
    fn stale(&self, key: Key, old: Raw, new_did: Option<u16>, first_stage: bool) -> Batch {
        let core = &self.core;
        let structures = core.structures.lock();
        let (source, pasid) = key;
        let mut batch = Batch::new();
        let old_did = old.present().then(|| structures.did(old));
        if let Some(did) = old_did {
            // Emulated units look at a removed PASID entry again only after this; in legacy mode it is the entry itself.
            batch.push(inval::context_device(if core.scalable { 0 } else { did }, source));
            if core.scalable {
                batch.push(inval::pasid_cache(did, pasid));
            }
            if first_stage {
                batch.push(inval::pasid_iotlb(did, pasid));
            } else {
                batch.push(inval::iotlb_domain(core.cap, did));
            }
        }
        if core.features.caches_absent
            && let Some(did) = new_did
        {
            // Absent entries are cached under id 0 (6.1).
            batch.push(inval::context_device(0, source));
            if core.scalable {
                batch.push(inval::pasid_cache_all());
            }
            batch.push(inval::iotlb_domain(core.cap, did));
        }
        batch
    }

    /// Points the entry of `key` at `domain`. On error the entry is as it was, as far as the unit can be believed.
    fn enter(&self, key: Key, domain: &VtdDomain<M, T, C>, did: u16, old_first: bool) -> Result<(), Error> {
        let core = &self.core;
        let (source, pasid) = key;
        let first = domain.info().table == TableKind::X86FirstStage;
        let old = {
            let structures = core.structures.lock();
            let old = structures.read(&*core.mem, source, pasid);
            let new = structures.encode(&domain.target(did));
            if Structures::in_one_store(old, new) {
                structures.write(&*core.mem, source, pasid, new)?;
                drop(structures);
                let stale = self.stale(key, old, Some(did), first || old_first);
                return core.flush(stale).inspect_err(|_| self.put_back(key, old));
            }
            // What differs does not fit one store: absent, flushed, filled. The stream is blocked meanwhile.
            structures.write(&*core.mem, source, pasid, Raw::ABSENT)?;
            old
        };
        core.flush(self.stale(key, old, None, first || old_first)).inspect_err(|_| self.put_back(key, old))?;
        {
            let structures = core.structures.lock();
            let new = structures.encode(&domain.target(did));
            structures.write(&*core.mem, source, pasid, new)?;
        }
        let stale = self.stale(key, Raw::ABSENT, Some(did), first);
        core.flush(stale).inspect_err(|_| {
            let _ = core.structures.lock().write(&*core.mem, source, pasid, Raw::ABSENT);
            self.put_back(key, old);
        })
    }

    fn put_back(&self, key: Key, old: Raw) {
        let structures = self.core.structures.lock();
        let now = structures.read(&*self.core.mem, key.0, key.1);
        if !Structures::in_one_store(now, old) {
            let _ = structures.write(&*self.core.mem, key.0, key.1, Raw::ABSENT);
        }
        let _ = structures.write(&*self.core.mem, key.0, key.1, old);
    }

    /// [`IommuUnit::attach`] for a domain of ours.
    pub(crate) fn attach_own(
        &self,
        stream: StreamId,
        pasid: Option<Pasid>,
        domain: &Held<M, T, C>,
    ) -> Result<(), Error> {
        let key = self.key(stream, pasid)?;
        domain.fits(&self.core.features)?;
        let old = self.begin(stream, key)?;
        let restore = |old: Option<Held<M, T, C>>| self.end(key, old.map(Slot::At));
        if old.as_ref().is_some_and(|old| Arc::ptr_eq(old, domain)) {
            restore(old);
            return Ok(());
        }
        let did = match domain.add_user(&self.core, key.0, key.1) {
            Ok(did) => did,
            Err(error) => {
                restore(old);
                return Err(error);
            }
        };
        // Between the two a unit may be told to enforce what this one lacks.
        let entered = domain.fits(&self.core.features).and_then(|()| {
            let old_first = old.as_ref().is_some_and(|old| old.info().table == TableKind::X86FirstStage);
            self.enter(key, domain, did, old_first)
        });
        match entered {
            Ok(()) => {
                self.end(key, Some(Slot::At(Arc::clone(domain))));
                if let Some(old) = old {
                    old.remove_user(&self.core, key.0, key.1);
                }
                Ok(())
            }
            Err(error @ Error::Stuck { .. }) => {
                // Hardware may have seen the new entry: its tables must outlive everything.
                log::error!("{}: attach of {stream} failed: {error}; its new domain is kept for ever", self.core.name);
                domain.taint();
                core::mem::forget(Arc::clone(domain));
                restore(old);
                Err(error)
            }
            Err(error) => {
                domain.remove_user(&self.core, key.0, key.1);
                restore(old);
                Err(error)
            }
        }
    }
}

impl<M: Mmio + 'static, T: TableMem + 'static, C: Clock + 'static> IommuUnit for Unit<M, T, C> {
    fn id(&self) -> UnitId {
        self.core.id
    }
    fn name(&self) -> &str {
        &self.core.name
    }
    fn features(&self) -> Features {
        self.core.features
    }
    fn raw_capabilities(&self) -> [u64; 2] {
        [self.core.cap.into_bits(), self.core.ecap.into_bits()]
    }

    fn make_domain(&self, spec: DomainSpec) -> Result<Arc<dyn Domain>, Error> {
        if spec.nest_parent {
            return Err(Error::Unsupported("nested translation is not done here"));
        }
        let domain = VtdDomain::<M, T, C>::new(&self.core.mem, &self.core.features, spec.dirty_tracking)?;
        Ok(Arc::new(domain))
    }

    fn attach(&self, stream: StreamId, pasid: Option<Pasid>, domain: &Arc<dyn Domain>) -> Result<(), AttachError> {
        let Ok(domain) = Arc::clone(domain).as_any().downcast::<VtdDomain<M, T, C>>() else {
            return Err(Error::Invalid("the domain belongs to another kind of unit"));
        };
        self.attach_own(stream, pasid, &domain)
    }

    fn block(&self, stream: StreamId, pasid: Option<Pasid>) -> Result<(), Error> {
        let key = self.key(stream, pasid)?;
        let Some(old) = self.begin(stream, key)? else {
            self.end(key, None);
            return Ok(());
        };
        let first = old.info().table == TableKind::X86FirstStage;
        let raw = {
            let structures = self.core.structures.lock();
            let raw = structures.read(&*self.core.mem, key.0, key.1);
            let _ = structures.write(&*self.core.mem, key.0, key.1, Raw::ABSENT);
            raw
        };
        match self.core.flush(self.stale(key, raw, None, first)) {
            Ok(()) => {
                self.end(key, None);
                old.remove_user(&self.core, key.0, key.1);
                Ok(())
            }
            Err(error) => {
                log::error!("{}: {stream} could not be blocked: {error}; its domain is kept", self.core.name);
                old.taint();
                self.end(key, Some(Slot::Lost(old)));
                Err(error)
            }
        }
    }

    fn drain_faults(&self, sink: &mut dyn FnMut(Fault)) {
        self.core.drain_faults(sink);
    }

    fn status(&self) -> String {
        let core = &self.core;
        let streams = self.slots.lock().len();
        let domains = core.dids.lock().used();
        let (used, entries) = core.queue.fill(&core.mmio);
        let kind = match (core.scalable, core.features.table) {
            (true, TableKind::X86FirstStage) => "scalable mode, first stage",
            (true, _) => "scalable mode, second stage",
            (false, _) => "legacy mode",
        };
        let on = core.mmio.r32(crate::spec::regs::GSTS) & crate::spec::regs::global::TRANSLATION != 0;
        format!(
            "translation {}, {kind}, {streams} streams in {domains} domains, queue {used}/{entries}, {} batches ({} errors), {} faults",
            if on { "on" } else { "OFF" },
            core.queue.submitted.load(Ordering::Relaxed),
            core.queue.errors.load(Ordering::Relaxed),
            core.fault_count.load(Ordering::Relaxed),
        )
    }
}
