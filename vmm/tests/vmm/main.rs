//! Tests of `bulkhead-vmm` as a process, with guests of a few instructions. They need `/dev/kvm`; where it is missing they say
//! so and pass, or fail when `BULKHEAD_REQUIRE_KVM=1`.

#[cfg(test)]
mod assist;
#[cfg(test)]
mod balloon;
#[cfg(test)]
mod clones;
#[cfg(test)]
mod control;
#[cfg(test)]
mod detection;
#[cfg(test)]
mod ends;
#[cfg(test)]
mod forged;
#[cfg(test)]
mod guest;
#[cfg(test)]
mod kernel;
#[cfg(test)]
mod media;
#[cfg(test)]
mod memory;
#[cfg(test)]
mod network;
#[cfg(test)]
mod owner;
#[cfg(test)]
mod refusals;
#[cfg(test)]
mod saving;
#[cfg(test)]
mod shares;
#[cfg(test)]
mod slots;
#[cfg(test)]
mod snapshot;
