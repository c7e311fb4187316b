//! The locks that single flight, marks and the ledger are built on, in one place so that a model checker can put its
//! own in their stead.
//!
//! Must not hold anything but names: what is used here is what `tests/model` replaces.

pub(super) use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
pub(super) use std::sync::{Arc, Mutex, PoisonError, RwLock};
