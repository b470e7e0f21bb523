//! Trade-offs as SVG: allocation against harm, every swept setting, their front, what ships and the opponents.

use std::fmt::Write as _;

/// What a point stands for.
#[derive(Debug, Clone, PartialEq)]
pub enum Mark {
    /// A setting that was tried.
    Swept,
    /// What ships.
    Ours(String),
    /// Another system.
    Other(String),
}

/// Allocation and harm.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// In percent of the peak.
    pub allocation: f64,
    /// Less is better, 0 is none.
    pub harm: f64,
    /// What it is.
    pub mark: Mark,
}

/// A chart.
#[derive(Debug, Clone)]
pub struct Chart {
    /// Above it.
    pub title: String,
    /// What harm is.
    pub harm: String,
    /// In any order.
    pub points: Vec<Point>,
}

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 600.0;
/// What allocates more is drawn at the edge.
const MOST: f64 = 220.0;
/// Left, right, top, bottom of the area that holds the points.
const AREA: [f64; 4] = [80.0, 870.0, 70.0, 540.0];
const FONT: f64 = 12.0;
/// Mean width of a character.
const CHARACTER: f64 = 6.6;
const SWEPT: &str = "#9aa7b5";
const FRONT: &str = "#1f6feb";
const OURS: &str = "#b3261e";
const OTHER: &str = "#1f2328";

/// Charts, one below the other.
pub fn svg(charts: &[Chart]) -> String {
    let height = HEIGHT * charts.len() as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"{FONT}\">\n<rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n"
    );
    for (chart, n) in charts.iter().zip(0_u32..) {
        let _ = writeln!(svg, "<g transform=\"translate(0 {})\">", HEIGHT * f64::from(n));
        Drawing::new(chart).draw(chart, &mut svg);
        svg.push_str("</g>\n");
    }
    svg.push_str("</svg>\n");
    svg
}

/// A logarithmic axis.
#[derive(Clone, Copy)]
struct Axis {
    lowest: f64,
    highest: f64,
    /// Where they are drawn.
    ends: [f64; 2],
}

impl Axis {
    fn at(&self, value: f64) -> f64 {
        let [from, to] = self.ends;
        let part =
            (value.clamp(self.lowest, self.highest) / self.lowest).ln() / (self.highest / self.lowest).ln();
        from + part * (to - from)
    }

    /// Round numbers within it.
    fn ticks(&self, steps: &[f64]) -> Vec<f64> {
        let decades = (-4..4).flat_map(|decade| steps.iter().map(move |step| step * 10_f64.powi(decade)));
        decades.filter(|tick| (self.lowest..=self.highest).contains(tick)).collect()
    }
}

struct Drawing {
    x: Axis,
    y: Axis,
    /// What labels must not cover: left, top, right, bottom.
    taken: Vec<[f64; 4]>,
    /// What they rather leave free.
    dots: Vec<[f64; 4]>,
}

impl Drawing {
    fn new(chart: &Chart) -> Self {
        let [left, right, top, bottom] = AREA;
        let allocations = || chart.points.iter().map(|point| point.allocation);
        let harms = || chart.points.iter().map(|point| point.harm).filter(|harm| *harm > 0.0);
        let (low, high) = (allocations().fold(f64::MAX, f64::min), allocations().fold(1.0, f64::max));
        let (least, most) = (harms().fold(1.0, f64::min), harms().fold(0.01, f64::max));
        let x = Axis {
            lowest: low.clamp(1.0, high) * 0.95,
            highest: (high * 1.08).min(MOST),
            ends: [left, right],
        };
        let y = Axis { lowest: least * 0.6, highest: most * 1.5, ends: [bottom, top] };
        Self { x, y, taken: Vec::new(), dots: Vec::new() }
    }

    fn place(&self, point: &Point) -> (f64, f64) {
        (self.x.at(point.allocation), self.y.at(point.harm))
    }

