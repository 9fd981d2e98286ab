//! Words for the user. The standard macros panic where nobody listens any more, as behind `| head`; replies that are paid
//! for, and a night of training, must not end for that.

/// As `println!`, also where standard output is closed.
#[macro_export]
macro_rules! say {
    ($($words:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stdout(), $($words)*);
    }};
}

/// As `eprintln!`, also where standard error is closed.
#[macro_export]
macro_rules! warn {
    ($($words:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($words)*);
    }};
}
