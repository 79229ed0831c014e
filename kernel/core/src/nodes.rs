//! /dev/iommu, /dev/vfio, and what programs read about devices in /sys, with Linux's names and texts.

use crate::devices::Inventory;
use crate::events;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use device_api::{BarKind, Function, Ids};
use syscall::{iommu_node, vfio_node};
use vfs::{Node, Tree};

/// Adds them to the tree.
pub fn install(tree: &Tree, inventory: &'static Inventory) {
    let put = |path: &str, node: Arc<Node>| {
        if let Err(error) = tree.install(path, node) {
            log::error!("{path}: {error:?}");
        }
    };
    if !inventory.units.is_empty() {
        put("/dev/iommu", iommu_node(|| events::send("ioas", &[])));
    }
    put("/dev/vfio/devices", Node::directory(0o755));
    put("/sys/bus/pci/devices", Node::directory(0o755));
    for (number, device) in inventory.devices.iter().enumerate() {
        put(&format!("/dev/vfio/devices/{}", device.name()), vfio_node(device.clone(), number as u32));
        let function = device.function();
        let stream = function.stream().to_string();
        let dir = format!("/sys/bus/pci/devices/{stream}");
        let group = device.spec().group.id();
        for (name, text) in texts(&function.ids()) {
            put(&format!("{dir}/{name}"), Node::text(move || text.clone().into_bytes()));
        }
        let resource = resource(&**function);
        put(&format!("{dir}/resource"), Node::text(move || resource.clone().into_bytes()));
        put(&format!("{dir}/iommu_group"), Node::link(format!("/sys/kernel/iommu_groups/{group}").as_bytes()));
        put(&format!("{dir}/driver"), Node::link(b"/sys/bus/pci/drivers/vfio-pci"));
        let number = format!("511:{number}\n");
        put(&format!("{dir}/vfio-dev/{}/dev", device.name()), Node::text(move || number.clone().into_bytes()));
        put(&format!("/sys/kernel/iommu_groups/{group}/devices/{stream}"), Node::link(dir.as_bytes()));
        put(&format!("/sys/bus/pci/drivers/vfio-pci/{stream}"), Node::link(dir.as_bytes()));
        let why = format!("{}\n", device.spec().group.why());
        put(&format!("/sys/kernel/iommu_groups/{group}/why"), Node::text(move || why.clone().into_bytes()));
    }
}

/// One value per file.
fn texts(ids: &Ids) -> [(&'static str, String); 6] {
    [
        ("vendor", format!("{:#06x}\n", ids.vendor)),
        ("device", format!("{:#06x}\n", ids.device)),
        ("subsystem_vendor", format!("{:#06x}\n", ids.subsystem_vendor)),
        ("subsystem_device", format!("{:#06x}\n", ids.subsystem)),
        ("revision", format!("{:#04x}\n", ids.revision)),
        ("class", format!("{:#08x}\n", ids.class)),
    ]
}

/// First address, last address and flags of each BAR (IORESOURCE_IO 0x100, _MEM 0x200, _PREFETCH 0x2000, _MEM_64 0x100000).
fn resource(function: &dyn Function) -> String {
    let mut text = String::new();
    for bar in function.bars() {
        let (first, last, flags) = match bar {
            None => (0, 0, 0),
            Some(bar) => {
                let flags = match bar.kind {
                    BarKind::Io => 0x100,
                    BarKind::Memory { wide, prefetchable } => {
                        0x200 | if prefetchable { 0x2000 } else { 0 } | if wide { 0x10_0000 } else { 0 }
                    }
                };
                (bar.phys.0, bar.phys.0 + (bar.size - 1), flags)
            }
        };
        text.push_str(&format!("{first:#018x} {last:#018x} {flags:#018x}\n"));
    }
    // The expansion ROM is not offered.
    text.push_str(&format!("{:#018x} {:#018x} {:#018x}\n", 0, 0, 0));
    text
}
