//! Messages to the user. The standard macros panic if the output is closed, as by `| head`; paid replies or
//! hours of training must not be lost because of that.

use std::fmt::Arguments;
use std::io::{ErrorKind, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

static INCOMPLETE: AtomicBool = AtomicBool::new(false);

/// Name of this process among several, if another one prints for all.
static MUTED: OnceLock<String> = OnceLock::new();

/// Like `println!`, but does not panic if standard output is closed.
#[macro_export]
macro_rules! say {
    ($($words:tt)*) => { $crate::say::out(format_args!($($words)*)) };
}

/// Like `eprintln!`, but does not panic if standard error is closed.
#[macro_export]
macro_rules! warn {
    ($($words:tt)*) => { $crate::say::err(format_args!($($words)*)) };
}

/// From now on, another process prints all messages: of this one, called `name`, only [`error`]s are shown.
pub fn mute(name: String) {
    let _ = MUTED.set(name); // set only once
}

/// Whether another process prints all messages.
pub fn is_muted() -> bool {
    MUTED.get().is_some()
}

/// A line on standard output; see [`say!`](crate::say!).
pub fn out(words: Arguments<'_>) {
    if is_muted() {
        return;
    }
    let written = writeln!(std::io::stdout(), "{words}");
    if let Err(error) = written
        && error.kind() != ErrorKind::BrokenPipe
        && !INCOMPLETE.swap(true, Ordering::Relaxed)
    {
        err(format_args!("error: cannot write standard output: {error}"));
    }
}

/// A line on standard error; see [`warn!`](crate::warn!).
pub fn err(words: Arguments<'_>) {
    if !is_muted() {
        let _ = writeln!(std::io::stderr(), "{words}"); // there is nowhere to report it
    }
}

/// The line of an error that ends the process, on standard error, even if another process prints all other messages.
pub fn error(words: Arguments<'_>) {
    let name = MUTED.get().map_or_else(String::new, |name| format!("{name}: "));
    let _ = writeln!(std::io::stderr(), "{name}{words}"); // there is nowhere to report it
}

/// Whether writing to standard output failed, for instance because the disk is full.
pub fn is_incomplete() -> bool {
    INCOMPLETE.load(Ordering::Relaxed)
}
