//! Kubernetes quantities as numbers, as far as the demo's manifests and the coordinator write them.

/// Thousandths of a core: `1`, `0.5`, `250m`.
pub fn millicores(text: &str) -> Option<u64> {
    match text.strip_suffix('m') {
        Some(number) => number.parse().ok(),
        None => decimal_thousandths(text),
    }
}

/// Bytes: `64Mi`, `1Gi`, `22976Ki`, `20683162`, `128M`.
pub fn bytes(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(digits)?;
    let factor: u64 = match unit {
        "" => 1,
        "k" => 1000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// For a person: `29m`, `1` core.
pub fn show_millicores(value: u64) -> String {
    if value.is_multiple_of(1000) && value > 0 { (value / 1000).to_string() } else { format!("{value}m") }
}

/// For a person: the largest unit that leaves no fraction, down to `Ki`.
pub fn show_bytes(value: u64) -> String {
    let units = [("Gi", 30), ("Mi", 20), ("Ki", 10)];
    let exact = units.iter().find(|(_, shift)| value > 0 && value.is_multiple_of(1 << shift));
    exact.map_or_else(|| value.to_string(), |(unit, shift)| format!("{}{unit}", value >> shift))
}

fn decimal_thousandths(text: &str) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if fraction.len() > 3 {
        return None;
    }
    let thousandths: u64 = format!("{fraction:0<3}").parse().ok()?;
    whole.parse::<u64>().ok()?.checked_mul(1000)?.checked_add(thousandths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_become_numbers() {
        let cpu = ["1", "0.5", "250m", "1.25", "x", "1.2345"].map(millicores);
        assert_eq!(cpu, [Some(1000), Some(500), Some(250), Some(1250), None, None]);
        let memory = ["512Mi", "1Gi", "22976Ki", "20683162", "128M", "1Zi"].map(bytes);
        let numbers = [512 << 20, 1 << 30, 22976 << 10, 20_683_162, 128_000_000];
        assert_eq!(memory.iter().flatten().copied().collect::<Vec<_>>(), numbers);
        assert_eq!(memory.last(), Some(&None));
    }

    #[test]
    fn numbers_are_shown_in_the_largest_unit_without_fraction() {
        assert_eq!([29, 1000, 1070, 0].map(show_millicores), ["29m", "1", "1070m", "0m"]);
        assert_eq!([512 << 20, 1 << 30, 22976 << 10, 7].map(show_bytes), ["512Mi", "1Gi", "22976Ki", "7"]);
    }
}
