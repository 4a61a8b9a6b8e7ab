//! The types that placeholders name.

/// What a value is. In order of how much the label says: of two that overlap the first one counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Label {
    PrivateKey,
    AnthropicKey,
    OpenaiKey,
    AwsKey,
    AwsSecret,
    GithubToken,
    GitlabToken,
    SlackToken,
    StripeKey,
    GoogleKey,
    SendgridKey,
    NpmToken,
    PypiToken,
    HuggingfaceToken,
    TwilioKey,
    SupabaseKey,
    FirecrawlKey,
    WeirKey,
    Jwt,
    BasicAuth,
    BearerToken,
    ApiKey,
    Password,
    Secret,
    Email,
    Iban,
    Card,
    Ssn,
    Ip,
    Phone,
}

/// Each label with its name in a placeholder, in the enum's order.
pub(super) const LABELS: [(Label, &str); 30] = [
    (Label::PrivateKey, "PRIVATE_KEY"),
    (Label::AnthropicKey, "ANTHROPIC_KEY"),
    (Label::OpenaiKey, "OPENAI_KEY"),
    (Label::AwsKey, "AWS_KEY"),
    (Label::AwsSecret, "AWS_SECRET"),
    (Label::GithubToken, "GITHUB_TOKEN"),
    (Label::GitlabToken, "GITLAB_TOKEN"),
    (Label::SlackToken, "SLACK_TOKEN"),
    (Label::StripeKey, "STRIPE_KEY"),
    (Label::GoogleKey, "GOOGLE_KEY"),
    (Label::SendgridKey, "SENDGRID_KEY"),
    (Label::NpmToken, "NPM_TOKEN"),
    (Label::PypiToken, "PYPI_TOKEN"),
    (Label::HuggingfaceToken, "HUGGINGFACE_TOKEN"),
    (Label::TwilioKey, "TWILIO_KEY"),
    (Label::SupabaseKey, "SUPABASE_KEY"),
    (Label::FirecrawlKey, "FIRECRAWL_KEY"),
    (Label::WeirKey, "WEIR_KEY"),
    (Label::Jwt, "JWT"),
    (Label::BasicAuth, "BASIC_AUTH"),
    (Label::BearerToken, "BEARER_TOKEN"),
    (Label::ApiKey, "API_KEY"),
    (Label::Password, "PASSWORD"),
    (Label::Secret, "SECRET"),
    (Label::Email, "EMAIL"),
    (Label::Iban, "IBAN"),
    (Label::Card, "CARD"),
    (Label::Ssn, "SSN"),
    (Label::Ip, "IP"),
    (Label::Phone, "PHONE"),
];

impl Label {
    /// The name between `<` and `_1>`.
    pub(super) fn name(self) -> &'static str {
        LABELS[self as usize].1
    }

    /// Whether a value means the same without its spaces and dashes.
    pub(super) fn is_number(self) -> bool {
        matches!(self, Self::Iban | Self::Card | Self::Ssn | Self::Phone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_stand_in_the_order_of_the_enum() {
        assert_eq!(Label::Phone as usize + 1, LABELS.len());
        for (at, (label, name)) in LABELS.iter().enumerate() {
            assert_eq!((*label as usize, label.name()), (at, *name));
        }
    }
}
