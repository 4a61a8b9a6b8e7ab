//! Puts the arms of promoted aliases in the place of their names.

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;

use crate::openai::prune::prune;
use crate::openai::request::RequestView;
use crate::policy::Policy;
use crate::policy::Route;
use crate::policy::Target;
use crate::store::AliasBook;

use super::decide::Asked;

const SESSION: &str = "x-weir-session";

/// The alias that a call is for, and the arm that it fell on.
#[derive(Clone, Debug)]
pub(super) struct Trial {
    pub(super) alias: Arc<str>,
    /// The arm's model.
    pub(super) arm: Arc<str>,
    /// What the arm was trained without.
    prune: Vec<String>,
}

/// Leads a route to the arms of the aliases that it names. A canary that fails is stood in for by
/// the arm that serves, when all else has failed.
pub(super) fn resolve(
    book: &AliasBook,
    policy: &Policy,
    asked: &Asked<'_>,
    draw: &[u8],
    route: &mut Route,
) -> Option<Trial> {
    for fallback in &mut route.fallback {
        if let Some(alias) = book.get(&fallback.model) {
            *fallback = policy.target(&alias.serving.model);
        }
    }
    let alias = book.get(&route.target.model)?;
    let (arm, is_canary) = alias.arm_of(&caller(asked, draw));
    let serving = policy.target(&alias.serving.model);
    route.target = policy.target(&arm.model);
    let stands_in = |route: &Route| route.fallback.iter().any(|next| next.model == serving.model);
    if is_canary && !stands_in(route) {
        route.fallback.push(serving);
    }
    route.fallback.retain(|next| next.model != route.target.model);
    let arm_model = Arc::clone(&route.target.model);
    Some(Trial { alias: alias.name.as_str().into(), arm: arm_model, prune: arm.prune.clone() })
}

/// Who is always on the same arm: a user, else a session, else each call is for itself.
fn caller(asked: &Asked<'_>, draw: &[u8]) -> Vec<u8> {
    let session = |headers: &HeaderMap| headers.get(SESSION).map(|value| value.as_bytes().to_vec());
    let user = asked.view.user(asked.body);
    let user = user.or_else(|| asked.view.string(asked.body, "safety_identifier"));
    let user = user.filter(|user| !user.is_empty()).map(|user| user.as_bytes().to_vec());
    user.or_else(|| session(asked.headers).filter(|name| !name.is_empty()))
        .unwrap_or_else(|| draw.to_vec())
}

/// A request as an arm wants it that was trained on pruned prompts.
pub(super) struct Pruned<'a> {
    trial: Option<&'a Trial>,
    body: Option<(RequestView, Bytes)>,
}

impl<'a> Pruned<'a> {
    pub(super) fn of(trial: Option<&'a Trial>, body: &Bytes) -> Self {
        let prunes = trial.filter(|trial| !trial.prune.is_empty());
        let pruned = prunes.and_then(|trial| prune(body, &trial.prune));
        // What was a request is one without some of its words.
        let body = pruned.and_then(|body| {
            RequestView::parse_model_optional(&body).ok().map(|view| (view, body))
        });
        Self { trial, body }
    }

    /// What is sent to a target in the place of what the client has sent.
    pub(super) fn for_target(&self, target: &Target) -> Option<&(RequestView, Bytes)> {
        self.body.as_ref().filter(|_| self.trial.is_some_and(|trial| trial.arm == target.model))
    }
}
