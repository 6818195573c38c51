//! What a scout in a container is told to do, under each isolation in turns, and what that costs: the part that `bench io` and `bench net` share.

mod figures;
mod follow;

use std::{collections::BTreeMap, path::Path, time::Duration};

use bulkhead_scout::{FILE, Order};

use self::follow::{Cost, Of};
pub(in crate::bench) use self::{figures::group, follow::Follower};
use super::{BenchError, progress::Steps};
use crate::settings::Isolation;

/// What is wanted.
#[derive(Debug)]
pub struct Options {
    /// An image's name or source.
    pub image: String,
    /// The isolations; both, when empty.
    pub isolations: Vec<Isolation>,
    /// Times that each step is done.
    pub rounds: u64,
    /// Bytes of what is large.
    pub bytes: u64,
    /// How many of what is small.
    pub count: u64,
    /// How long an answer may take.
    pub limit: Duration,
}

impl Options {
    /// Whether this isolation is to be measured, and can be; a note says why it cannot.
    pub(in crate::bench) fn wants(&self, isolation: Isolation, notes: &mut Vec<String>) -> bool {
        if !self.isolations.is_empty() && !self.isolations.contains(&isolation) {
            return false;
        }
        let can = isolation != Isolation::Vm || Path::new("/dev/kvm").exists();
        if !can {
            notes.push("vm is left out: there is no /dev/kvm".into());
        }
        can
    }
}

/// What figures belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::bench) enum Area {
    /// The image's disk and the writable layer.
    Block,
    /// A directory of the host.
    Share,
    /// The program's standard streams.
    Streams,
    /// What is at the other end of its interface.
    Network,
}

/// What one of a step's operations is, and so which figures it gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::bench) enum Form {
    /// So many bytes: how many a second, and what each [`FILE`] of them costs.
    Bytes,
    /// So many things: how many a second, and what each of them costs.
    Things,
}

/// A step.
#[derive(Debug, Clone, Copy)]
pub(in crate::bench) struct Step {
    /// Its name for programs.
    pub(in crate::bench) key: &'static str,
    /// Its name for people.
    pub(in crate::bench) name: &'static str,
    pub(in crate::bench) area: Area,
    pub(in crate::bench) form: Form,
    pub(in crate::bench) order: fn(&Sizes) -> Order,
}

/// How much is done.
#[derive(Debug, Clone, Copy)]
pub(in crate::bench) struct Sizes {
    /// Bytes of what is large.
    pub(in crate::bench) bytes: u64,
    /// How many of what is small.
    pub(in crate::bench) count: u64,
    /// The round, from 0: each reads another part, which nobody has read.
    pub(in crate::bench) round: u64,
}

/// Steps: area, form, key, name, order.
macro_rules! steps {
    ($($area:ident $form:ident $key:literal $name:literal $order:expr;)*) => {
        &[$($crate::bench::orders::Step { key: $key, name: $name, area: $crate::bench::orders::Area::$area, form: $crate::bench::orders::Form::$form, order: $order }),*]
    };
}
pub(super) use steps;

impl Step {
    /// What the scout is told.
    pub(in crate::bench) fn order(&self, sizes: &Sizes) -> Order {
        (self.order)(sizes)
    }
}

impl Form {
    /// How many units of cost these operations and bytes are.
    #[allow(clippy::cast_precision_loss, reason = "far less than 2^52 bytes are moved")]
    pub(in crate::bench) fn units(self, operations: u64, bytes: u64) -> f64 {
        match self {
            Self::Bytes => bytes as f64 / FILE as f64,
            Self::Things => operations as f64,
        }
    }
}

/// What each step cost, by the step's key and the isolation.
pub(in crate::bench) type Costs = BTreeMap<(&'static str, &'static str), Vec<Cost>>;

/// Has the steps done by all in turns, so many rounds of them.
///
/// # Errors
/// [`BenchError`].
pub(in crate::bench) fn measure(
    scouts: &mut [&mut Follower],
    steps: &[Step],
    rounds: u64,
    (bytes, count): (u64, u64),
) -> Result<Costs, BenchError> {
    let mut costs = Costs::new();
    let bar = Steps::new(rounds * steps.len() as u64);
    for round in 0..rounds {
        for step in steps {
            let sizes = Sizes { bytes, count, round };
            for scout in &mut *scouts {
                bar.begin(&format!("{}: {}", scout.isolation, step.name));
                let idle = scout.follow(&Order::Nothing, of(step.area))?;
                let cost = match scout.follow(&step.order(&sizes), of(step.area)) {
                    Ok(cost) => cost,
                    // An image need not have so large a file.
                    Err(BenchError::Invalid { .. }) if step.key.starts_with("image") => continue,
                    Err(error) => return Err(error),
                };
                let of_step = costs.entry((step.key, scout.isolation.name())).or_default();
                of_step.push(beyond(cost, &idle));
            }
            bar.done();
        }
    }
    Ok(costs)
}

/// Without what an order to do nothing costs. Its time stays with streams, which are measured from outside; it is next to nothing.
fn beyond(cost: Cost, idle: &Cost) -> Cost {
    Cost {
        instructions: cost.instructions.saturating_sub(idle.instructions),
        requests: cost.requests.saturating_sub(idle.requests),
        processor: cost.processor.saturating_sub(idle.processor),
        ..cost
    }
}

fn of(area: Area) -> Of {
    match area {
        Area::Block => |counters| counters.block_requests,
        Area::Share => |counters| counters.share_requests,
        Area::Streams => |counters| counters.vsock_packets,
        Area::Network => |counters| counters.net_received + counters.net_sent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_are_of_pages_or_things() {
        assert_eq!(Form::Bytes.units(7, 8192), 2.0);
        assert_eq!(Form::Things.units(7, 8192), 7.0);
    }
}
