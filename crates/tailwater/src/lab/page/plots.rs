//! The run of each pattern as a plot, drawn by plotters as SVG. Its ink is the page's (`currentColor`), light or dark.

use super::super::count::Count;
use super::super::faults::Happened;
use super::super::{LabError, Report};
use super::{colour, put, time};
use plotters::coord::Shift;
use plotters::coord::combinators::LogCoord;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use std::collections::BTreeSet;

/// Stands for the page's own ink.
const INK: RGBColor = RGBColor(1, 2, 3);
const INK_TEXT: &str = "#010203";
const BAD: RGBColor = RGBColor(222, 60, 52);
const WIDTH: u32 = 760;
const HEIGHT: u32 = 210;
/// Latency, ms. What was never delivered is drawn above the longest.
const LONGEST: f64 = 60_000.0;
const NEVER: f64 = 150_000.0;
const TOP: f64 = 1_500_000.0;
const NUMBERS: f64 = 600_000.0;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, LogCoord<f64>>>;
type Drawn = Result<(), Box<dyn std::error::Error>>;

/// One plot per pattern, all on the same scales, and the faults by number.
pub fn timelines(body: &mut String, report: &Report) -> Result<(), LabError> {
    body.push_str(
        "<p class=note>Each dot is an event, by the moment of its request and the time until its delivery. \
         <b class=bad>×</b> was committed and never delivered, <b class=bad>▲</b> was delivered and never committed. \
         Shaded, a fault was at work:</p><ol class=faults>",
    );
    for fault in &report.faults {
        let (from, to) = span(report, fault);
        put(body, format_args!("<li>{} <span>{from:.1}–{to:.1} s</span></li>", fault.fault.title()));
    }
    body.push_str("</ol>");
    for count in &report.counts {
        let svg = draw(count.pattern.title(), |area| timeline(area, report, count))?;
        put(
            body,
            format_args!(
                "<figure class=\"timeline {}\"><h3>{}</h3><div class=wide>{svg}</div></figure>",
                count.pattern.name(),
                count.pattern.title()
            ),
        );
    }
    Ok(())
}

fn draw(title: &str, paint: impl FnOnce(&Area<'_>) -> Drawn) -> Result<String, LabError> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, HEIGHT)).into_drawing_area();
        paint(&area).and_then(|()| Ok(area.present()?)).map_err(|error| LabError::Draw(error.to_string()))?;
    }
    // scales with the page: the view box stays, the fixed size goes
    let fixed = format!("<svg width=\"{WIDTH}\" height=\"{HEIGHT}\"");
    let label = format!("<svg role=\"img\" aria-label=\"Latency over time: {title}\"");
    Ok(svg.replacen(&fixed, &label, 1).replace(INK_TEXT, "currentColor"))
}

fn ink(size: u32) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&INK)
}

/// Seconds into the run.
fn seconds(report: &Report, us: i64) -> f64 {
    (us - report.began_us) as f64 / 1e6
}

fn span(report: &Report, fault: &Happened) -> (f64, f64) {
    (seconds(report, fault.from_us), seconds(report, fault.to_us))
}

fn timeline(area: &Area<'_>, report: &Report, count: &Count) -> Drawn {
    let end = report.faults.iter().map(|fault| span(report, fault).1).fold(report.plan.load.as_secs_f64(), f64::max);
    let mut chart = ChartBuilder::on(area)
        .margin(6)
        .margin_right(14)
        .x_label_area_size(24)
        .y_label_area_size(52)
        .build_cartesian_2d(0.0..end, (1.0..TOP).log_scale())?;
    let label = |ms: &f64| if *ms > LONGEST { String::new() } else { time(*ms) };
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(INK.mix(0.12))
        .axis_style(INK.mix(0.5))
        .label_style(ink(12))
        .x_labels(8)
        .x_label_formatter(&|seconds| format!("{seconds:.0} s"))
        .y_label_formatter(&label)
        .disable_x_mesh()
        .draw()?;
    for (index, fault) in report.faults.iter().enumerate() {
        let (from, to) = span(report, fault);
        let to = to.max(from + end / 250.0);
        chart.draw_series([Rectangle::new([(from, 1.0), (to, TOP)], INK.mix(0.13).filled())])?;
        let number = Text::new((index + 1).to_string(), (f64::midpoint(from, to) - end / 250.0, TOP * 0.85), ink(12));
        chart.draw_series([number])?;
    }
    events(&mut chart, report, count)
}

fn events(chart: &mut Chart<'_, '_>, report: &Report, count: &Count) -> Drawn {
    let (red, green, blue) = colour(count.pattern);
    let phantom: BTreeSet<&String> = count.facts.phantom.iter().collect();
    let place = |id: &String| {
        let requested = *count.facts.requested_us.get(id)?;
        let latency = count.facts.delivered_us.get(id).map(|delivered| (delivered - requested) as f64 / 1000.0);
        Some((seconds(report, requested), latency.map_or(NEVER, |ms| ms.clamp(1.0, LONGEST))))
    };
    // dots on the same spot are one dot
    let mut spots = BTreeSet::new();
    for id in count.facts.delivered_us.keys().filter(|id| !phantom.contains(id)) {
        spots.extend(place(id).map(|(s, ms)| ((s * 8.0).round() as i64, (ms.ln() * 24.0).round() as i64)));
    }
    let dot = RGBColor(red, green, blue).mix(0.6).filled();
    let dots = spots.into_iter().map(|(s, ms)| Circle::new((s as f64 / 8.0, (ms as f64 / 24.0).exp()), 2, dot));
    chart.draw_series(dots)?;
    let bad = BAD.stroke_width(2);
    chart.draw_series(count.facts.lost.iter().filter_map(place).map(|at| Cross::new(at, 4, bad)))?;
    chart.draw_series(
        count.facts.phantom.iter().filter_map(place).map(|at| TriangleMarker::new(at, 6, BAD.stroke_width(2))),
    )?;
    let words: Vec<_> = [(count.facts.lost.len(), "lost"), (count.facts.phantom.len(), "phantom")]
        .into_iter()
        .filter(|(number, _)| *number > 0)
        .map(|(number, what)| format!("{number} {what}"))
        .collect();
    if !words.is_empty() {
        let style = ("sans-serif", 12).into_font().color(&BAD);
        chart.draw_series([Text::new(words.join(", "), (0.4, NUMBERS), style)])?;
    }
    Ok(())
}