    fn draw(mut self, chart: &Chart, svg: &mut String) {
        self.axes(chart, svg);
        for point in chart.points.iter().filter(|point| point.mark == Mark::Swept) {
            let (x, y) = self.place(point);
            self.dots.push([x - 3.0, y - 3.0, x + 3.0, y + 3.0]);
            let _ = writeln!(svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.5\" fill=\"{SWEPT}\"/>");
        }
        let line: Vec<String> = front(&chart.points)
            .iter()
            .map(|point| self.place(point))
            .map(|(x, y)| format!("{x:.1},{y:.1}"))
            .collect();
        let line = line.join(" ");
        let _ = writeln!(
            svg,
            "<polyline points=\"{line}\" fill=\"none\" stroke=\"{FRONT}\" stroke-width=\"1.5\"/>"
        );
        let named = || {
            chart.points.iter().filter_map(|point| match &point.mark {
                Mark::Swept => None,
                Mark::Ours(name) => Some((point, name, OURS)),
                Mark::Other(name) => Some((point, name, OTHER)),
            })
        };
        for (point, _, colour) in named() {
            let (x, y) = self.place(point);
            self.taken.push([x - 5.0, y - 5.0, x + 5.0, y + 5.0]);
            let _ = writeln!(svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4.5\" fill=\"{colour}\"/>");
        }
        for (point, name, colour) in named() {
            let at = self.place(point);
            if point.allocation > self.x.highest {
                self.label(at, &format!("{name} ({:.0} %)", point.allocation), colour, svg);
            } else {
                self.label(at, name, colour, svg);
            }
        }
    }

    fn axes(&self, chart: &Chart, svg: &mut String) {
        let [left, right, top, bottom] = AREA;
        let _ = writeln!(
            svg,
            "<text x=\"{left}\" y=\"26\" font-size=\"16\" font-weight=\"bold\" fill=\"{OTHER}\">{}</text>",
            escaped(&chart.title)
        );
        let legend = [(SWEPT, "swept settings"), (FRONT, "their front"), (OURS, "ours"), (OTHER, "others")];
        for ((colour, what), n) in legend.into_iter().zip(0_u32..) {
            let x = left + 130.0 * f64::from(n);
            let _ = writeln!(svg, "<circle cx=\"{}\" cy=\"46\" r=\"4\" fill=\"{colour}\"/>", x + 4.0);
            let _ = writeln!(svg, "<text x=\"{}\" y=\"50\" fill=\"{OTHER}\">{what}</text>", x + 14.0);
        }
        let grid = |svg: &mut String, [x1, y1, x2, y2]: [f64; 4]| {
            let _ = writeln!(
                svg,
                "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"#e4e8ec\"/>"
            );
        };
        for tick in self.x.ticks(&[1.0, 1.2, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]) {
            let x = self.x.at(tick);
            grid(svg, [x, top, x, bottom]);
            let _ = writeln!(
                svg,
                "<text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\" fill=\"{OTHER}\">{tick:.0}</text>",
                bottom + 18.0
            );
        }
        for tick in self.y.ticks(&[1.0, 2.0, 5.0]) {
            let y = self.y.at(tick);
            grid(svg, [left, y, right, y]);
            let _ = writeln!(
                svg,
                "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"{OTHER}\">{tick}</text>",
                left - 8.0,
                y + 4.0
            );
        }
        let _ = writeln!(
            svg,
            "<rect x=\"{left}\" y=\"{top}\" width=\"{}\" height=\"{}\" fill=\"none\" stroke=\"{OTHER}\"/>",
            right - left,
            bottom - top
        );
        let middle = f64::midpoint(top, bottom);
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\" fill=\"{OTHER}\">mean size, % of the peak (logarithmic)</text>",
            f64::midpoint(left, right),
            bottom + 40.0
        );
        let _ = writeln!(
            svg,
            "<text x=\"22\" y=\"{middle}\" text-anchor=\"middle\" transform=\"rotate(-90 22 {middle})\" fill=\"{OTHER}\">{} (logarithmic; none is at the bottom)</text>",
            escaped(&chart.harm)
        );
    }

    /// Beside its point where nothing else is, with a line to it when that is further away.
    fn label(&mut self, (x, y): (f64, f64), name: &str, colour: &str, svg: &mut String) {
        let width = name.chars().count() as f64 * CHARACTER;
        let [left, right, top, bottom] = AREA;
        let around = |distance: f64| {
            let (far, middle) = (distance + 8.0, FONT / 3.0);
            let beside = x + far;
            let before = x - far - width;
            [
                (beside, y + middle),
                (before, y + middle),
                (x - width / 2.0, y - far),
                (x - width / 2.0, y + far + FONT * 0.7),
                (beside, y - distance - 4.0),
                (beside, y + distance + FONT),
                (before, y - distance - 4.0),
                (before, y + distance + FONT),
            ]
        };
        let spots = || {
            (0..10_u32).flat_map(|ring| {
                let near = around(f64::from(ring) * 10.0);
                near.map(|(at, base)| (ring, [at, base - FONT, at + width, base + 3.0]))
            })
        };
        let apart = |[x1, y1, x2, y2]: [f64; 4], from: &[[f64; 4]]| {
            from.iter().all(|[a, b, c, d]| x2 < *a || *c < x1 || y2 < *b || *d < y1)
        };
        let free = |spot: [f64; 4]| {
            let [x1, y1, x2, y2] = spot;
            x1 >= left && x2 <= right && y1 >= top && y2 <= bottom && apart(spot, &self.taken)
        };
        let alone = spots().take(32).find(|(_, spot)| free(*spot) && apart(*spot, &self.dots));
        let found = alone.or_else(|| spots().find(|(_, spot)| free(*spot)));
        let (ring, spot) = found.unwrap_or((0, [x + 8.0, y - FONT, x + 8.0 + width, y + 3.0]));
        let [x1, y1, x2, y2] = spot;
        if ring > 0 {
            let (near_x, near_y) = (x.clamp(x1, x2), y.clamp(y1, y2));
            let _ = writeln!(
                svg,
                "<line x1=\"{x:.1}\" y1=\"{y:.1}\" x2=\"{near_x:.1}\" y2=\"{near_y:.1}\" stroke=\"{colour}\" stroke-width=\"0.7\"/>"
            );
        }
        let _ = writeln!(
            svg,
            "<text x=\"{x1:.1}\" y=\"{:.1}\" fill=\"{colour}\" stroke=\"#ffffff\" stroke-width=\"3\" paint-order=\"stroke\">{}</text>",
            y2 - 3.0,
            escaped(name)
        );
        self.taken.push(spot);
    }
}

