//! Which descriptors make a change visible (section 6.5.2): pure functions.

use crate::spec::queue::{ContextInvalidate, IotlbInvalidate, Kind, PasidCacheInvalidate, PasidIotlbInvalidate, Wait};
use crate::spec::regs::Cap;
use iommu_types::{Error, IovaRange, Phys};

/// Most descriptors in one submission, without its wait.
pub(crate) const BATCH: usize = 16;

/// Descriptors of one submission. More than fit become one global invalidation of everything.
#[derive(Clone, Copy)]
pub(crate) struct Batch {
    list: [u128; BATCH],
    used: usize,
    full: bool,
}

impl Batch {
    pub(crate) const fn new() -> Self {
        Self { list: [0; BATCH], used: 0, full: false }
    }
    pub(crate) fn push(&mut self, descriptor: u128) {
        if self.used < BATCH {
            self.list[self.used] = descriptor;
            self.used += 1;
        } else {
            self.full = true;
        }
    }
    pub(crate) fn is_empty(&self) -> bool {
        self.used == 0
    }
    /// The descriptors, or everything if there were too many.
    pub(crate) fn finish(self, scalable: bool, cap: Cap) -> Self {
        if self.full { everything(scalable, cap) } else { self }
    }
    pub(crate) fn list(&self) -> &[u128] {
        &self.list[..self.used]
    }
}

/// All caches, all domains.
pub(crate) fn everything(scalable: bool, cap: Cap) -> Batch {
    let mut batch = Batch::new();
    batch.push(context_all());
    if scalable {
        batch.push(pasid_cache_all());
    }
    batch.push(iotlb_all(cap));
    batch
}

pub(crate) fn context_all() -> u128 {
    ContextInvalidate::new().with_kind(Kind::CONTEXT.0).with_granularity(1).into_bits()
}

/// The context entry of one requester. `domain` is the id it was cached with (0 if it was absent).
pub(crate) fn context_device(domain: u16, source: u16) -> u128 {
    let invalidate = ContextInvalidate::new().with_kind(Kind::CONTEXT.0).with_granularity(3);
    invalidate.with_domain(domain).with_source(source).into_bits()
}

pub(crate) fn pasid_cache_all() -> u128 {
    PasidCacheInvalidate::new().with_kind(Kind::PASID_CACHE.0).with_granularity(3).into_bits()
}

/// All PASID entries of a domain.
pub(crate) fn pasid_cache_domain(domain: u16) -> u128 {
    PasidCacheInvalidate::new().with_kind(Kind::PASID_CACHE.0).with_granularity(0).with_domain(domain).into_bits()
}

/// One PASID of a domain.
pub(crate) fn pasid_cache(domain: u16, pasid: u32) -> u128 {
    let invalidate = PasidCacheInvalidate::new().with_kind(Kind::PASID_CACHE.0).with_granularity(1);
    invalidate.with_domain(domain).with_pasid(pasid & 0xf_ffff).into_bits()
}

fn iotlb(cap: Cap, granularity: u8) -> IotlbInvalidate {
    let invalidate = IotlbInvalidate::new().with_kind(Kind::IOTLB.0).with_granularity(granularity);
    invalidate.with_drain_writes(cap.dwd()).with_drain_reads(cap.drd())
}

pub(crate) fn iotlb_all(cap: Cap) -> u128 {
    iotlb(cap, 1).into_bits()
}

/// Everything of a domain, first stage included.
pub(crate) fn iotlb_domain(cap: Cap, domain: u16) -> u128 {
    iotlb(cap, 2).with_domain(domain).into_bits()
}

/// Everything of a PASID.
pub(crate) fn pasid_iotlb(domain: u16, pasid: u32) -> u128 {
    let invalidate = PasidIotlbInvalidate::new().with_kind(Kind::PASID_IOTLB.0).with_granularity(2);
    invalidate.with_domain(domain).with_pasid(pasid & 0xf_ffff).into_bits()
}

/// 2^mask pages at `frame`, aligned to their size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Block {
    pub frame: u64,
    pub mask: u8,
}

