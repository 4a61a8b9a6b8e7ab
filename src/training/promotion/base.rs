//! What the catalogue says of a promotion: how long the base lives, and what its calls cost.

use crate::metering::catalogue::Catalogue;
use crate::metering::catalogue::Model;
use crate::metering::rates::Tier;
use crate::metering::rates::TokenKind;
use crate::openai::error::ApiError;
use crate::training::provider::base_of;

/// A model that ends sooner is no place to lead traffic to, in days.
const LEAST_LIFE: i64 = 30;

/// Refuses a model whose own end, or whose base's, is near. `today` is in days since 1970.
///
/// # Errors
/// 422 that names the day.
pub(super) fn check_life(catalogue: &Catalogue, model: &str, today: i64) -> Result<(), ApiError> {
    let names = [model, base_of(model)];
    let ends = names.iter().filter_map(|name| Some((*name, catalogue.get(name)?.shutdown?)));
    let Some((name, day)) = ends.min_by_key(|(_, day)| day.days_since_epoch()) else {
        return Ok(());
    };
    let left = day.days_since_epoch() - today;
    if left > LEAST_LIFE {
        return Ok(());
    }
    let when = match left {
        ..=0 => "has been shut down since".to_owned(),
        left => format!("is shut down in {left} days, on"),
    };
    let message = format!(
        "`{name}` {when} {day}: too soon for a model that is built on it. Choose a base that lives \
         longer; `weir models list` shows the dates."
    );
    Err(ApiError::new(422, "invalid_request_error", "base_near_shutdown", message).param("model"))
}

/// How many times as much tokens of `new` cost as those of `old`: the larger one of input and output.
/// `None` where one of them has no price.
pub(super) fn price_ratio(catalogue: &Catalogue, new: &str, old: &str) -> Option<f64> {
    let (new, old) = (catalogue.get(new)?, catalogue.get(old)?);
    let ratio = |kind| Some(rate(new, kind)? / rate(old, kind)?).filter(|ratio| ratio.is_finite());
    Some(ratio(TokenKind::Input)?.max(ratio(TokenKind::Output)?))
}

fn rate(model: &Model, kind: TokenKind) -> Option<f64> {
    Some(model.tiers.get(&Tier::Standard)?.base.get(kind)?.to_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metering::catalogue::Date;

    #[test]
    fn a_tuned_model_ends_with_its_base() {
        let catalogue = Catalogue::builtin();
        let day = |text: &str| Date::parse(text).unwrap().days_since_epoch();
        // ft:gpt-4.1-mini ends on 2027-01-14.
        let model = "ft:gpt-4.1-mini:acme::1";
        assert!(check_life(&catalogue, model, day("2026-11-24")).is_ok());
        let near = check_life(&catalogue, model, day("2026-12-20")).unwrap_err();
        assert!(near.message.contains("in 25 days, on 2027-01-14"), "{}", near.message);
        let over = check_life(&catalogue, "ft:gpt-4.1-nano:acme::1", day("2026-11-24"));
        assert!(over.unwrap_err().message.contains("since 2026-10-23"));
        assert!(check_life(&catalogue, "house-llama", day("2026-11-24")).is_ok());
    }

    #[test]
    fn prices_are_compared_by_the_larger_ratio() {
        let catalogue = Catalogue::builtin();
        // 0.8 / 0.4 for input, 3.2 / 1.6 for output.
        let ratio = price_ratio(&catalogue, "ft:gpt-4.1-mini:acme::1", "gpt-4.1-mini");
        assert!((ratio.unwrap() - 2.0).abs() < 1e-9);
        assert_eq!(price_ratio(&catalogue, "house-llama", "gpt-4.1-mini"), None);
    }
}
