//! What a pod's annotations say about how its containers behave.
//!
//! `simulated.optipod.io/ready-after: 5s` (readiness), `simulated.optipod.io/exit-after: 30s` and
//! `simulated.optipod.io/exit-code: "1"` (the end of each regular container). Times are simulated; a number with one
//! of the units `ms`, `s`, `m`, `h`. Without them a container is ready at once and runs for ever, but for that of a
//! Job, which ends well after [`JOB_DURATION`].

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// Prefix of the annotations.
pub const PREFIX: &str = "simulated.optipod.io/";
/// A container of a Job that says nothing else ends after this time.
pub const JOB_DURATION: Duration = Duration::from_secs(5);
/// An init container ends after this time.
pub const INIT_DURATION: Duration = Duration::from_millis(500);

/// How the regular containers of a pod behave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Behaviour {
    /// Ready this long after the start.
    pub ready_after: Option<Duration>,
    /// Ends this long after the start.
    pub exit_after: Option<Duration>,
    /// With this code.
    pub exit_code: i32,
}

impl Behaviour {
    /// What the annotations say; an error names the annotation and what is allowed.
    pub fn of(annotations: &BTreeMap<String, String>) -> Result<Self> {
        let text = |name: &str| annotations.get(&format!("{PREFIX}{name}"));
        let time = |name: &str| {
            let parsed = text(name).map(|text| duration(text));
            parsed.transpose().with_context(|| format!("annotation {PREFIX}{name}"))
        };
        let exit_code = match text("exit-code") {
            None => 0,
            Some(text) => match text.parse::<u8>() {
                Ok(code) => i32::from(code),
                Err(_) => bail!("annotation {PREFIX}exit-code: {text:?} is not 0 to 255"),
            },
        };
        Ok(Self { ready_after: time("ready-after")?, exit_after: time("exit-after")?, exit_code })
    }
}

/// `500ms`, `5s`, `10m`, `1h`.
fn duration(text: &str) -> Result<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => bail!("{text:?} is not a number and one of the units ms, s, m, h"),
    };
    let number: Option<u64> = number.parse().ok();
    let millis = number.and_then(|number| number.checked_mul(factor));
    Ok(Duration::from_millis(millis.with_context(|| format!("{text:?} has no number of this size"))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)]) -> Result<Behaviour> {
        Behaviour::of(&pairs.iter().map(|(k, v)| (format!("{PREFIX}{k}"), (*v).to_owned())).collect())
    }

    #[test]
    fn annotations_are_read() {
        let behaviour = of(&[("ready-after", "5s"), ("exit-after", "1500ms"), ("exit-code", "3")]).unwrap();
        let expected = Behaviour {
            ready_after: Some(Duration::from_secs(5)),
            exit_after: Some(Duration::from_millis(1500)),
            exit_code: 3,
        };
        assert_eq!((behaviour, of(&[]).unwrap()), (expected, Behaviour::default()));
    }

    #[test]
    fn nonsense_is_an_error_that_names_the_annotation() {
        for (key, value) in [
            ("ready-after", "5"),
            ("ready-after", "s"),
            ("exit-after", "-1s"),
            ("exit-after", "99999999999999999999h"),
            ("exit-code", "256"),
            ("exit-code", "x"),
        ] {
            let error = format!("{:#}", of(&[(key, value)]).unwrap_err());
            assert!(error.contains(key) && error.contains(value), "{error}");
        }
    }
}