/// The smallest aligned block that holds `first..=last` (page numbers).
fn block(first: u64, last: u64) -> Block {
    // Bits that differ between the ends must all be inside the block.
    let mask = (64 - (first ^ last).leading_zeros()) as u8;
    Block { frame: if mask < 64 { first >> mask << mask } else { 0 }, mask }
}

/// At most two blocks that cover `range`. Two, split where the ends part, when one would reach far beyond.
pub(crate) fn cover(range: IovaRange) -> (Block, Option<Block>) {
    let (first, last) = (range.first() >> 12, range.last() >> 12);
    let whole = block(first, last);
    let pages = last - first + 1;
    let tight = (64 - (pages - 1).leading_zeros()) as u8;
    if whole.mask <= tight {
        return (whole, None);
    }
    let middle = last >> (whole.mask - 1) << (whole.mask - 1);
    (block(first, middle - 1), Some(block(middle, last)))
}

/// What must go from the IOTLB after a change to a domain's table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Change {
    /// The pages; `None`: all.
    pub range: Option<IovaRange>,
    /// No entry that leads to a table changed.
    pub leaf_only: bool,
}

impl Change {
    /// Blocks to invalidate, or `None` for the whole domain, as the unit allows.
    fn blocks(&self, cap: Cap) -> Option<(Block, Option<Block>)> {
        let blocks = cover(self.range.filter(|_| cap.psi())?);
        let fits = |block: &Block| block.mask <= cap.mamv();
        (fits(&blocks.0) && blocks.1.as_ref().is_none_or(fits)).then_some(blocks)
    }

    /// Second stage: by domain.
    pub(crate) fn second_stage(&self, cap: Cap, domain: u16, batch: &mut Batch) {
        let Some((one, two)) = self.blocks(cap) else { return batch.push(iotlb_domain(cap, domain)) };
        for block in [Some(one), two].into_iter().flatten() {
            let invalidate = iotlb(cap, 3).with_domain(domain).with_mask(block.mask).with_leaf_only(self.leaf_only);
            batch.push(invalidate.with_frame(block.frame).into_bits());
        }
    }

    /// First stage: by domain and PASID.
    pub(crate) fn first_stage(&self, cap: Cap, domain: u16, pasid: u32, batch: &mut Batch) {
        let Some((one, two)) = self.blocks(cap) else { return batch.push(pasid_iotlb(domain, pasid)) };
        for block in [Some(one), two].into_iter().flatten() {
            let invalidate = PasidIotlbInvalidate::new().with_kind(Kind::PASID_IOTLB.0).with_granularity(3);
            let invalidate = invalidate.with_domain(domain).with_pasid(pasid & 0xf_ffff);
            let invalidate = invalidate.with_mask(block.mask).with_leaf_only(self.leaf_only);
            batch.push(invalidate.with_frame(block.frame).into_bits());
        }
    }
}

/// Writes `status` to `at` (4-byte aligned) once all earlier descriptors took effect, and holds later ones back until then.
pub(crate) fn wait(at: Phys, status: u32) -> u128 {
    let wait = Wait::new().with_kind(Kind::WAIT.0).with_status_write(true).with_fence(true);
    wait.with_status(status).with_address(at.0 >> 2).into_bits()
}

/// Why the queue stopped, in words.
pub(crate) fn stopped(fsts: u32) -> &'static str {
    match fsts >> 4 & 7 {
        0 => "no error bit",
        1 => "IQE: bad descriptor",
        2 => "ICE: stray completion",
        4 => "ITE: a device did not answer",
        _ => "several queue errors",
    }
}

/// A descriptor's type may only be what the driver writes.
pub(crate) fn kind_of(descriptor: u64) -> Kind {
    Kind((descriptor & 0xf) as u8)
}

