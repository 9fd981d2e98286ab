//! Running out of memory: libtorch's allocators refuse by a panic of the tensor operation; a training step may then be
//! tried again in smaller pieces.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind, set_hook, take_hook};

/// What `work` returns; none where an allocator refused. Any other panic goes on.
pub fn unless_out_of_memory<T>(work: impl FnOnce() -> T) -> Option<T> {
    // The message of a panic that is dealt with must not frighten the user, so it is printed only where it goes on.
    let hook = take_hook();
    set_hook(Box::new(|_| {}));
    let outcome = catch_unwind(AssertUnwindSafe(work));
    set_hook(hook);
    match outcome {
        Ok(value) => Some(value),
        Err(panic) if is_out_of_memory(&message(&panic)) => None,
        Err(panic) => {
            eprintln!("{}", message(&panic));
            resume_unwind(panic)
        }
    }
}

fn message(panic: &Box<dyn Any + Send>) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without a message").to_owned()
}

/// Whether libtorch's message says that memory ran out: of CUDA's allocator, or of the CPU's.
fn is_out_of_memory(message: &str) -> bool {
    message.contains("out of memory")
        || message.contains("DefaultCPUAllocator: can't allocate memory")
        || message.contains("DefaultCPUAllocator: not enough memory")
}

#[cfg(test)]
mod tests {
    use super::unless_out_of_memory;
    use tch::{Device, Kind, Tensor};

    #[test]
    fn a_refused_allocation_is_told_from_other_panics() {
        let too_much = || Tensor::zeros([1 << 45], (Kind::Float, Device::Cpu)).size()[0];
        assert_eq!(unless_out_of_memory(too_much), None);
        assert_eq!(unless_out_of_memory(|| 7), Some(7));
        let other = std::panic::catch_unwind(|| unless_out_of_memory(|| panic!("another reason")));
        assert!(other.is_err());
    }
}
