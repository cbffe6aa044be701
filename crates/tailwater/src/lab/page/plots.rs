//! Plots as SVG text, drawn by plotters. Grey ink on no ground: the page's style decides what is behind.

use super::super::pattern::Pattern;
use super::super::{LabError, Report};
use super::colour;
use plotters::coord::Shift;
use plotters::prelude::*;

const INK: RGBColor = RGBColor(128, 136, 150);
const WIDTH: u32 = 960;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

fn draw(
    height: u32,
    paint: impl FnOnce(&Area<'_>) -> Result<(), Box<dyn std::error::Error>>,
) -> Result<String, LabError> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        paint(&area).and_then(|()| Ok(area.present()?)).map_err(|error| LabError::Draw(error.to_string()))?;
    }
    // scales with the page: the view box stays, the fixed size goes
    let fixed = format!("<svg width=\"{WIDTH}\" height=\"{height}\"");
    Ok(svg.replacen(&fixed, "<svg role=\"img\"", 1))
}

fn rgb(pattern: Pattern) -> RGBColor {
    let (red, green, blue) = colour(pattern);
    RGBColor(red, green, blue)
}

fn ink(size: u32) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&INK)
}

/// Rows of bars, one row per pattern: (label, value, shown as).
fn bars(report: &Report, groups: &[(&str, &dyn Fn(usize) -> f64)]) -> Result<String, LabError> {
    let rows = report.counts.len() * groups.len();
    draw(rows as u32 * 34 + 40, |area| {
        let most = (0..report.counts.len()).flat_map(|row| groups.iter().map(move |(_, value)| value(row)));
        let most = most.fold(1.0, f64::max);
        let mut y = 24;
        for (row, count) in report.counts.iter().enumerate() {
            for (index, (label, value)) in groups.iter().enumerate() {
                let value = value(row);
                let width = (value / most * 480.0).round() as i32;
                let name = if index == 0 { count.pattern.title() } else { "" };
                area.draw(&Text::new(name.to_owned(), (20, y), ink(15)))?;
                area.draw(&Text::new((*label).to_owned(), (270, y), ink(13)))?;
                let fill = rgb(count.pattern).filled();
                area.draw(&Rectangle::new([(380, y), (380 + width.max(2), y + 16)], fill))?;
                let shown = if value.fract() == 0.0 { format!("{value}") } else { format!("{value:.2}") };
                area.draw(&Text::new(shown, (390 + width.max(2), y + 1), ink(14)))?;
                y += 34;
            }
        }
        Ok(())
    })
}

/// Lost events and phantoms.
pub fn losses(report: &Report) -> Result<String, LabError> {
    let lost = |row: usize| report.counts[row].lost as f64;
    let phantom = |row: usize| report.counts[row].phantom as f64;
    bars(report, &[("lost", &lost), ("phantom", &phantom)])
}

/// Transactions and rows written per order.
pub fn loads(report: &Report) -> Result<String, LabError> {
    let transactions = |row: usize| report.counts[row].load.transactions;
    let rows = |row: usize| report.counts[row].load.rows_written;
    bars(report, &[("transactions", &transactions), ("rows written", &rows)])
}

/// Each delivery as a point, by the moment of its request; faults as bands behind.
pub fn latencies(report: &Report) -> Result<String, LabError> {
    let seconds = |us: i64| (us - report.began_us) as f64 / 1e6;
    let longest = report.plan.load.as_secs_f64();
    draw(460, |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(24)
            .x_label_area_size(44)
            .y_label_area_size(70)
            .build_cartesian_2d(0.0..longest, (1.0..60_000.0f64).log_scale())?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(INK.mix(0.25))
            .axis_style(INK)
            .label_style(ink(14))
            .x_desc("seconds into the run")
            .y_desc("ms from request to delivery")
            .draw()?;
        for (index, fault) in report.faults.iter().enumerate() {
            let (from, to) = (seconds(fault.from_us), seconds(fault.to_us).max(seconds(fault.from_us) + 0.3));
            chart.draw_series([Rectangle::new([(from, 1.0), (to.min(longest), 60_000.0)], INK.mix(0.18).filled())])?;
            // names in three heights, so that neighbours do not cover each other
            let height = [52_000.0, 33_000.0, 21_000.0][index % 3];
            let text = Text::new(fault.fault.title().to_owned(), (from, height), ink(11));
            chart.draw_series([text])?;
        }
        for count in &report.counts {
            let colour = rgb(count.pattern);
            let points = count.facts.deliveries.iter().map(|(requested, latency)| {
                let ms = (*latency as f64 / 1000.0).max(1.0);
                Circle::new((seconds(*requested).clamp(0.0, longest), ms), 2, colour.mix(0.55).filled())
            });
            chart
                .draw_series(points)?
                .label(count.pattern.title())
                .legend(move |(x, y)| Circle::new((x + 8, y), 5, colour.filled()));
        }
        chart.configure_series_labels().position(SeriesLabelPosition::LowerRight).label_font(ink(14)).draw()?;
        Ok(())
    })
}