/// The failure of a batch that the queue refused even in its coarsest form.
pub(crate) fn refused(unit: iommu_types::UnitId, fsts: u32) -> Error {
    Error::Stuck { unit, register: "FSTS.IQE (bit 4)", want: 0, got: u64::from(fsts) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(blocks: (Block, Option<Block>), page: u64) -> bool {
        [Some(blocks.0), blocks.1].into_iter().flatten().any(|b| page >> b.mask == b.frame >> b.mask)
    }

    #[test]
    fn covered_is_at_least_what_was_asked_for_every_start_and_length() {
        for start in 0u64..2048 {
            for length in 1u64..=512 {
                let range = IovaRange::sized(start << 12, length << 12).unwrap();
                let blocks = cover(range);
                // Blocks are aligned and touch, so the ends and the seam decide.
                for block in [Some(blocks.0), blocks.1].into_iter().flatten() {
                    assert_eq!(block.frame & ((1 << block.mask) - 1), 0, "{start}+{length}: {block:?}");
                }
                assert!(holds(blocks, start) && holds(blocks, start + length - 1), "{start}+{length}");
                if let Some(second) = blocks.1 {
                    assert_eq!(blocks.0.frame + (1 << blocks.0.mask), second.frame, "a hole in {start}+{length}");
                }
                let covered = (1u64 << blocks.0.mask) + blocks.1.map_or(0, |b| 1u64 << b.mask);
                assert!(covered < 4 * length, "{start}+{length} covers {covered}");
            }
        }
    }

    #[test]
    fn the_ends_of_the_address_space_are_covered() {
        assert_eq!(cover(IovaRange::ALL).0.mask, 52);
        let top = IovaRange::sized(u64::MAX - 0xfff, 0x1000).unwrap();
        assert_eq!(cover(top), (Block { frame: (1 << 52) - 1, mask: 0 }, None));
    }

    fn words(batch: &Batch) -> alloc::vec::Vec<(u64, u64)> {
        batch.list().iter().map(|d| (*d as u64, (*d >> 64) as u64)).collect()
    }

    #[test]
    fn page_selective_falls_back_to_the_domain() {
        // Figures 6-7 and following: type 3:0, G 5:4, DW 6, DR 7, DID 31:16; AM 5:0, IH 6, ADDR 63:12 of the upper word.
        let cap = Cap::new().with_psi(true).with_mamv(9).with_dwd(true).with_drd(true);
        let mut batch = Batch::new();
        let two_megs = IovaRange::sized(0x4020_0000, 0x20_0000).unwrap();
        Change { range: Some(two_megs), leaf_only: true }.second_stage(cap, 5, &mut batch);
        assert_eq!(words(&batch), [(2 | 3 << 4 | 1 << 6 | 1 << 7 | 5 << 16, 0x4020_0000 | 1 << 6 | 9)]);

        let mut batch = Batch::new();
        let more = IovaRange::sized(0x4000_0000, 0x40_0000).unwrap();
        Change { range: Some(more), leaf_only: true }.second_stage(cap, 5, &mut batch);
        assert_eq!(words(&batch), [(2 | 2 << 4 | 1 << 6 | 1 << 7 | 5 << 16, 0)]);

        let mut batch = Batch::new();
        Change { range: Some(two_megs), leaf_only: false }.first_stage(cap, 5, 3, &mut batch);
        assert_eq!(words(&batch), [(6 | 3 << 4 | 5 << 16 | 3 << 32, 0x4020_0000 | 9)]);

        let mut batch = Batch::new();
        Change { range: Some(two_megs), leaf_only: false }.first_stage(cap.with_psi(false), 5, 3, &mut batch);
        assert_eq!(words(&batch), [(6 | 2 << 4 | 5 << 16 | 3 << 32, 0)]);
    }

    #[test]
    fn too_many_descriptors_become_everything() {
        let mut batch = Batch::new();
        for pasid in 0..=BATCH as u32 {
            batch.push(pasid_iotlb(1, pasid));
        }
        let all = batch.finish(true, Cap::new());
        assert_eq!(words(&all), [(1 | 1 << 4, 0), (7 | 3 << 4, 0), (2 | 1 << 4, 0)]);
    }
}
