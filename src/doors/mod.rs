//! Policy enforcement points: each translates its own wire shape in and out and asks the engine between.
//!
//! Must not decide: a door that holds an `if` about users is in the wrong place.

mod asking;
mod cors;
mod proxy;
mod refusal;
mod request_log;
mod reserved;
mod same_origin;
mod settings;
mod sign_in;
mod template;

pub use proxy::{FrameTracker, Origins, ProxyDoor, ProxySite};
pub use reserved::refused_at_the_door;
pub use settings::{CorsSettings, ProxySettings, RefusalSettings, SignInSettings, SignOutSettings};
pub use template::try_page;
