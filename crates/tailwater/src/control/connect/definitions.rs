//! What was defined over REST, in memory and in the store alike: one change at a time.

use crate::supervisor::Target;
use crate::supervisor::store::Store;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock};
use tailwater_core::Failure;
use tokio::sync::{Mutex, MutexGuard};

/// A connector as it was posted, with what is wanted of it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Definition {
    pub config: Map<String, Value>,
    pub target: Target,
}

pub(super) struct Definitions {
    store: Store,
    all: RwLock<BTreeMap<String, Definition>>,
    turn: Mutex<()>,
}

impl Definitions {
    pub async fn load(store: Store) -> Result<Definitions, Failure> {
        let stored = store.load_all().await?;
        let all = stored.into_iter().map(|s| (s.name, Definition { config: s.config, target: s.target })).collect();
        Ok(Definitions { store, all: RwLock::new(all), turn: Mutex::new(()) })
    }

    /// Changes wait for each other.
    pub async fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    pub fn get(&self, name: &str) -> Option<Definition> {
        self.all.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    pub fn names(&self) -> Vec<String> {
        self.all.read().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    /// Durable when it returns; after an error everything is as it was.
    pub async fn save(&self, name: &str, definition: Definition) -> Result<(), Failure> {
        self.store.save(name, &definition.config, definition.target).await?;
        self.all.write().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), definition);
        Ok(())
    }

    pub async fn remove(&self, name: &str) -> Result<(), Failure> {
        self.store.remove(name).await?;
        self.all.write().unwrap_or_else(PoisonError::into_inner).remove(name);
        Ok(())
    }
}
