//! The factors that would meet a requirement, and those of them that somebody can be asked to prove.
//!
//! Must not name a factor that the API knows no way to come by.

use super::requirement::FactorRequirement;
use crate::session::{DeliveryMethod, Factor, FactorCategory, FactorKind};

impl FactorRequirement {
    /// One that asks for nothing but the category.
    pub(super) fn of_category(category: FactorCategory) -> Self {
        Self { kind: None, category: Some(category), delivery: None, connection_id: None, max_age: None }
    }

    /// Every factor that would meet the requirement, its age apart; none if there is no such factor at all.
    pub(super) fn examples(&self) -> Vec<Factor> {
        let kinds: Vec<FactorKind> = match &self.kind {
            Some(kind) => vec![kind.clone()],
            None => FactorKind::known_names().map(FactorKind::from_name).collect(),
        };
        let factors = kinds.iter().flat_map(|kind| {
            self.deliveries_of(kind).into_iter().map(|delivery| Factor {
                kind: kind.clone(),
                delivery,
                last_authenticated_at: None,
                connection_id: self.connection_id.clone(),
                email: None,
                impersonator: None,
            })
        });
        factors.filter(|factor| self.is_kind_of(factor).is_true()).collect()
    }

    /// What a caller could be asked to prove. Impersonation and imports are not; nor is what is carried over from elsewhere,
    /// since whoever signs in anew proves something else.
    pub(super) fn provable(&self) -> Vec<Factor> {
        let mut factors = self.examples();
        factors.retain(|factor| {
            let elsewhere = [FactorKind::Impersonated, FactorKind::Imported];
            !elsewhere.contains(&factor.kind) && !factor.delivery.is_exchange()
        });
        factors
    }

    /// The ways in which a factor of the kind may come that the requirement leaves open.
    fn deliveries_of(&self, kind: &FactorKind) -> Vec<DeliveryMethod> {
        // Connections are those of single sign-on; of a kind nobody knows nothing is known.
        if self.connection_id.is_some() && !matches!(kind, FactorKind::Sso | FactorKind::Other(_)) {
            return Vec::new();
        }
        let named = self.delivery.iter().cloned();
        let mut deliveries: Vec<DeliveryMethod> = match &self.delivery {
            Some(_) => named.collect(),
            None => DeliveryMethod::known_names().map(DeliveryMethod::new).collect(),
        };
        deliveries.retain(|delivery| kind.is_delivered_by(delivery));
        if let FactorKind::Other(_) | FactorKind::SignatureChallenge = kind
            && self.delivery.is_none()
        {
            return vec![DeliveryMethod::new("in_its_own_way")];
        }
        deliveries
    }
}
