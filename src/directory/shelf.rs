//! The shelves of the memory tier on moka: bounded by entries and by bytes, with shared words held once.
//!
//! Must not decide an age: moka's time to live only frees memory.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use moka::sync::Cache;

use super::ledger::Shelf;
use crate::identity::{MemberRef, OrganizationId};
use crate::session::{ActiveSessions, Evidence};

/// What an entry takes besides its record: moka's node and place, the key, the allocator's share. Measured by
/// `benches/directory.rs`.
const ENTRY_BYTES: u64 = 360;

/// Session lists, bounded by their number and by what they take.
pub(super) struct Lists {
    shelved: ArcSwap<Shelved>,
    words: Words,
}

/// The lists within one set of bounds.
struct Shelved {
    cache: Cache<MemberRef, Arc<ActiveSessions>>,
    bytes: Arc<AtomicU64>,
}

impl Lists {
    pub(super) fn new(max_entries: u64, max_bytes: u64, life: Duration) -> Self {
        let shelved = Shelved::new(max_entries, max_bytes, life);
        Self { shelved: ArcSwap::from_pointee(shelved), words: Words::default() }
    }

    /// Moves the lists to where there are other bounds. One that comes in meanwhile may be lost, and one that was taken off
    /// meanwhile may be there again, as old as it is: its date and the marks judge it.
    pub(super) fn resize(&self, max_entries: u64, max_bytes: u64, life: Duration) {
        let before = self.shelved.load_full();
        let next = Shelved::new(max_entries, max_bytes, life);
        for (member, list) in &before.cache {
            next.put(MemberRef::clone(&member), list);
        }
        self.shelved.store(Arc::new(next));
    }

    /// Entries and bytes, once everything due was dropped.
    pub(super) fn size(&self) -> (u64, u64) {
        let shelved = self.shelved.load();
        shelved.cache.run_pending_tasks();
        (shelved.cache.entry_count(), shelved.bytes.load(Ordering::Relaxed))
    }
}

impl Shelved {
    fn new(max_entries: u64, max_bytes: u64, life: Duration) -> Self {
        // moka knows one bound: no entry counts for less than its share of the bytes, so that the number is one too.
        let least = u32::try_from(max_bytes.div_ceil(max_entries.max(1))).unwrap_or(u32::MAX);
        let bytes = Arc::new(AtomicU64::new(0));
        let gone = Arc::clone(&bytes);
        let cache = Cache::builder()
            .max_capacity(max_bytes)
            .weigher(move |_, list: &Arc<ActiveSessions>| {
                u32::try_from(weight(list)).unwrap_or(u32::MAX).max(least)
            })
            .eviction_listener(move |_, list: Arc<ActiveSessions>, _| {
                gone.fetch_sub(weight(&list), Ordering::Relaxed);
            })
            .time_to_live(life)
            .build();
        Self { cache, bytes }
    }

    fn put(&self, key: MemberRef, list: Arc<ActiveSessions>) {
        self.bytes.fetch_add(weight(&list), Ordering::Relaxed);
        self.cache.insert(key, list);
    }
}

impl Shelf for Lists {
    fn get(&self, member: &MemberRef) -> Option<Evidence> {
        self.shelved.load().cache.get(member).map(Evidence::Sessions)
    }

    fn put(&self, member: MemberRef, evidence: Evidence) {
        let Evidence::Sessions(list) = evidence else { return };
        let shared = self.words.share(Arc::unwrap_or_clone(list));
        let list = Arc::new(shared);
        let shelved = self.shelved.load();
        // The list's own ids, so that key and record hold the same words.
        let key = if list.member == member { list.member.clone() } else { member };
        let before = shelved.cache.get(&key);
        shelved.put(key, list);
        supersede(before);
    }

    fn take_off(&self, member: &MemberRef) {
        let shelved = self.shelved.load();
        let before = shelved.cache.get(member);
        shelved.cache.invalidate(member);
        supersede(before);
    }
}

/// After the new one is in its place: whoever looks again finds that.
fn supersede(list: Option<Arc<ActiveSessions>>) {
    if let Some(list) = list {
        list.supersede();
    }
}

fn weight(list: &ActiveSessions) -> u64 {
    u64::try_from(list.weight()).unwrap_or(u64::MAX).saturating_add(ENTRY_BYTES)
}

/// Members the directory does not know.
pub(super) struct Unknown(pub(super) Cache<MemberRef, Evidence>);

impl Shelf for Unknown {
    fn get(&self, member: &MemberRef) -> Option<Evidence> {
        self.0.get(member)
    }

    fn put(&self, member: MemberRef, evidence: Evidence) {
        self.0.insert(member, evidence);
    }

    fn take_off(&self, member: &MemberRef) {
        self.0.invalidate(member);
    }
}

/// A bounded cache. Its time to live only frees memory; ages are read off the values.
pub(super) fn bounded<K, V>(capacity: u64, life: Duration) -> Cache<K, V>
where
    K: Hash + Eq + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    Cache::builder().max_capacity(capacity).time_to_live(life).build()
}

/// Words that many records hold: organizations, and the sets of slug, roles and the like. Dropped when nobody else
/// holds them any more.
#[derive(Default)]
struct Words {
    sets: Mutex<Held<Arc<[Arc<str>]>>>,
    organizations: Mutex<Held<OrganizationId>>,
}

struct Held<T> {
    all: HashSet<T>,
    /// When to look for what nobody holds any more.
    sweep_at: usize,
}

impl<T> Default for Held<T> {
    fn default() -> Self {
        Self { all: HashSet::new(), sweep_at: 1_024 }
    }
}

impl<T: Hash + Eq + Clone> Held<T> {
    fn share(&mut self, one: &T, is_held: impl Fn(&T) -> bool) -> T {
        if let Some(held) = self.all.get(one) {
            return held.clone();
        }
        if self.all.len() >= self.sweep_at {
            self.all.retain(is_held);
            self.sweep_at = (self.all.len() * 2).max(1_024);
        }
        self.all.insert(one.clone());
        one.clone()
    }
}

impl Words {
    fn share(&self, list: ActiveSessions) -> ActiveSessions {
        let set = {
            let mut sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
            sets.share(list.parts().1, |set| Arc::strong_count(set) > 1)
        };
        let organization_id = {
            let mut all = self.organizations.lock().unwrap_or_else(PoisonError::into_inner);
            all.share(&list.member.organization_id, OrganizationId::is_shared)
        };
        let member = MemberRef { organization_id, member_id: list.member.member_id.clone() };
        list.sharing(member, set)
    }
}
