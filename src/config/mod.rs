//! The configuration: layered, read leniently enough to find every mistake, checked into values that cannot be wrong.
//!
//! Must not build anything that runs; it ends in settings.

mod checked;
mod diagnostics;
mod docs;
mod files;
mod layers;
mod lint;
mod load;
mod locate;
mod mask;
mod otel;
mod raw;
mod resolved;
mod suggest;
mod tree;

pub use checked::{AdminPart, Config, SecretPolicy};
pub use diagnostics::{Diagnostic, render_human, render_json};
pub use docs::{json_schema, markdown_reference};
pub use files::ReadFiles;
pub use load::{Invalid, LoadOptions, Loaded, load, load_admin, load_with_warnings};
pub use resolved::{ResolvedValue, with_defaults};
pub use suggest::did_you_mean;
