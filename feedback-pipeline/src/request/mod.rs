//! What an item is asked with: its text, its picture, the key of the request, and the tokens it will take.

mod about;
mod format;
pub mod image;
pub mod prompt;
pub mod question;
pub mod samples;
pub mod tokens;

pub use about::is_about;
pub use question::{Question, Questions};
