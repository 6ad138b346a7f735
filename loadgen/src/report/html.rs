//! A report as one HTML page that needs nothing else: charts as inline SVG, no scripts. Latency spectrum, what happened
//! second by second, and the load-latency curve if there is one. Refuses to load anything from anywhere.

use super::{Report, screen};
use crate::compare::{self, SideReports};
use std::fmt::Write;

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 70.0;
const BOTTOM: f64 = 40.0;
const TOP: f64 = 14.0;
const COLORS: [&str; 4] = ["#1f6feb", "#d1572c", "#2da44e", "#8250df"];
const STYLE: &str = "body{font:15px/1.45 system-ui,sans-serif;max-width:900px;margin:2em auto;padding:0 1em;color:#1f2328}\
pre{background:#f6f8fa;padding:1em;overflow-x:auto;font-size:12.5px}h1{font-size:1.35em}h2{margin-top:1.8em;font-size:1.15em}svg{width:100%;height:auto}\
table{border-collapse:collapse;font-size:12.5px}td,th{padding:.15em .9em .15em 0;text-align:left}td+td,th+th{text-align:right}\
.bad{background:#ffebe9;border-left:4px solid #cf222e;padding:.5em 1em}text{font:12px system-ui,sans-serif;fill:#57606a}.event{fill:#cf222e}.wrap{white-space:pre-wrap;overflow-wrap:anywhere}";

/// A line of a chart.
struct Line<'a> {
    name: &'a str,
    points: Vec<(f64, f64)>,
}

/// How values are spread over an axis.
#[derive(Clone, Copy, PartialEq)]
enum Scale {
    Linear,
    /// Powers of ten.
    Log,
    /// How many nines: 0.9, 0.99, 0.999 are equally far apart.
    Nines,
}

impl Scale {
    fn place(self, value: f64) -> f64 {
        match self {
            Scale::Linear => value,
            Scale::Log => value.max(1e-3).log10(),
            Scale::Nines => -(1.0 - value).max(1e-9).log10(),
        }
    }

    /// Where the marks of an axis stand, and what is written there.
    fn marks(self, low: f64, high: f64, text: fn(f64) -> String) -> Vec<(f64, String)> {
        match self {
            Scale::Linear => {
                let step = nice_step(high - low);
                let (first, last) = ((low / step).ceil() as i32, (high / step).floor() as i32);
                (first..=last).map(|mark| step * f64::from(mark)).map(|at| (at, text(at))).collect()
            }
            Scale::Log => (low.ceil() as i32..=high.floor() as i32).map(|at| (f64::from(at), text(10f64.powi(at)))).collect(),
            Scale::Nines => (0..=high.floor() as i32)
                .map(|nines| {
                    let text = match nines {
                        0 => "0 %".into(),
                        1 => "90 %".into(),
                        2 => "99 %".into(),
                        _ => format!("99.{} %", "9".repeat(nines as usize - 2)),
                    };
                    (f64::from(nines), text)
                })
                .collect(),
        }
    }
}

/// A scale, and what is written at its marks.
type Axis = (Scale, fn(f64) -> String);

