//! The inventory of the machine: functions, units, groups, and the devices that programs may own.

use crate::events::{self, Value};
use crate::iommu::{self, Up};
use crate::pci::{self as machine_pci, Resolver};
use crate::platform::pci::{Bars, Ecam};
use crate::platform::table_mem::Machine;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::ToString;
use alloc::sync::Arc;
use alloc::vec::Vec;
use boot::BootInfo;
use device_api::{Function, Migratable};
use fw_tables::Topology;
use iommu_types::{IovaRange, StreamId};
use iommufd::{DeviceSpec, Group, GroupSpec, Requester, Reserved};
use pci::{FunctionInfo, PciFunction, Tree};
use spin::Once;

/// A function on this machine.
pub type MachineFunction = PciFunction<&'static Ecam, &'static Bars, Machine>;

/// What was found. Made once, then only read.
pub struct Inventory {
    /// Configuration space.
    pub ecam: &'static Ecam,
    /// Functions.
    pub tree: Tree,
    /// What firmware says; `None` without a usable table.
    pub topology: Option<Topology>,
    /// Units that translate.
    pub units: Vec<Up>,
    /// Groups, with their reasons.
    pub groups: Vec<pci::Group>,
    /// Devices for programs.
    pub devices: Vec<Arc<vfio::Device>>,
    /// Functions that no unit translates, and why.
    pub unprotected: Vec<(StreamId, &'static str)>,
}

static ECAM: Once<Ecam> = Once::new();
static BARS: Once<Bars> = Once::new();
static INVENTORY: Once<Inventory> = Once::new();

/// Enumerates, silences every device, brings the units up with every stream blocked, sorts functions into groups.
pub fn init(info: &BootInfo, dmar: Option<&[u8]>, mcfg: Option<&[u8]>) -> &'static Inventory {
    let windows = iommu::ecam_windows(mcfg);
    let ecam = ECAM.call_once(|| Ecam::new(&windows));
    let mut tree = machine_pci::enumerate(ecam, &windows);
    for finding in &tree.findings {
        log::warn!("{finding}");
    }
    // Before anything else: no device may start a request that a half-made table would answer.
    let quiet = pci::quiet_all(ecam, &tree);
    log::info!("pci: {} functions, bus mastering taken from {quiet}", tree.functions.len());
    for f in tree.functions.iter_mut() {
        pci::enable_acs(ecam, f);
    }
    let topology = iommu::topology(dmar);
    let units = match (&topology, dmar) {
        (Some(t), Some(dmar)) => iommu::bring_up(info, t, &tree, dmar),
        _ => Vec::new(),
    };
    // Bridges forward requests only as bus masters; what they forward meets a unit that blocks it.
    if !units.is_empty() {
        for f in tree.functions.iter().filter(|f| f.is_bridge()) {
            pci::bus_master(ecam, f.stream, true);
        }
    }
    let groups = pci::groups(&tree);
    let mut inventory = Inventory { ecam, tree, topology, units, groups, devices: Vec::new(), unprotected: Vec::new() };
    inventory.sort_functions();
    INVENTORY.call_once(|| inventory)
}

impl Inventory {
    /// The unit in front of a stream, or why there is none.
    pub fn unit_for(&self, stream: StreamId) -> Result<Arc<dyn iommu_api::IommuUnit>, &'static str> {
        let Some(topology) = &self.topology else { return Err("the machine has no usable IOMMU table") };
        let Some(id) = topology.unit_for(stream, &Resolver(&self.tree)) else {
            return Err("no unit of the DMAR table covers it");
        };
        iommu::unit_for(&self.units, Some(id)).ok_or("its unit could not be brought up")
    }

    /// The function as drivers reach it; sizes its BARs, so nobody else may be using it.
    pub fn function(&self, f: &FunctionInfo) -> Arc<MachineFunction> {
        Arc::new(PciFunction::new(f.clone(), self.ecam, BARS.call_once(Bars::default), Machine))
    }

    fn sort_functions(&mut self) {
        let mut number = 0;
        for (id, group) in self.groups.iter().enumerate() {
            let members = || group.members.iter().filter_map(|s| self.tree.get(*s));
            let endpoints: Vec<&FunctionInfo> = members().filter(|f| machine_pci::is_endpoint(f)).collect();
            let mut requesters = Vec::new();
            let mut why_not = None;
            for stream in endpoints.iter().flat_map(|f| self.tree.aliases(f.stream)) {
                match self.unit_for(stream) {
                    Ok(unit) if !requesters.iter().any(|r: &Requester| r.stream == stream) => {
                        requesters.push(Requester { unit, stream });
                    }
                    Ok(_) => {}
                    Err(why) => why_not = Some(why),
                }
            }
            if let Some(why) = why_not {
                for f in &endpoints {
                    log::warn!("iommu: {} is UNPROTECTED: {why}; it stays without bus mastering", f.stream);
                    let device = f.stream.to_string();
                    events::send("unprotected", &[("device", Value::Text(&device)), ("why", Value::Text(why))]);
                    self.unprotected.push((f.stream, why));
                }
                continue;
            }
            let reasons: Vec<_> = group.reasons.iter().map(|r| r.to_string()).collect();
            let resolver = Resolver(&self.tree);
            // Streams of a group move together, so what firmware wants of one binds all.
            let mut reserved = alloc::vec![Reserved::x86_msi()];
            for stream in requesters.iter().map(|r| r.stream) {
                for region in self.topology.iter().flat_map(|t| t.reserved_for(stream, &resolver)) {
                    let range = IovaRange::new(region.range.first.0, region.range.last.0);
                    if let Some(range) = range.filter(|range| !reserved.iter().any(|r| r.range == *range)) {
                        reserved.push(Reserved { range, why: region.why.to_string(), direct: true });
                    }
                }
            }
            let spec = GroupSpec { id: id as u32, requesters, why: reasons.join("; ") };
            let shared = match endpoints.iter().find(|f| link_card(f)) {
                Some(card) => Group::kept(spec, card.stream.to_string()),
                None => Group::new(spec),
            };
            for f in endpoints {
                // The card of the link is the kernel's own.
                if link_card(f) {
                    continue;
                }
                let Ok(unit) = self.unit_for(f.stream) else { continue };
                let spec = DeviceSpec {
                    name: format!("{} {:04x}:{:04x}", f.stream, f.ids.vendor, f.ids.device),
                    unit,
                    stream: f.stream,
                    group: shared.clone(),
                    reserved: reserved.clone(),
                };
                let function = self.function(f);
                let migration = migration_driver(&*function);
                self.devices.push(vfio::Device::new(vfio::DeviceParts {
                    name: format!("vfio{number}"),
                    function,
                    spec,
                    migration,
                    memory: Arc::new(Machine),
                    clock: Arc::new(Machine),
                }));
                number += 1;
            }
        }
    }
}

/// The migration driver of a function, if we have one.
fn migration_driver(function: &dyn Function) -> Option<Box<dyn Migratable>> {
    let ids = function.ids();
    if edu::matches(&ids) {
        return Some(Box::new(edu::Edu::new()));
    }
    if igb::matches(&ids) {
        return Some(Box::new(igb::Igb::new()));
    }
    None
}

/// Is it the virtio network card (virtio 1.2 section 5.1, PCI id 1af4:1041) that the kernel keeps for itself?
pub fn link_card(f: &FunctionInfo) -> bool {
    (f.ids.vendor, f.ids.device) == (0x1af4, 0x1041)
}
