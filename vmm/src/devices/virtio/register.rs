//! The MMIO register map (virtio 1.3, 4.2.2).

/// Where the device-specific configuration space begins.
pub(super) const CONFIG: u64 = 0x100;
/// `MagicValue`: "virt".
pub(super) const MAGIC: u32 = 0x7472_6976;
/// `Version`: not legacy.
pub(super) const VERSION: u32 = 2;
/// `VendorID`: "BLKH".
pub(super) const VENDOR: u32 = u32::from_le_bytes(*b"BLKH");

/// A register, named as in the specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Register {
    MagicValue,
    Version,
    DeviceId,
    VendorId,
    DeviceFeatures,
    DeviceFeaturesSel,
    DriverFeatures,
    DriverFeaturesSel,
    QueueSel,
    QueueSizeMax,
    QueueSize,
    QueueReady,
    QueueNotify,
    InterruptStatus,
    InterruptAck,
    Status,
    QueueDescLow,
    QueueDescHigh,
    QueueDriverLow,
    QueueDriverHigh,
    QueueDeviceLow,
    QueueDeviceHigh,
    ShmLenLow,
    ShmLenHigh,
    ShmBaseLow,
    ShmBaseHigh,
    ConfigGeneration,
}

impl Register {
    /// The register at `offset`; `None` where there is none.
    pub(super) fn at(offset: u64) -> Option<Self> {
        Some(match offset {
            0x000 => Self::MagicValue,
            0x004 => Self::Version,
            0x008 => Self::DeviceId,
            0x00c => Self::VendorId,
            0x010 => Self::DeviceFeatures,
            0x014 => Self::DeviceFeaturesSel,
            0x020 => Self::DriverFeatures,
            0x024 => Self::DriverFeaturesSel,
            0x030 => Self::QueueSel,
            0x034 => Self::QueueSizeMax,
            0x038 => Self::QueueSize,
            0x044 => Self::QueueReady,
            0x050 => Self::QueueNotify,
            0x060 => Self::InterruptStatus,
            0x064 => Self::InterruptAck,
            0x070 => Self::Status,
            0x080 => Self::QueueDescLow,
            0x084 => Self::QueueDescHigh,
            0x090 => Self::QueueDriverLow,
            0x094 => Self::QueueDriverHigh,
            0x0a0 => Self::QueueDeviceLow,
            0x0a4 => Self::QueueDeviceHigh,
            0x0b0 => Self::ShmLenLow,
            0x0b4 => Self::ShmLenHigh,
            0x0b8 => Self::ShmBaseLow,
            0x0bc => Self::ShmBaseHigh,
            0x0fc => Self::ConfigGeneration,
            _ => return None,
        })
    }
}
