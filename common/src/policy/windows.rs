//! Times of the week at which changes are made.
//!
//! Zones come from the time zone data that is built in, so that the same policy means the same on every machine.

use std::fmt;
use std::str::FromStr;

use jiff::civil::Weekday;
use jiff::tz::TimeZoneDatabase;
use serde::{Deserialize, Serialize};

use crate::time::Timestamp;

/// A part of some days of the week, in one time zone. It does not reach past midnight.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// On which days.
    pub days: Days,
    /// From this local time on.
    pub from: MinuteOfDay,
    /// Until before this local time, later than `from`.
    pub to: MinuteOfDay,
    /// Whose local time.
    pub zone: ZoneName,
    /// What may be done in it.
    pub allow: WindowChange,
}

/// Which changes a window is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum WindowChange {
    /// Decreases are made in the window only; increases at any time.
    #[default]
    Decrease,
    /// All changes are made in the window only, but for increases in an emergency.
    Any,
}

/// Days of the week; bit 0 is Monday.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Days(u8);

impl Days {
    /// Names, Monday first.
    const NAMES: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
    /// Every day.
    pub const ALL: Self = Self(0x7F);

    /// From bits, bit 0 for Monday; the highest bit has no meaning.
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits & Self::ALL.0)
    }

    /// Whether a day is among them.
    pub fn contains(self, day: Weekday) -> bool {
        self.0 & (1 << day.to_monday_zero_offset()) != 0
    }

    const fn shares_a_day(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

impl fmt::Display for Days {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::ALL {
            return f.write_str("every day");
        }
        let names = Self::NAMES.iter().enumerate().filter(|(i, _)| self.0 & (1 << i) != 0);
        f.write_str(&names.map(|(_, name)| *name).collect::<Vec<_>>().join(","))
    }
}

/// A local time: minutes after midnight, 0 to 1440.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct MinuteOfDay(u16);

impl FromStr for MinuteOfDay {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let error = || format!("{text:?} is not a time of day: expected 00:00 to 24:00, such as \"01:30\"");
        let (hour, minute) = text.split_once(':').ok_or_else(error)?;
        let number = |s: &str| {
            let digits = s.len() == 2 && s.bytes().all(|b| b.is_ascii_digit());
            if digits { s.parse::<u16>().map_err(|_| error()) } else { Err(error()) }
        };
        let (hour, minute) = (number(hour)?, number(minute)?);
        let total = hour * 60 + minute;
        if minute < 60 && total <= 24 * 60 { Ok(Self(total)) } else { Err(error()) }
    }
}

impl fmt::Display for MinuteOfDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}", self.0 / 60, self.0 % 60)
    }
}

/// Name of a time zone in the IANA database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ZoneName(String);

impl Default for ZoneName {
    fn default() -> Self {
        Self("UTC".to_owned())
    }
}

impl FromStr for ZoneName {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match TimeZoneDatabase::bundled().get(text) {
            Ok(_) => Ok(Self(text.to_owned())),
            Err(_) => Err(format!(
                "{text:?} is not a time zone: expected a name of the IANA database, such as UTC or Europe/Paris"
            )),
        }
    }
}

impl fmt::Display for ZoneName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}-{} {}", self.days, self.from, self.to, self.zone)
    }
}

impl Window {
    /// A window.
    ///
    /// # Errors
    /// When it does not end after it begins.
    pub fn new(
        days: Days,
        (from, to): (MinuteOfDay, MinuteOfDay),
        zone: ZoneName,
        allow: WindowChange,
    ) -> Result<Self, String> {
        if from < to {
            Ok(Self { days, from, to, zone, allow })
        } else {
            Err(format!(
                "to {to} is not after from {from}: a window ends on the day it begins on, at 24:00 at the latest; write one that passes midnight as two"
            ))
        }
    }

    /// Whether a moment is in it. Local times that a change of the clock skips are in no window, those that it repeats
    /// are in it twice.
    pub fn contains(&self, at: Timestamp) -> bool {
        let (Ok(zone), Ok(at)) = (
            TimeZoneDatabase::bundled().get(&self.zone.0),
            jiff::Timestamp::from_microsecond(at.unix_micros()),
        ) else {
            return false;
        };
        let local = zone.to_datetime(at);
        let minute = u16::from(local.hour().unsigned_abs()) * 60 + u16::from(local.minute().unsigned_abs());
        self.days.contains(local.weekday()) && (self.from.0..self.to.0).contains(&minute)
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.zone == other.zone
            && self.days.shares_a_day(other.days)
            && self.from < other.to
            && other.from < self.to
    }
}

/// Every two windows that overlap, by position. Windows of different time zones are not compared: how they lie to each
/// other changes over the year.
pub fn overlaps(windows: &[Window]) -> Vec<(usize, usize)> {
    let pairs = windows.iter().enumerate().flat_map(|(i, a)| {
        let later = windows.iter().enumerate().skip(i + 1);
        later.filter(|(_, b)| a.overlaps(b)).map(move |(j, _)| (i, j))
    });
    pairs.collect()
}

