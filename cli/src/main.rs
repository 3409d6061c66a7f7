//! The program `chancery`; everything is in the library, so that tests boot it.

/// Gives freed memory back to the system: hashing a password takes 19 MiB for a
/// moment, and the default allocator keeps them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    chancery::main()
}
