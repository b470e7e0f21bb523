//! How it looks. Pure: values in, text out.

use super::{
    quantity::{show_bytes, show_millicores},
    read::{Happening, Opinion, Pod, Sizes},
    usage::Histogram,
    verdict::{Check, Snapshot, shown_cpu, shown_memory},
};

/// What a person wants to know about one workload now.
#[derive(Debug, Clone, Copy)]
pub struct Scene<'a> {
    /// Before anything happened.
    pub before: &'a Sizes,
    /// The pod now.
    pub pod: &'a Pod,
    /// What the policy says.
    pub opinion: Option<&'a Opinion>,
    /// What it used.
    pub histogram: &'a Histogram,
}

impl Scene<'_> {
    /// Six lines for a terminal.
    pub fn block(&self) -> String {
        let Self { before, pod, opinion, histogram } = *self;
        let nothing = Opinion::default();
        let Opinion { recommended, explanation, .. } = opinion.unwrap_or(&nothing);
        let recommended = recommended.unwrap_or_default();
        let now = &pod.wanted;
        let step = |old: String, new: String| if old == new { old } else { format!("{old} > {new}") };
        let cpu = |old: Option<u64>, new: Option<u64>| step(shown_cpu(old), shown_cpu(new));
        let memory = |old: Option<u64>, new: Option<u64>| step(shown_memory(old), shown_memory(new));
        let row = |name: &str, request: String, limit: String, advice: String| {
            format!("  {name:<8}  request {request:<16} limit {limit:<16} recommended {advice}")
        };
        let lines = [
            format!("{}  pod {}, restarts {}", pod.workload, pod.name, pod.restarts),
            format!("  used      {}", used(histogram)),
            row(
                "cpu",
                cpu(before.cpu_request, now.cpu_request),
                cpu(before.cpu_limit, now.cpu_limit),
                format!("{} / {}", shown_cpu(recommended.cpu_request), shown_cpu(recommended.cpu_limit)),
            ),
            row(
                "memory",
                memory(before.memory_request, now.memory_request),
                memory(before.memory_limit, now.memory_limit),
                format!(
                    "{} / {}",
                    shown_memory(recommended.memory_request),
                    shown_memory(recommended.memory_limit)
                ),
            ),
            format!("  because   {explanation}"),
            format!("  status    {}", standing(opinion)),
        ];
        lines.join("\n") + "\n"
    }

    /// One line for a log; it changes only when sizes, recommendation or reason do.
    pub fn line(&self) -> String {
        let Self { pod, opinion, .. } = *self;
        let recommended = opinion.and_then(|opinion| opinion.recommended);
        let advice =
            recommended.map_or("no recommendation".to_owned(), |sizes| format!("wants {}", four(&sizes)));
        let phase = opinion.map_or("no status", |opinion| opinion.phase.as_str());
        let reason = opinion.map_or("", |opinion| opinion.reason.as_str());
        let reason = if reason.is_empty() { String::new() } else { format!(" ({reason})") };
        format!("{}: has {}, {advice}: {phase}{reason}", pod.workload, four(&pod.wanted))
    }
}

/// Requests and limits in short.
fn four(sizes: &Sizes) -> String {
    let Sizes { cpu_request, cpu_limit, memory_request, memory_limit } = *sizes;
    format!(
        "cpu {}/{} memory {}/{}",
        shown_cpu(cpu_request),
        shown_cpu(cpu_limit),
        shown_memory(memory_request),
        shown_memory(memory_limit)
    )
}

/// The histogram and the last frame.
pub fn used(histogram: &Histogram) -> String {
    let Some(last) = histogram.last() else { return "waiting for the agent's first frame".to_owned() };
    format!(
        "{}\n            {} frames; the last: median {}, highest 100 ms {}, throttled {:.0} %, memory {}",
        histogram.bars(),
        histogram.frames(),
        show_millicores(rounded(last.median * 1000.0)),
        show_millicores(rounded(last.highest * 1000.0)),
        histogram.throttled() * 100.0,
        show_bytes(rounded(last.working_set / 1024.0) << 10),
    )
}

/// Not negative, and far below 2^53.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped, for display")]
fn rounded(value: f64) -> u64 {
    value.round().clamp(0.0, 1e15) as u64
}

fn standing(opinion: Option<&Opinion>) -> String {
    let Some(Opinion { phase, reason, message, .. }) = opinion else { return "no status yet".to_owned() };
    let parts = [phase, reason, message].map(String::as_str);
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", ")
}

/// An Event in one line.
pub fn happening(happening: &Happening) -> String {
    let Happening { source, pod, reason, message, .. } = happening;
    format!("{source}: {reason} {pod}: {message}")
}

