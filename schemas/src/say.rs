//! Messages to the user. The standard macros panic if the output is closed, as by `| head`; paid replies or
//! hours of training must not be lost because of that.

use std::fmt::Arguments;
use std::io::{ErrorKind, Write};
use std::sync::atomic::{AtomicBool, Ordering};

static INCOMPLETE: AtomicBool = AtomicBool::new(false);

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

/// A line on standard output; see [`say!`](crate::say!).
pub fn out(words: Arguments<'_>) {
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
    let _ = writeln!(std::io::stderr(), "{words}"); // there is nowhere to report it
}

/// Whether writing to standard output failed, for instance because the disk is full.
pub fn is_incomplete() -> bool {
    INCOMPLETE.load(Ordering::Relaxed)
}
