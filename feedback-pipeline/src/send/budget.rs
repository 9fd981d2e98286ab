//! The cap on what replies cost. A model without a price has an unknown cost.

use crate::error::{Error, Result};
use std::sync::{Mutex, PoisonError};
use tokio::sync::Notify;

/// Counts dollars spent and dollars that requests in flight may cost, against the cap.
pub struct Budget {
    max_usd: Option<f64>,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    spent: f64,
    reserved: f64,
    open: usize,
}

/// Dollars that an attempt may cost.
#[derive(Debug, Clone, Copy)]
pub struct Cost {
    /// With a reply as long as the limit.
    pub most: f64,
    /// With a reply hardly longer than those before it.
    pub likely: f64,
}

/// Dollars reserved for one attempt.
#[derive(Debug)]
#[must_use]
pub struct ReservedDollars(f64);

impl Budget {
    /// A budget of which earlier runs spent `spent` dollars.
    pub fn new(max_usd: Option<f64>, spent: f64) -> Self {
        Self { max_usd, state: Mutex::new(State { spent, ..State::default() }), changed: Notify::new() }
    }

    /// Reserves the `most` dollars that an attempt may cost. If those in flight leave too little, waits for their
    /// actual cost. If nothing is in flight, the `likely` cost is enough, so less than one request's cost remains
    /// unused, and at most one request can exceed the budget. Both are evaluated again after each wait, since they
    /// depend on the cost of replies.
    ///
    /// # Errors
    /// [`Error::Budget`] where nothing is in flight and still too little is left.
    pub async fn reserve(&self, cost: impl Fn() -> Cost) -> Result<ReservedDollars> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            {
                let Cost { most, likely } = cost();
                let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                let used = state.spent + state.reserved;
                let fits = |dollars: f64| self.max_usd.is_none_or(|max| used + dollars <= max);
                let dollars = if state.open == 0 && !fits(most) { likely } else { most };
                if fits(dollars) {
                    state.reserved += dollars;
                    state.open += 1;
                    return Ok(ReservedDollars(dollars));
                }
                if state.open == 0 {
                    let max_usd = self.max_usd.unwrap_or_default();
                    return Err(Error::Budget { max_usd, spent_usd: state.spent, next_usd: likely });
                }
            }
            changed.await;
        }
    }

    /// Replaces reserved dollars by the actual cost.
    pub fn charge(&self, reserved: ReservedDollars, cost: f64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.reserved = (state.reserved - reserved.0).max(0.0);
        state.open = state.open.saturating_sub(1);
        if state.open == 0 {
            state.reserved = 0.0; // rounding leaves dust
        }
        state.spent += cost;
        drop(state);
        self.changed.notify_waiters();
    }

    /// Dollars left in the budget; infinite without one.
    pub fn room(&self) -> f64 {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.max_usd.map_or(f64::INFINITY, |max| max - state.spent - state.reserved)
    }

    /// Charges dollars that were not reserved.
    pub fn pay(&self, dollars: f64) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).spent += dollars;
    }

    /// Gives back what a batch was counted with: its replies are paid for one by one.
    pub fn release(&self, dollars: f64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.spent = (state.spent - dollars).max(0.0);
    }

    /// The error of a request that may cost more than is left.
    pub fn too_little_for(&self, next_usd: f64) -> Error {
        Error::Budget { max_usd: self.max_usd.unwrap_or_default(), spent_usd: self.spent(), next_usd }
    }

    /// Dollars spent, earlier runs included.
    pub fn spent(&self) -> f64 {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).spent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn purse_waits_for_those_in_flight_and_then_ends() {
        let budget = std::sync::Arc::new(Budget::new(Some(1.0), 0.2));
        let dollars = |dollars: f64| Cost { most: dollars, likely: dollars };
        let first = budget.reserve(|| dollars(0.5)).await.unwrap();
        let waiting = tokio::spawn({
            let budget = budget.clone();
            async move { budget.reserve(|| Cost { most: 0.5, likely: 0.1 }).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        budget.charge(first, 0.1);
        let second = waiting.await.unwrap().unwrap();
        budget.charge(second, 0.5);
        let error = budget.reserve(|| dollars(0.5)).await.unwrap_err();
        assert_eq!(error.exit_code(), 3);
        assert!((budget.spent() - 0.8).abs() < 1e-9);
        let last = budget.reserve(|| Cost { most: 0.5, likely: 0.1 }).await.unwrap();
        let after = tokio::time::timeout(
            std::time::Duration::from_millis(20),
            budget.reserve(|| Cost { most: 0.5, likely: 0.05 }),
        );
        assert!(after.await.is_err(), "what is likely is enough for one at a time");
        budget.charge(last, 0.15);
    }
}
