//! Who is calling.

use std::{
    any::Any,
    fmt::Debug,
    sync::{Arc, LazyLock},
};

/// Who is calling, as whoever accepted the request found out.
///
/// The server tells callers apart by their names alone. What else the type knows, such as their rights, is for the
/// service, which gets the same object back with each call and can recognise its type ([`Any`]).
pub trait Principal: Any + Debug + Send + Sync {
    /// Its name. What belongs to one name is shown to no other.
    fn name(&self) -> &str;
}

/// A caller of whom nothing but the name is known.
#[derive(Clone, Debug)]
pub struct Named(pub Arc<str>);

impl Principal for Named {
    fn name(&self) -> &str {
        &self.0
    }
}

/// The name of callers whom nobody tells apart.
pub const LOCAL: &str = "local";

/// The caller with the name [`LOCAL`], of whom nothing else is known.
pub fn local() -> Arc<dyn Principal> {
    static CALLER: LazyLock<Arc<Named>> = LazyLock::new(|| Arc::new(Named(LOCAL.into())));
    CALLER.clone()
}