/// Whether windows let a change be made now. Without windows everything may; a window about decreases leaves increases
/// free.
pub fn allowed_now(windows: &[Window], decrease: bool, at: Timestamp) -> bool {
    let mut about = windows.iter().filter(|w| decrease || w.allow == WindowChange::Any).peekable();
    about.peek().is_none() || about.any(|w| w.contains(at))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// No days = every day.
    fn window(days: &[&str], from: &str, to: &str, zone: &str, allow: WindowChange) -> Window {
        let bit = |day: &&str| 1 << Days::NAMES.iter().position(|name| name == day).unwrap();
        let bits = if days.is_empty() { 0xFF } else { days.iter().map(bit).sum() };
        let times = (from.parse().unwrap(), to.parse().unwrap());
        Window::new(Days::from_bits(bits), times, zone.parse().unwrap(), allow).unwrap()
    }

    fn at(text: &str) -> Timestamp {
        let at: jiff::Timestamp = text.parse().unwrap();
        Timestamp::from_unix_micros(at.as_microsecond())
    }

    #[test]
    fn a_window_is_in_local_time() {
        let night = window(&["Mon", "Tue"], "01:00", "05:00", "Europe/Paris", WindowChange::Decrease);
        // 2026-01-05 is a Monday; Paris is UTC+1 in winter, UTC+2 in summer
        for (time, inside) in [
            ("2026-01-05T00:00:00Z", true),
            ("2026-01-04T23:59:59Z", false),
            ("2026-01-05T03:59:59Z", true),
            ("2026-01-05T04:00:00Z", false),
            ("2026-01-07T00:30:00Z", false),
            ("2026-07-05T23:00:00Z", true),
            ("2026-07-06T03:30:00Z", false),
        ] {
            assert_eq!(night.contains(at(time)), inside, "{time}");
        }
        assert_eq!(night.to_string(), "Mon,Tue 01:00-05:00 Europe/Paris");
    }

    #[test]
    fn skipped_local_times_are_in_no_window() {
        // on 2026-03-29 Paris goes from 02:00 straight to 03:00
        let skipped = window(&["Sun"], "02:00", "03:00", "Europe/Paris", WindowChange::Any);
        for minute in 0..180 {
            let time = at("2026-03-29T00:00:00Z").shifted(minute * 60_000_000);
            assert!(!skipped.contains(time), "{minute}");
        }
    }

    #[test]
    fn windows_about_decreases_leave_increases_free() {
        let (inside, outside) = (at("2026-01-05T02:00:00Z"), at("2026-01-05T12:00:00Z"));
        let decreases = [window(&[], "01:00", "05:00", "UTC", WindowChange::Decrease)];
        let any = [window(&[], "01:00", "05:00", "UTC", WindowChange::Any)];
        for (windows, decrease, time, allowed) in [
            (&[][..], true, outside, true),
            (&decreases, true, outside, false),
            (&decreases, true, inside, true),
            (&decreases, false, outside, true),
            (&any, false, outside, false),
            (&any, false, inside, true),
            (&any, true, outside, false),
        ] {
            assert_eq!(allowed_now(windows, decrease, time), allowed, "{windows:?} {decrease}");
        }
    }

    #[test]
    fn overlaps_are_found_within_a_zone() {
        let w = |days: &[&str], from, to, zone| window(days, from, to, zone, WindowChange::Any);
        let night = w(&["Mon"], "00:00", "02:00", "UTC");
        assert_eq!(overlaps(&[night.clone(), w(&["Mon"], "02:00", "03:00", "UTC")]), []);
        assert_eq!(overlaps(&[night.clone(), w(&["Tue"], "00:00", "02:00", "UTC")]), []);
        assert_eq!(overlaps(&[night.clone(), w(&["Mon"], "00:00", "02:00", "Europe/Paris")]), []);
        let early = w(&["Mon"], "02:30", "04:00", "UTC");
        let several = [w(&["Sun"], "23:00", "24:00", "UTC"), night, w(&[], "01:59", "03:00", "UTC"), early];
        assert_eq!(overlaps(&several), [(1, 2), (2, 3)]);
    }

    #[test]
    fn what_is_no_window_is_named() {
        for bad in ["1:00", "24:01", "12:60", "noon", "", "12", "-1:00", "12:0x"] {
            assert!(bad.parse::<MinuteOfDay>().unwrap_err().contains("24:00"), "{bad}");
        }
        for bad in ["Europe/Atlantis", "", "CET+1", "+02:00"] {
            assert!(bad.parse::<ZoneName>().is_err(), "{bad}");
        }
        let times = ("05:00".parse().unwrap(), "05:00".parse().unwrap());
        let error = Window::new(Days::ALL, times, ZoneName::default(), WindowChange::Any).unwrap_err();
        assert!(error.contains("as two"), "{error}");
    }

    proptest! {
        #[test]
        fn a_day_is_covered_exactly_once_by_windows_that_do_not_overlap(cut in 1_u16..1440, second in 0_i64..604_800) {
            let halves = [(MinuteOfDay(0), MinuteOfDay(cut)), (MinuteOfDay(cut), MinuteOfDay(1440))];
            let windows = halves.map(|times| {
                Window::new(Days::ALL, times, "America/Sao_Paulo".parse().unwrap(), WindowChange::Any).unwrap()
            });
            let time = Timestamp::from_unix_seconds(1_767_571_200 + second);
            prop_assert_eq!(windows.iter().filter(|w| w.contains(time)).count(), 1);
            prop_assert_eq!(overlaps(&windows), Vec::new());
        }
    }
}
