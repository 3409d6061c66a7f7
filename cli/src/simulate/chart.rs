//! Line charts as inline SVG: axes, a line for each series, no script.

use super::figures::number;
use super::report::escaped;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 240.0;
const LEFT: f64 = 56.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 34.0;

/// A line: its name, and points of seconds and values.
pub struct Line<'a> {
    pub name: &'a str,
    pub points: &'a [(f64, f64)],
}

/// Draws lines over time. `top` is the least upper end of the values.
pub fn svg(title: &str, unit: &str, lines: &[Line<'_>], top: f64) -> String {
    let all = || lines.iter().flat_map(|line| line.points.iter());
    let end = all().map(|(at, _)| *at).fold(1.0, f64::max);
    let most = nice(all().map(|(_, value)| *value).fold(top, f64::max));
    let (per, unit_of_time) = unit_of(end);
    let x = |at: f64| LEFT + (WIDTH - LEFT - RIGHT) * at / end;
    let y = |value: f64| HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / most;
    let mut out = format!(
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{0}\"><title>{0}</title>\n",
        escaped(title)
    );
    for n in 0..=4 {
        let value = most * f64::from(n) / 4.0;
        let at = y(value);
        out += &format!(
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}{unit}</text>\n",
            WIDTH - RIGHT,
            LEFT - 6.0,
            at + 4.0,
            number(value)
        );
    }
    for n in 0..=6 {
        let at = end * f64::from(n) / 6.0;
        let anchor = if n == 6 { "end" } else { "middle" };
        out += &format!(
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{} {unit_of_time}</text>\n",
            x(at),
            HEIGHT - 12.0,
            number(at / per)
        );
    }
    for (index, line) in lines.iter().enumerate() {
        let points: Vec<String> =
            line.points.iter().map(|(at, value)| format!("{:.1},{:.1}", x(*at), y(*value))).collect();
        out += &format!(
            "<polyline class=\"line l{index}\" points=\"{}\"><title>{}</title></polyline>\n",
            points.join(" "),
            escaped(line.name)
        );
    }
    out += "</svg>\n";
    out
}

/// The next number that reads well.
fn nice(value: f64) -> f64 {
    let value = value.max(1e-9);
    let power = 10f64.powf(value.log10().floor());
    [1.0, 2.0, 4.0, 5.0, 8.0, 10.0]
        .into_iter()
        .map(|step| step * power)
        .find(|step| *step >= value * 0.999_999)
        .unwrap_or(10.0 * power)
}

/// What time is shown in: seconds of it, and its sign.
fn unit_of(end: f64) -> (f64, &'static str) {
    match end {
        end if end > 4.0 * 86400.0 => (86400.0, "d"),
        end if end > 4.0 * 3600.0 => (3600.0, "h"),
        end if end > 240.0 => (60.0, "min"),
        _ => (1.0, "s"),
    }
}