/// The table at the end.
pub fn table(pairs: &[(&Snapshot, &Snapshot)]) -> String {
    let mut rows =
        vec![["workload/container", "", "before", "after", "in the container's cgroup"].map(str::to_owned)];
    for (before, after) in pairs {
        let (old, new) = (&before.pod, &after.pod);
        let name = format!("{}/{}", new.workload, new.container);
        let (was, is) = (&old.wanted, &new.wanted);
        let cpu = |value| shown_cpu(value);
        let memory = |value| shown_memory(value);
        let (low, high) = (&before.cgroup, &after.cgroup);
        let file = |name: &str, old: &str, new: &str| format!("{name} {old} > {new}");
        let weights = (low.cpu_weight.to_string(), high.cpu_weight.to_string());
        let row = |first: &str, what: &str, old: String, new: String, seen: String| {
            [first.to_owned(), what.to_owned(), old, new, seen]
        };
        rows.extend([
            row(
                &name,
                "cpu request",
                cpu(was.cpu_request),
                cpu(is.cpu_request),
                file("cpu.weight", &weights.0, &weights.1),
            ),
            row(
                "",
                "cpu limit",
                cpu(was.cpu_limit),
                cpu(is.cpu_limit),
                file("cpu.max", &low.cpu_max, &high.cpu_max),
            ),
            row("", "memory request", memory(was.memory_request), memory(is.memory_request), String::new()),
            row(
                "",
                "memory limit",
                memory(was.memory_limit),
                memory(is.memory_limit),
                file("memory.max", &low.memory_max, &high.memory_max),
            ),
            row("", "restarts", old.restarts.to_string(), new.restarts.to_string(), same(old, new)),
        ]);
    }
    columns(&rows)
}

fn same(before: &Pod, after: &Pod) -> String {
    let short = |id: &str| id.chars().take(8).collect::<String>();
    if (&before.uid, &before.container_id) == (&after.uid, &after.container_id) {
        return format!("same pod {}, same container {}", short(&after.uid), short(&after.container_id));
    }
    format!("ANOTHER pod {} or container {}", short(&after.uid), short(&after.container_id))
}

fn columns(rows: &[[String; 5]]) -> String {
    let mut widths = [0; 5];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let line = |row: &[String; 5]| {
        let cells: Vec<String> =
            row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        cells.join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

/// What holds in one line, what does not in one line each.
pub fn verdict(workload: &str, checks: &[Check]) -> String {
    let wrong: Vec<&Check> = checks.iter().filter(|check| !check.holds).collect();
    if wrong.is_empty() {
        return format!("{workload}: resized in place, all {} checks hold", checks.len());
    }
    let lines: Vec<String> =
        wrong.iter().map(|check| format!("{workload}: NOT TRUE: {}", check.text)).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::{usage::Usage, verdict::Cgroup};

    fn pod(cpu: u64) -> Pod {
        let wanted = Sizes { cpu_request: Some(cpu), cpu_limit: Some(2 * cpu), ..Sizes::default() };
        let text = |text: &str| text.to_owned();
        Pod {
            workload: text("over-asking"),
            name: text("over-asking-1"),
            uid: text("6072fbeb-1fb6"),
            container: text("app"),
            container_id: text("48c40eb502e4"),
            wanted,
            ..Pod::default()
        }
    }

    #[test]
    fn block_has_the_same_lines_while_it_waits_for_everything_but_usage() {
        let (pod, histogram) = (pod(1000), Histogram::default());
        let scene = Scene { before: &pod.wanted, pod: &pod, opinion: None, histogram: &histogram };
        let block = scene.block();
        assert!(block.contains("waiting for the agent's first frame"), "{block}");
        assert!(block.contains("request 1 ") && block.contains("recommended - / -"), "{block}");
        assert!(block.ends_with("status    no status yet\n"), "{block}");
    }

    #[test]
    fn block_and_line_say_what_changed_and_why() {
        let (old, new) = (pod(1000), pod(29));
        let mut histogram = Histogram::default();
        histogram.add(Usage {
            cpu_seconds: 1.0,
            median: 0.02,
            highest: 0.08,
            working_set: 17_235_968.0,
            ..Usage::default()
        });
        let opinion = Opinion {
            phase: "Applied".to_owned(),
            recommended: Some(new.wanted),
            explanation: "cpu: percentile 24m > safety factor 29m".to_owned(),
            ..Opinion::default()
        };
        let scene = Scene { before: &old.wanted, pod: &new, opinion: Some(&opinion), histogram: &histogram };
        let block = scene.block();
        assert!(block.contains("request 1 > 29m"), "{block}");
        assert!(block.contains("median 20m, highest 100 ms 80m, throttled 0 %, memory 16832Ki"), "{block}");
        assert!(block.contains("because   cpu: percentile 24m > safety factor 29m"), "{block}");
        assert_eq!(
            scene.line(),
            "over-asking: has cpu 29m/58m memory -/-, wants cpu 29m/58m memory -/-: Applied"
        );
    }

    #[test]
    fn table_lines_up_and_names_another_pod() {
        let cgroup =
            Cgroup { cpu_max: "200000 100000".to_owned(), cpu_weight: 100, memory_max: "max".to_owned() };
        let before = Snapshot { pod: pod(1000), cgroup: cgroup.clone() };
        let mut after = Snapshot { pod: pod(29), cgroup };
        let text = table(&[(&before, &after)]);
        let rows: Vec<&str> = text.lines().collect();
        assert_eq!(rows.len(), 6);
        assert_eq!(rows[1], "over-asking/app     cpu request     1       29m    cpu.weight 100 > 100");
        assert!(rows[5].ends_with("same pod 6072fbeb, same container 48c40eb5"), "{text}");
        after.pod.uid = "other".to_owned();
        assert!(table(&[(&before, &after)]).contains("ANOTHER pod other"));
    }

    #[test]
    fn verdict_names_what_is_wrong() {
        let check = |holds, text: &str| Check { holds, text: text.to_owned() };
        assert_eq!(verdict("a", &[check(true, "x")]), "a: resized in place, all 1 checks hold");
        assert_eq!(
            verdict("a", &[check(true, "x"), check(false, "restarts: 1")]),
            "a: NOT TRUE: restarts: 1"
        );
    }
}