/// Swept points that none other beats in allocation and harm, cheapest first.
pub fn front(points: &[Point]) -> Vec<&Point> {
    let mut swept: Vec<&Point> = points.iter().filter(|point| point.mark == Mark::Swept).collect();
    swept.sort_by(|a, b| a.allocation.total_cmp(&b.allocation).then(a.harm.total_cmp(&b.harm)));
    let mut least = f64::INFINITY;
    swept.retain(|point| {
        let better = point.harm < least;
        least = least.min(point.harm);
        better
    });
    swept
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(allocation: f64, harm: f64, mark: Mark) -> Point {
        Point { allocation, harm, mark }
    }

    #[test]
    fn the_front_is_what_nothing_beats() {
        let points: Vec<Point> = [(50.0, 3.0), (60.0, 1.0), (55.0, 4.0), (70.0, 1.0), (80.0, 0.0)]
            .map(|(allocation, harm)| point(allocation, harm, Mark::Swept))
            .into();
        let found: Vec<f64> = front(&points).iter().map(|point| point.allocation).collect();
        assert_eq!(found, [50.0, 60.0, 80.0]);
    }

    #[test]
    fn labels_of_equal_points_do_not_overlap() {
        let points = (0..5).map(|n| point(60.0, 0.5, Mark::Other(format!("a < system {n}"))));
        let chart = Chart {
            title: "t".to_owned(),
            harm: "excess %".to_owned(),
            points: points
                .chain([point(50.0, 2.0, Mark::Swept), point(90.0, 0.0, Mark::Ours("x".into()))])
                .collect(),
        };
        let text = svg(&[chart]);
        let mut places: Vec<&str> = text
            .lines()
            .filter(|line| line.contains("a &lt; system"))
            .filter_map(|line| line.split(" fill").next())
            .collect();
        places.sort_unstable();
        places.dedup();
        assert_eq!(places.len(), 5, "{text}");
        assert!(text.starts_with("<svg ") && text.ends_with("</svg>\n") && !text.contains("NaN"), "{text}");
    }
}
