//! The link card: the kernel's own virtio network card, translated like any other device.
//!
//! Order of start (DESIGN section 6): the pool is allocated, mapped in a domain of its own at an iova that is not its
//! physical address; the card is attached; only then it becomes bus master and is told where its queues are. With
//! `link=blocked` on the command line it is not attached: the red twin, on which the link must be dead.

pub mod selftest;

use crate::devices::{Inventory, link_card};
use crate::memory;
use crate::platform::virtio::{Card, POOL, Pool};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use arch_x86_64::{PAGE, time};
use boot::BootInfo;
use device_api::Function;
use iommu_api::{Domain, DomainSpec};
use iommu_types::{Access, Iova, Phys, PhysRun};
use net::Stack;
use spin::Once;

/// Where the card sees its pool: inside 39 bits, aligned to the pool, far from where the pool is.
const IOVA: u64 = 0x20_0000_0000;

/// Kept for ever: the card uses it as long as the machine runs.
static DOMAIN: Once<Arc<dyn Domain>> = Once::new();
static STACK: Once<Stack> = Once::new();

/// The network of this machine, for programs' sockets and to be polled ([`Stack::poll`]). 127.0.0.0/8 is always there.
pub fn stack() -> &'static Stack {
    STACK
        .call_once(|| Stack::new(Box::new(time::now_ns), time::now_ns() ^ u64::from(time::wall_clock_seconds() as u32)))
}

/// Starts the card, if there is one and the command line has an address for it (`ip=A.B.C.D/LEN`). What is wrong is logged;
/// the machine then has no link.
pub fn init(info: &BootInfo, inventory: &Inventory) {
    let Some(text) = info.option("ip") else { return };
    let Some((address, prefix)) = net::parse_address(text) else {
        log::error!("link: ip={text} is not A.B.C.D/LEN");
        return;
    };
    match start(inventory, info.option("link") == Some("blocked")) {
        Ok((card, words)) => match stack().attach(Box::new(card), address, prefix) {
            Ok(()) => log::info!("link: {words}, address {text}"),
            Err(error) => log::error!("link: {error:?}"),
        },
        Err(why) => log::error!("link: {why}"),
    }
}

fn start(inventory: &Inventory, blocked: bool) -> Result<(Card, String), String> {
    let found = inventory.tree.functions.iter().find(|f| link_card(f)).ok_or("no virtio network card")?;
    let unit = inventory.unit_for(found.stream).map_err(|why| format!("{}: {why}, so it is not used", found.stream))?;
    let function = inventory.function(found);
    let phys = memory::frames().alloc_run((POOL / PAGE) as usize).ok_or("no memory for its pool")?;
    let domain = unit.make_domain(DomainSpec::default()).map_err(|e| e.to_string())?;
    let run = PhysRun { base: Phys(phys), length: POOL };
    let gather = domain.map(Iova(IOVA), &[run], Access::READ | Access::WRITE, POOL).map_err(|e| e.to_string())?;
    domain.sync(gather).map_err(|e| e.to_string())?;
    if blocked {
        log::warn!("link: {} stays blocked, as asked", found.stream);
    } else {
        for stream in inventory.tree.aliases(found.stream) {
            unit.attach(stream, None, &domain).map_err(|e| format!("{stream}: {e}"))?;
        }
    }
    DOMAIN.call_once(|| domain);
    // Memory space and bus master (PCI 3.0 section 6.2.2).
    function.set_command(function.command() | 1 << 1 | 1 << 2);
    let card = Card::new(&*function, Pool { phys, iova: IOVA }).map_err(|why| {
        function.bus_master(false);
        format!("{}: {why}", found.stream)
    })?;
    let words = format!("{} behind {}, {} KiB at iova {IOVA:#x}", found.stream, unit.name(), POOL >> 10);
    Ok((card, words))
}
