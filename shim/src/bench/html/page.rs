//! The page: heading, host, and for each group its drawings and tables.

use std::fmt::Write as _;

use super::{
    bars, curves,
    svg::{colour, escape},
};
use crate::bench::{
    report::{Group, Plot, Report},
    stats::Summary,
};

const STYLE: &str = include_str!("page.css");

/// The whole page.
#[must_use]
pub fn page(report: &Report) -> String {
    let mut out = String::new();
    let title = escape(&report.title);
    push(
        &mut out,
        format_args!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n\
         <p class=\"soft\">{} · bulkhead {}</p>\n",
            report.made,
            escape(&report.version),
        ),
    );
    out += "<dl>\n";
    for fact in &report.host {
        definition(&mut out, &fact.name, &fact.value);
    }
    for subject in report.subjects.iter().filter(|subject| !subject.about.is_empty()) {
        definition(&mut out, &subject.name, &subject.about);
    }
    out += "</dl>\n";
    for note in &report.notes {
        push(&mut out, format_args!("<p>{}</p>\n", escape(note)));
    }
    for group in &report.groups {
        section(&mut out, report, group);
    }
    let command = report.arguments.join(" ");
    push(
        &mut out,
        format_args!(
            "<footer>Made by <code>{}</code>. Percentiles are samples (nearest rank); the median of an even number is the mean of the two in the middle.</footer>\n</body>\n</html>\n",
            escape(&command)
        ),
    );
    out
}

fn definition(out: &mut String, name: &str, value: &str) {
    push(out, format_args!("<dt>{}</dt><dd>{}</dd>\n", escape(name), escape(value)));
}

fn section(out: &mut String, report: &Report, group: &Group) {
    push(
        out,
        format_args!(
            "<section id=\"{}\">\n<h2>{}</h2>\n<p class=\"about\">{}</p>\n",
            escape(&group.key),
            escape(&group.title),
            escape(&group.about)
        ),
    );
    for plot in &group.plots {
        let drawing = match plot {
            Plot::Stacked { measures, .. } => bars::stacked(report, group, measures),
            Plot::Bars { measures, .. } => bars::plain(report, group, measures),
            Plot::Cdf { measure, .. } => curves::cdf(report, group, measure),
            Plot::Line { measure, across, .. } => curves::line(report, group, measure, across),
        };
        push(
            out,
            format_args!(
                "<figure>\n<figcaption>{}</figcaption>\n{drawing}</figure>\n",
                escape(plot.title())
            ),
        );
    }
    if !group.measures.is_empty() {
        measures(out, report, group);
    }
    if !group.findings.is_empty() {
        findings(out, report, group);
    }
    *out += "</section>\n";
}

fn measures(out: &mut String, report: &Report, group: &Group) {
    *out += "<div class=\"scroll\"><table>\n<thead><tr><th></th><th></th>";
    for heading in ["n", "min", "p50", "p90", "p99", "max"] {
        push(out, format_args!("<th class=\"n\">{heading}</th>"));
    }
    *out += "</tr></thead>\n<tbody>\n";
    for measure in &group.measures {
        let mut name = measure.name.as_str();
        for (n, subject) in report.subjects.iter().enumerate() {
            let Some(samples) = measure.samples.get(&subject.key) else { continue };
            let Some(summary) = Summary::of(samples) else { continue };
            push(
                out,
                format_args!(
                    "<tr><th>{}</th><td class=\"key\" style=\"--key:{}\">{}</td><td class=\"n\">{}</td>",
                    escape(name),
                    colour(n),
                    escape(&subject.name),
                    samples.len()
                ),
            );
            name = "";
            for figure in [summary.min, summary.p50, summary.p90, summary.p99, summary.max] {
                push(
                    out,
                    format_args!("<td class=\"n\">{}</td>", escape(&measure.unit.show(figure))),
                );
            }
            *out += "</tr>\n";
        }
    }
    *out += "</tbody>\n</table></div>\n";
}

fn findings(out: &mut String, report: &Report, group: &Group) {
    let has = |key: &String| group.findings.iter().any(|finding| finding.values.contains_key(key));
    let subjects: Vec<_> = report.subjects.iter().filter(|subject| has(&subject.key)).collect();
    *out += "<div class=\"scroll\"><table>\n<thead><tr><th></th>";
    for subject in &subjects {
        push(out, format_args!("<th>{}</th>", escape(&subject.name)));
    }
    *out += "</tr></thead>\n<tbody>\n";
    for finding in &group.findings {
        push(out, format_args!("<tr><th>{}</th>", escape(&finding.name)));
        for subject in &subjects {
            let value = finding.values.get(&subject.key).map_or("–", String::as_str);
            let class = if finding.bad.contains(&subject.key) { " class=\"bad\"" } else { "" };
            push(out, format_args!("<td{class}>{}</td>", escape(value)));
        }
        *out += "</tr>\n";
    }
    *out += "</tbody>\n</table></div>\n";
}

fn push(out: &mut String, text: std::fmt::Arguments<'_>) {
    // A string takes everything.
    let _ = out.write_fmt(text);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::sample;

    #[test]
    fn the_page_has_everything_and_needs_nothing() {
        let page = page(&sample::report());
        for text in [
            "Start-up of busybox &amp; co",
            "hardware &lt;b&gt; [31m",
            "<figcaption>Phases of a start</figcaption>",
            "vm, clone: 41.2 ms until program&#39;s first instruction",
            "<td class=\"bad\">6.1 (host)</td>",
        ] {
            assert!(page.contains(text), "{text}\n{page}");
        }
        assert_eq!(page.matches("<svg").count(), 4);
        for other in ["http:", "https:", "src=", "url(", "<script", "@import", "<link"] {
            assert!(!page.contains(other), "{other}");
        }
        assert!(!page.contains("NaN") && !page.contains("inf"), "{page}");
    }

    #[test]
    fn a_report_without_samples_has_a_page() {
        let mut report = sample::report();
        for group in &mut report.groups {
            group.measures.iter_mut().for_each(|measure| measure.samples.clear());
        }
        let page = page(&report);
        assert!(!page.contains("NaN") && page.ends_with("</html>\n"), "{page}");
    }
}
