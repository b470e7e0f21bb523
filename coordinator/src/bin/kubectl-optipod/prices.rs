//! Prices on the command line.

use optipod_common::savings::Prices;

/// With both prices what is given back is told in money.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
#[group(id = "prices")]
pub struct Options {
    /// Price of one requested core for one hour, in any currency. With both prices what is given back is told in money.
    #[arg(long, value_parser = price, requires = "price_gibibyte_hour")]
    price_core_hour: Option<f64>,
    /// Price of one requested GiB of memory for one hour.
    #[arg(long, value_parser = price, requires = "price_core_hour")]
    price_gibibyte_hour: Option<f64>,
}

impl Options {
    /// Where both are given.
    pub fn prices(self) -> Option<Prices> {
        Some(Prices { core_hour: self.price_core_hour?, gibibyte_hour: self.price_gibibyte_hour? })
    }
}

fn price(text: &str) -> Result<f64, String> {
    let price = text.parse().ok().filter(|price: &f64| price.is_finite() && *price >= 0.0);
    price.ok_or_else(|| format!("{text:?} is not a price: expected a number, 0 or more, such as 0.04"))
}

#[cfg(test)]
impl Options {
    /// Both.
    pub const fn of(core_hour: f64, gibibyte_hour: f64) -> Self {
        Self { price_core_hour: Some(core_hour), price_gibibyte_hour: Some(gibibyte_hour) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prices_are_numbers_that_are_not_negative() {
        assert!(price("0.04").is_ok() && price("0").is_ok());
        for bad in ["-1", "inf", "NaN", "4 EUR", ""] {
            assert!(price(bad).unwrap_err().contains("not a price"), "{bad}");
        }
    }

    #[test]
    fn one_price_is_none() {
        assert_eq!(Options::default().prices(), None);
        assert!(Options::of(0.04, 0.005).prices().is_some());
        assert_eq!(Options { price_gibibyte_hour: None, ..Options::of(1.0, 1.0) }.prices(), None);
    }
}
