//! Text of SVG and HTML.

use std::fmt::Write as _;

/// Width of every drawing in its own units; the page scales it.
pub(super) const WIDTH: f64 = 900.0;
/// Room for names at the left.
pub(super) const LEFT: f64 = 150.0;
/// Room for figures at the right.
pub(super) const RIGHT: f64 = 90.0;
/// So many colours are told apart; then they begin again.
const COLOURS: usize = 8;

/// Text that means nothing to HTML.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

/// The colour of the `n`th thing.
pub(super) fn colour(n: usize) -> String {
    format!("var(--c{})", n % COLOURS)
}

/// A drawing that grows.
#[derive(Debug, Default)]
pub(super) struct Drawing(String);

impl Drawing {
    /// Ends it. `label` is for who cannot see it.
    pub(super) fn finish(self, height: f64, label: &str) -> String {
        format!(
            "<svg viewBox=\"0 0 {WIDTH} {height:.0}\" role=\"img\" aria-label=\"{}\">{}</svg>\n",
            escape(label),
            self.0
        )
    }

    pub(super) fn line(&mut self, class: &str, from: (f64, f64), to: (f64, f64)) {
        let ((x1, y1), (x2, y2)) = (from, to);
        self.push(format_args!(
            "<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>"
        ));
    }

    /// A filled rectangle with words that appear under the pointer.
    pub(super) fn block(&mut self, at: (f64, f64), size: (f64, f64), fill: &str, hint: &str) {
        let ((x, y), (width, height)) = (at, size);
        self.push(format_args!(
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{height:.1}\" rx=\"2\" fill=\"{fill}\"><title>{}</title></rect>",
            width.max(0.5),
            escape(hint)
        ));
    }

    /// `anchor`: start, middle or end.
    pub(super) fn text(&mut self, class: &str, at: (f64, f64), anchor: &str, words: &str) {
        let (x, y) = at;
        self.push(format_args!(
            "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{}</text>",
            escape(words)
        ));
    }

    /// A line through points.
    pub(super) fn path(&mut self, points: &[(f64, f64)], stroke: &str, hint: &str) {
        let mut d = String::new();
        for (n, (x, y)) in points.iter().enumerate() {
            // A string takes everything.
            let _ = write!(d, "{}{x:.1} {y:.1}", if n == 0 { "M" } else { "L" });
        }
        self.push(format_args!(
            "<path d=\"{d}\" fill=\"none\" stroke=\"{stroke}\" stroke-width=\"2\" stroke-linejoin=\"round\"><title>{}</title></path>",
            escape(hint)
        ));
    }

    fn push(&mut self, element: std::fmt::Arguments<'_>) {
        // As above.
        let _ = self.0.write_fmt(element);
    }
}

/// The names of colours, as a list.
pub(super) fn legend<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let items = names
        .enumerate()
        .map(|(n, name)| format!("<li style=\"--key:{}\">{}</li>", colour(n), escape(name)));
    format!("<ul class=\"legend\">{}</ul>\n", items.collect::<String>())
}
