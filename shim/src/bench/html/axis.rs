//! From numbers to places: linear, or logarithmic where the numbers are of different sizes.

use super::svg::Drawing;
use crate::bench::report::Unit;

/// Numbers further apart than this are drawn on a logarithmic axis.
const FAR: f64 = 30.0;

/// An axis.
#[derive(Debug)]
pub(super) struct Axis {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
    logarithmic: bool,
}

impl Axis {
    /// From zero to the biggest of these.
    pub(super) fn from_zero(values: impl Iterator<Item = f64>, from: f64, to: f64) -> Self {
        let high = values.fold(0.0, f64::max);
        Self { low: 0.0, high: positive(high), from, to, logarithmic: false }
    }

    /// Just around these.
    pub(super) fn around(values: impl Iterator<Item = f64>, from: f64, to: f64) -> Self {
        let (low, high) = values.fold((f64::INFINITY, 0.0), |(low, high), value| {
            (f64::min(low, value), f64::max(high, value))
        });
        if low > 0.0 && low.is_finite() && high / low > FAR {
            return Self { low: low * 0.9, high: high * 1.1, from, to, logarithmic: true };
        }
        let low = if low.is_finite() { low } else { 0.0 };
        let room = positive(high - low) * 0.05;
        Self { low: (low - room).max(0.0), high: high + room, from, to, logarithmic: false }
    }

    /// Where a number is.
    pub(super) fn place(&self, value: f64) -> f64 {
        let part = if self.logarithmic {
            (value.max(self.low) / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        self.from + part.clamp(0.0, 1.0) * (self.to - self.from)
    }

    /// Round numbers on it.
    pub(super) fn ticks(&self, unit: Unit) -> Vec<f64> {
        if self.logarithmic {
            let decades = (self.high / self.low).log10();
            let steps: &[f64] = if decades > 4.0 { &[1.0] } else { &[1.0, 2.0, 5.0] };
            let mut ticks = Vec::new();
            let mut decade = 10_f64.powf(self.low.log10().floor());
            while decade <= self.high && ticks.len() < 40 {
                let inside = |tick: &f64| (self.low..=self.high).contains(tick);
                ticks.extend(steps.iter().map(|step| decade * step).filter(inside));
                decade *= 10.0;
            }
            return ticks;
        }
        let step = self.step(unit);
        let mut tick = (self.low / step).ceil() * step;
        let mut ticks = Vec::new();
        while tick <= self.high * 1.000_001 && ticks.len() < 20 {
            ticks.push(tick);
            tick += step;
        }
        ticks
    }

    /// A fifth of the axis, more or less: 1, 2 or 5 and noughts; of bytes a power of two.
    fn step(&self, unit: Unit) -> f64 {
        let rough = (self.high - self.low) / 5.0;
        if matches!(unit, Unit::Bytes | Unit::BytesPerSecond) {
            return 2_f64.powf(rough.log2().round());
        }
        let decade = 10_f64.powf(rough.log10().floor());
        let steps = [1.0, 2.0, 5.0, 10.0];
        let step = steps.into_iter().find(|step| decade * step >= rough).unwrap_or(10.0);
        decade * step
    }

    /// Draws it along the lower edge, with lines upwards from `bottom` to `top`.
    pub(super) fn draw_below(&self, drawing: &mut Drawing, unit: Unit, top: f64, bottom: f64) {
        for tick in self.ticks(unit) {
            let x = self.place(tick);
            drawing.line("grid", (x, top), (x, bottom));
            drawing.text("", (x, bottom + 16.0), "middle", &unit.show_round(tick));
        }
    }

    /// Draws it along the left edge, with lines from `left` to `right`.
    pub(super) fn draw_left(&self, drawing: &mut Drawing, unit: Unit, left: f64, right: f64) {
        for tick in self.ticks(unit) {
            let y = self.place(tick);
            drawing.line("grid", (left, y), (right, y));
            drawing.text("", (left - 8.0, y + 4.0), "end", &unit.show_round(tick));
        }
    }
}

/// An axis has a length.
fn positive(length: f64) -> f64 {
    if length > 0.0 && length.is_finite() { length } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_has_round_numbers_in_its_bounds() {
        let axis = Axis::from_zero([3.0, 87.0].into_iter(), 100.0, 600.0);
        assert_eq!(axis.ticks(Unit::Milliseconds), [0.0, 20.0, 40.0, 60.0, 80.0]);
        assert_eq!((axis.place(0.0), axis.place(87.0), axis.place(1e9)), (100.0, 600.0, 600.0));
        let axis = Axis::around([10.0, 11_000.0].into_iter(), 0.0, 1.0);
        assert!(axis.logarithmic);
        assert_eq!(axis.ticks(Unit::Milliseconds)[..4], [10.0, 20.0, 50.0, 100.0]);
        let axis = Axis::from_zero([12_582_912.0].into_iter(), 0.0, 1.0);
        assert_eq!(axis.ticks(Unit::Bytes)[1], 2_097_152.0);
    }

    #[test]
    fn nothing_and_one_number_are_drawn_too() {
        for values in [vec![], vec![0.0], vec![5.0], vec![f64::INFINITY]] {
            for axis in [
                Axis::from_zero(values.iter().copied(), 0.0, 1.0),
                Axis::around(values.iter().copied(), 0.0, 1.0),
            ] {
                assert!(axis.ticks(Unit::Count).len() < 50);
                assert!(axis.place(5.0).is_finite() || values == [f64::INFINITY]);
            }
        }
    }
}