/// 1, 2 or 5 times a power of ten, for some five marks.
fn nice_step(span: f64) -> f64 {
    let raw = (span / 5.0).max(1e-9);
    let power = 10f64.powf(raw.log10().floor());
    [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|step| *step >= raw).unwrap_or(raw)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn chart(lines: &[Line<'_>], (x, x_text): Axis, (y, y_text): Axis, events: &[(f64, String)]) -> String {
    let placed: Vec<Vec<(f64, f64)>> =
        lines.iter().map(|line| line.points.iter().map(|(at, value)| (x.place(*at), y.place(*value))).collect()).collect();
    let all = || placed.iter().flatten();
    if all().count() < 2 {
        return String::new();
    }
    let edge = |pick: fn(&(f64, f64)) -> f64| {
        all().map(pick).fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)))
    };
    let ((x_low, x_high), (mut y_low, mut y_high)) = (edge(|point| point.0), edge(|point| point.1));
    match y {
        Scale::Linear => (y_low, y_high) = (0.0, if y_high > 0.0 { y_high * 1.05 } else { 1.0 }),
        _ => (y_low, y_high) = (y_low.floor(), y_high.ceil().max(y_low.floor() + 1.0)),
    }
    let px = |at: f64| LEFT + (at - x_low) / (x_high - x_low).max(1e-9) * (WIDTH - LEFT - 20.0);
    let py = |at: f64| HEIGHT - BOTTOM - (at - y_low) / (y_high - y_low) * (HEIGHT - BOTTOM - TOP);
    let mut out = format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">");
    for (at, text) in y.marks(y_low, y_high, y_text) {
        let (at, left, right) = (py(at), LEFT, WIDTH - 20.0);
        let _ = write!(out, "<line x1=\"{left}\" x2=\"{right}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#d8dee4\"/>");
        let _ = write!(out, "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{text}</text>", left - 8.0, at + 4.0);
    }
    for (at, text) in x.marks(x_low, x_high, x_text) {
        let _ = write!(out, "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{text}</text>", px(at), HEIGHT - BOTTOM + 18.0);
    }
    for (at, text) in events {
        let at = px(x.place(*at));
        let (top, bottom) = (TOP, HEIGHT - BOTTOM);
        let _ =
            write!(out, "<line x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{top}\" y2=\"{bottom}\" stroke=\"#cf222e\" stroke-dasharray=\"4 3\">");
        let _ = write!(out, "<title>{}</title></line>", escape(text));
        // Beside the line, on the side that has room.
        let (beside, anchor) = if at > WIDTH * 0.6 { (at - 5.0, "end") } else { (at + 5.0, "start") };
        let short: String = text.chars().take(40).collect();
        let _ =
            write!(out, "<text x=\"{beside:.1}\" y=\"{}\" text-anchor=\"{anchor}\" class=\"event\">{}</text>", top + 10.0, escape(&short));
    }
    for (number, (line, points)) in lines.iter().zip(&placed).enumerate() {
        let color = COLORS[number % COLORS.len()];
        let path: Vec<String> = points.iter().map(|(at, value)| format!("{:.1},{:.1}", px(*at), py(*value))).collect();
        let _ = write!(out, "<polyline fill=\"none\" stroke=\"{color}\" stroke-width=\"1.8\" points=\"{}\"/>", path.join(" "));
        let at = LEFT + 10.0 + 150.0 * number as f64;
        let _ = write!(out, "<rect x=\"{at}\" y=\"{}\" width=\"12\" height=\"3\" fill=\"{color}\"/>", HEIGHT - 9.0);
        let _ = write!(out, "<text x=\"{}\" y=\"{}\">{}</text>", at + 17.0, HEIGHT - 4.0, escape(line.name));
    }
    out + "</svg>"
}

fn us_mark(us: f64) -> String {
    match us {
        us if us >= 1e6 => format!("{} s", us / 1e6),
        us if us >= 1e3 => format!("{} ms", us / 1e3),
        us => format!("{us} us"),
    }
}

fn count_mark(count: f64) -> String {
    super::si(count)
}

fn second_mark(second: f64) -> String {
    // Marks are multiples of a step, and 3 * 0.2 is not 0.6.
    format!("{} s", (second * 1000.0).round() / 1000.0)
}

/// The page.
pub fn html(report: &Report) -> String {
    let mut body = format!("<h1>{}</h1>", escape(&report.title));
    let bad = report.generator.invalid.iter().map(|why| format!("Invalid: {why}"));
    let wrong = (!report.is_clean()).then(|| format!("{} replies were wrong", report.errors));
    for text in bad.chain(wrong).chain(report.ended_early.clone()) {
        let _ = write!(body, "<p class=\"bad\">{}</p>", escape(&text));
    }
    let _ = write!(body, "<pre>{}</pre>", escape(&screen(report)));
    let spectrum = |points: &[(f64, f64)]| points.iter().filter(|(quantile, _)| *quantile < 1.0).copied().collect::<Vec<_>>();
    let mut lines = vec![Line { name: "response", points: spectrum(&report.spectrum) }];
    if !report.service_spectrum.is_empty() {
        lines.push(Line { name: "service", points: spectrum(&report.service_spectrum) });
    }
    section(&mut body, "Latency spectrum", &chart(&lines, (Scale::Nines, us_mark), (Scale::Log, us_mark), &[]));
    let series = |value: fn(&crate::conductor::Row) -> f64| report.rows.iter().map(|row| (f64::from(row.second), value(row))).collect();
    let events: Vec<(f64, String)> = report.actions.iter().map(|action| (action.at_s, action.command.clone())).collect();
    let ops = [Line { name: "operations per second", points: series(|row| row.ops as f64) }];
    section(&mut body, "Throughput", &chart(&ops, (Scale::Linear, second_mark), (Scale::Linear, count_mark), &events));
    let latency = [
        Line { name: "p50", points: series(|row| row.p50_us) },
        Line { name: "p99", points: series(|row| row.p99_us) },
        Line { name: "max", points: series(|row| row.max_us) },
    ];
    section(&mut body, "Latency over time", &chart(&latency, (Scale::Linear, second_mark), (Scale::Log, us_mark), &events));
    let curve = |value: fn(&super::CurvePoint) -> f64| report.curve.iter().map(|point| (point.offered_per_s, value(point))).collect();
    let curves = [
        Line { name: "p50", points: curve(|point| point.p50_us) },
        Line { name: "p99", points: curve(|point| point.p99_us) },
        Line { name: "p99.9", points: curve(|point| point.p999_us) },
    ];
    section(&mut body, "Latency by offered load", &chart(&curves, (Scale::Linear, count_mark), (Scale::Log, us_mark), &[]));
    figures(&mut body, report);
    circumstances(&mut body, report);
    page(&report.scenario, &body)
}

