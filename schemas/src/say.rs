//! Messages to the user. The standard macros panic if the output is closed, as by `| head`; paid replies and a night of
//! training must not be lost for that.

use std::fmt::Arguments;
use std::io::{ErrorKind, Write};
use std::sync::atomic::{AtomicBool, Ordering};

static INCOMPLETE: AtomicBool = AtomicBool::new(false);

/// As `println!`, also where standard output is closed.
#[macro_export]
macro_rules! say {
    ($($words:tt)*) => { $crate::say::out(format_args!($($words)*)) };
}

/// As `eprintln!`, also where standard error is closed.
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
    let _ = writeln!(std::io::stderr(), "{words}"); // nobody is listening
}

/// Whether standard output is incomplete for its reader, for instance because the disk is full.
pub fn is_incomplete() -> bool {
    INCOMPLETE.load(Ordering::Relaxed)
}