/// What the servers say of themselves, where it has changed during the load.
fn figures(body: &mut String, report: &Report) {
    for (server, figures) in &report.server_figures {
        let changed = figures.iter().filter(|(_, (start, end))| start != end);
        let rows: Vec<String> = changed.map(|(name, (start, end))| format!("<tr><td>{}<td>{start}<td>{end}", escape(name))).collect();
        if !rows.is_empty() {
            let _ = write!(body, "<h2>What {} says of itself</h2><table><tr><th>number<th>before<th>after", escape(server));
            let _ = write!(body, "{}</table>", rows.concat());
        }
    }
}

fn circumstances(body: &mut String, report: &Report) {
    let header = serde_json::to_string_pretty(&report.header).expect("strings and numbers only");
    let _ = write!(body, "<h2>Circumstances</h2><pre class=\"wrap\">{}</pre>", escape(&header));
}

/// The page of a comparison: the median run of every side in one spectrum, and every round's throughput.
pub fn compare_html(sides: &[SideReports]) -> String {
    let tables = format!("{}\n{}", compare::table(sides), compare::distribution(sides));
    let mut body = format!("<h1>{}</h1><pre>{}</pre>", escape(&title_of(sides)), escape(&tables));
    let medians: Vec<Report> = sides.iter().map(|side| Report::median(side.reports.clone())).collect();
    let below_all = |points: &[(f64, f64)]| points.iter().filter(|(quantile, _)| *quantile < 1.0).copied().collect();
    let named = |(side, report): (&SideReports, &Report)| (side.name.clone(), below_all(&report.spectrum));
    let spectra: Vec<(String, Vec<(f64, f64)>)> = sides.iter().zip(&medians).map(named).collect();
    let lines: Vec<Line<'_>> = spectra.iter().map(|(name, points)| Line { name, points: points.clone() }).collect();
    section(&mut body, "Latency spectrum", &chart(&lines, (Scale::Nines, us_mark), (Scale::Log, us_mark), &[]));
    let rounds = |side: &SideReports| side.reports.iter().enumerate().map(|(at, report)| (at as f64 + 1.0, report.ops_per_s)).collect();
    let lines: Vec<Line<'_>> = sides.iter().map(|side| Line { name: &side.name, points: rounds(side) }).collect();
    section(&mut body, "Operations per second by round", &chart(&lines, (Scale::Linear, round_mark), (Scale::Linear, count_mark), &[]));
    medians.first().into_iter().for_each(|report| circumstances(&mut body, report));
    page(&title_of(sides), &body)
}

fn title_of(sides: &[SideReports]) -> String {
    let names: Vec<&str> = sides.iter().map(|side| side.name.as_str()).collect();
    let scenario = sides.first().and_then(|side| side.reports.first()).map_or("", |report| report.scenario.as_str());
    format!("{scenario}: {}", names.join(" and "))
}

fn round_mark(round: f64) -> String {
    if round.fract() == 0.0 { format!("{round}") } else { String::new() }
}

fn page(title: &str, body: &str) -> String {
    let title = escape(title);
    format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>{title}</title><style>{STYLE}</style><body>{body}</body></html>\n"
    )
}

/// A heading and its chart; nothing if there is too little to draw.
fn section(body: &mut String, heading: &str, chart: &str) {
    if !chart.is_empty() {
        let _ = write!(body, "<h2>{heading}</h2>{chart}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_stands_alone_and_escapes_what_it_shows() {
        let report = Report {
            title: "<script>alert(1)</script>".into(),
            spectrum: vec![(0.0, 100.0), (0.5, 150.0), (0.99, 2000.0), (1.0, 9000.0)],
            errors: 2,
            ..Report::default()
        };
        let page = html(&report);
        assert!(!page.contains("<script") && page.contains("&lt;script&gt;") && page.contains("2 replies were wrong"));
        assert!(!page.contains("http") && page.contains("<polyline"));
        assert!(!page.contains("Throughput</h2>"), "there are no seconds to draw");
        assert!(!page.contains("NaN") && !page.contains("inf"));
    }

    #[test]
    fn marks_are_round_numbers() {
        let marks: Vec<f64> = Scale::Linear.marks(0.0, 47.0, count_mark).into_iter().map(|(at, _)| at).collect();
        assert_eq!(marks, [0.0, 10.0, 20.0, 30.0, 40.0]);
        let nines: Vec<String> = Scale::Nines.marks(0.0, 3.2, us_mark).into_iter().map(|(_, text)| text).collect();
        assert_eq!(nines, ["0 %", "90 %", "99 %", "99.9 %"]);
        assert_eq!(Scale::Nines.marks(0.0, 5.0, us_mark)[5].1, "99.999 %");
    }
}
